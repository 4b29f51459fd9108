"""Advice on the threshold to clip at, from the norms of a run.

`judged` chooses the norms, `spells` sets spikes aside, `signs` looks at them and `course` at where the run went,
`refusals` says where no threshold should be taken from them, unless the run was only `settling`, `thresholds`,
`bootstrap` and `suggestions` make the thresholds, `verdicts` says what to do, by the `optimizers` that are known, and
`certainty` how sure that is.
"""

from gradclip.analysis.advice.answer import Advice, advise
from gradclip.analysis.advice.suggestions import Suggestion

__all__ = ["Advice", "Suggestion", "advise"]
