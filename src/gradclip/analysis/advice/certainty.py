"""How sure a threshold is, in one word.

`"firm"` and `"fair"` promise that another recording of the same training would put the balanced threshold into its
interval, at least three times in four; the interval of a firm one is narrow. `"rough"` promises nothing, and says why.
"""

from typing import Literal, NamedTuple, TypeAlias, final

from gradclip.analysis.advice.judged import Judged
from gradclip.analysis.advice.signs import LEAST_TAIL_INDEX, Signs
from gradclip.analysis.advice.suggestions import Suggestion
from gradclip.analysis.amounts import digits, several
from gradclip.analysis.series import Series

Grade: TypeAlias = Literal["firm", "fair", "rough"]

MOST_MOVED = 2.0
"""The factor by which the median may move over a run whose end is still like its beginning."""

MOST_SWING = 0.15
"""How much norms may say of those half a block later: blocks that are not independent make intervals too narrow."""

NARROW, WIDE = 1.25, 1.75
"""The upper end of an interval, in lower ends: of a firm threshold at most the first, of a fair one the second."""

FEW_STEPS, MANY_STEPS = 200, 400
"""Steps that are judged: fewer than the first are few, and a firm threshold has at least the second."""

MANY_LOST = 0.1
"""The share of steps with a norm of 0 that is many."""


@final
class Certainty(NamedTuple):
    """A grade, and the same in a sentence."""

    grade: Grade
    words: str


def certainty(series: Series, chosen: Judged, signs: Signs, balanced: Suggestion) -> Certainty:
    """Return how sure the balanced threshold is."""
    doubts = _doubts(series, chosen, signs, balanced)
    if doubts:
        return Certainty("rough", f"How sure: rough, because {'; '.join(doubts)}.")
    firm = balanced.high <= NARROW * balanced.low and len(chosen.norms) >= MANY_STEPS
    grade: Grade = "firm" if firm else "fair"
    within = f"{digits(balanced.low)} to {digits(balanced.high)}"
    return Certainty(grade, f"How sure: {grade}. Another recording would put the balanced threshold at {within}.")


def _doubts(series: Series, chosen: Judged, signs: Signs, balanced: Suggestion) -> list[str]:
    steps = len(chosen.norms)
    found = {
        f"{several(steps, 'step')} are few": steps < FEW_STEPS,
        "the level of the norms moves": signs.moves > MOST_MOVED,
        "the norms swing slowly": signs.swing > MOST_SWING,
        "the tail is heavy": signs.tail < LEAST_TAIL_INDEX,
        "the interval is wide": balanced.high > WIDE * balanced.low,
        "many steps have a norm of 0": chosen.zero > MANY_LOST * (steps + chosen.zero),
        "the recording ends in spikes": signs.ends_high,
        "the recording ends in norms that are not finite": not bool(series.finite[-3:].any()),
    }
    return [words for words, holds in found.items() if holds]
