"""The bound that a run was recorded under, and what it did."""

import math
from typing import NamedTuple, final

from gradclip.analysis.advice.judged import Judged
from gradclip.analysis.amounts import digits
from gradclip.analysis.series import Series

KNOWN = 0.5
"""The share of steps whose bound is to be known for a bound that stays."""


@final
class Bound(NamedTuple):
    """What the norms were held against in the recorded run.

    Attributes:
        value: The bound; NaN if it moved.
        share: The share of the judged steps above it.
        coefficient: What steps were multiplied by, on average.
    """

    value: float
    share: float
    coefficient: float

    @property
    def moves(self) -> bool:
        """Whether it moved."""
        return math.isnan(self.value)

    @property
    def words(self) -> str:
        """The bound, as a sentence goes on with it."""
        return "the moving bound" if self.moves else f"the bound of {digits(self.value)}"


def recorded_bound(series: Series, chosen: Judged) -> Bound | None:
    """Return the bound of a run; None where there was none, or it is not known.

    A step without a finite bound had none, as most steps under `ZClip`. A bound that stays is also that of the steps
    where it is missing.
    """
    if series.thresholds is None:
        return None
    bounds = series.thresholds[chosen.places]
    known = bounds[bounds.isfinite()]
    if not len(known):
        return None
    stays = bool((known == known[0]).all()) and len(known) > KNOWN * len(bounds)
    bounds = known[0].expand_as(bounds) if stays else bounds.nan_to_num(nan=math.inf)
    return Bound(
        value=known[0].item() if stays else math.nan,
        share=(chosen.norms > bounds).double().mean().item(),
        coefficient=(bounds / chosen.norms).clamp(max=1.0).mean().item(),
    )


@final
class Shortened(NamedTuple):
    """What was done to steps that were clipped without a bound on the total norm, as by groups or by parameters.

    Attributes:
        share: The share of the judged steps that were.
        coefficient: What these were multiplied by, on average; NaN where nobody knows.
    """

    share: float
    coefficient: float


def shortened(series: Series, chosen: Judged) -> Shortened | None:
    """Return what a run did to steps without a finite bound; None where no file says which steps were clipped."""
    if series.clipped is None:
        return None
    without = series.clipped[chosen.places]
    if series.thresholds is not None:
        without = without & ~series.thresholds[chosen.places].isfinite()
    after = chosen.norms * math.nan if series.norms_after is None else series.norms_after[chosen.places]
    return Shortened(without.double().mean().item(), (after / chosen.norms)[without].nanmean().item())
