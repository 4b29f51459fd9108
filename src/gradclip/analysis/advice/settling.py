"""A run that takes longer to settle than its warm-up: healthy, though its first norms are far above all others."""

import math

from torch import Tensor

from gradclip.analysis.advice.course import course
from gradclip.analysis.advice.finding import MOSTLY
from gradclip.analysis.advice.judged import Judged, judged
from gradclip.analysis.advice.refusals import FEWEST, refuse
from gradclip.analysis.advice.signs import PIECES, Signs, signs
from gradclip.analysis.advice.thresholds import median
from gradclip.analysis.series import Series, spacing

LATER = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""Shares of the steps that are tried as a longer warm-up."""

NEAR = 1.5
"""How far above the level of the second half the norms may begin after it."""


def settled(series: Series, chosen: Judged, found: Signs) -> Judged | None:
    """Return the norms to judge where a run first had to settle; None where it did not, or never did.

    They begin where the norms are down; where that takes more than half of the run, where they look healthy.

    A run settles where most of its largest norms are early, none of its pieces is above the first, and the norms are
    not above those of the first three steps. An explosion leaves the norms where they began.
    """
    falls = found.early > MOSTLY and found.begins_highest and not course(series, chosen).leap > 1.0
    if not falls or not (found.explosive_tail or found.explosive_spread):
        return None
    steps = len(series) * spacing(series.steps)
    tried = [judged(series, math.ceil(share * steps)) for share in LATER]
    accepted = [x for x in tried if len(x.norms) >= FEWEST and refuse(series, x, signs(x.norms)) is None]
    return next((x for x in accepted if _is_down(x.norms)), next(iter(accepted), None))


def _is_down(norms: Tensor) -> bool:
    """Whether the norms begin near the level of their second half."""
    beginning, end = norms[: len(norms) // PIECES], norms[len(norms) // 2 :]
    return bool(median(beginning) < NEAR * median(end))
