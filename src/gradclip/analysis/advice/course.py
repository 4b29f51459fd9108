"""Where a run went, from its first steps on: a run that explodes at once may look calm ever after."""

import math
from typing import NamedTuple, final

import torch
from torch import Tensor

from gradclip.analysis.advice.judged import Judged
from gradclip.analysis.advice.thresholds import median
from gradclip.analysis.series import Series

FIRST = 3
"""Steps that a run begins with: the model is still nearly what it was made as."""


@final
class Course(NamedTuple):
    """What became of norm and loss.

    Attributes:
        leap: The median of the judged norms, in medians of the first three steps; NaN where these are not known.
        loss_rise: The median loss of the last quarter, in medians of the first three steps; NaN where it is not known,
            or is not always above 0, as that of an agent, which says nothing by its size.
    """

    leap: float
    loss_rise: float


def course(series: Series, chosen: Judged) -> Course:
    """Return the course of a run."""
    leap = median(chosen.norms).item() / _usual(series.norms[:FIRST])
    if series.losses is None:
        return Course(leap, loss_rise=math.nan)
    losses = series.losses[chosen.places]
    start, late = _usual(series.losses[:FIRST]), _usual(losses[-(len(losses) // 4) :])
    return Course(leap, math.nan if bool((series.losses <= 0.0).any()) else late / start)


def _usual(values: Tensor) -> float:
    """Return the median of the finite values other than 0; NaN of none."""
    known = values[torch.isfinite(values) & (values != 0.0)]
    return median(known).item() if len(known) else math.nan
