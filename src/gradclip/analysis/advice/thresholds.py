r"""Thresholds for a total norm, from recorded norms.

Three bounds, each above more of what is usual than the one before it:

============  ========================================================================================
tight         the 90th percentile, and at most two medians
balanced      the smallest of the 99th percentile, the median times :math:`e^{3 s}`, and two medians
conservative  the median times :math:`e^{4 s}`, and at most twice the largest norm and three times balanced
============  ========================================================================================

where :math:`s = 1.4826 \cdot \text{MAD}(\log n)` is what the standard deviation of a normal distribution would be:
norms are close to lognormal, and a few spikes hardly move the median absolute deviation. A bound that would come out
below the one before it, as where half of the norms are nearly the same, is raised to that. Norms that are spread wide
would put four deviations far above all that was ever seen, where a bound holds nothing back.

References:
    Godbole, Dahl, Gilmer, Shallue and Nado, Deep Learning Tuning Playbook, 2023 (the 90th percentile).
    Yao et al., Zipformer, 2023, arXiv:2310.11230 (two medians, of recent norms, in its optimizer ScaledAdam).
    Rousseeuw and Croux, Alternatives to the median absolute deviation, JASA 88, 1993 (the factor 1.4826).
"""

from typing import NamedTuple, final

import torch
from torch import Tensor

NAMES = ("tight", "balanced", "conservative")

DEVIATIONS_OF_MAD = 1.4826
"""The standard deviation of a normal distribution whose median absolute deviation is 1."""

BALANCED, CONSERVATIVE = 3.0, 4.0
"""Robust standard deviations of log n above its median."""

MOST_MEDIANS = 2.0
"""How far the tight and the balanced threshold may be above the median: where norms are spread wide, or their level
moves, percentiles are far above all that is usual, and trained runs that were lost."""

MOST_LARGEST, MOST_BALANCED = 2.0, 3.0
"""How far the conservative threshold may be above the largest norm, and above the balanced threshold."""


@final
class Landmarks(NamedTuple):
    """What thresholds are made of: numbers of one shape.

    Attributes:
        p90: The 90th percentile of the norms.
        p99: The 99th.
        largest: The largest norm.
        center: The median of their logarithms.
        mad: The median absolute deviation of their logarithms from it.
    """

    p90: Tensor
    p99: Tensor
    largest: Tensor
    center: Tensor
    mad: Tensor

    @property
    def deviation(self) -> Tensor:
        """The robust standard deviation of the logarithms."""
        return DEVIATIONS_OF_MAD * self.mad

    def above(self, deviations: float) -> Tensor:
        """Return the norm so many robust deviations above the median."""
        return (self.center + deviations * self.deviation).exp()

    def thresholds(self) -> Tensor:
        """Return tight, balanced and conservative, in a last dimension of 3."""
        usual = MOST_MEDIANS * self.center.exp()
        tight = torch.minimum(self.p90, usual)
        balanced = torch.maximum(torch.minimum(torch.minimum(self.p99, self.above(BALANCED)), usual), tight)
        most = torch.minimum(MOST_LARGEST * self.largest, MOST_BALANCED * balanced)
        conservative = torch.maximum(torch.minimum(self.above(CONSERVATIVE), most), balanced)
        return torch.stack([tight, balanced, conservative], dim=-1)


def landmarks(norms: Tensor) -> Landmarks:
    """Return the landmarks of norms > 0, of shape (n,)."""
    ordered = norms.sort().values
    logs = ordered.log()
    center = quantile(logs, 0.5)
    mad = median((logs - center).abs())
    return Landmarks(quantile(ordered, 0.90), quantile(ordered, 0.99), ordered[-1], center, mad)


def quantile(ordered: Tensor, q: float) -> Tensor:
    """Return a quantile of sorted numbers, interpolated; `torch.quantile` takes no more than 16 million."""
    place = (len(ordered) - 1) * q
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def median(values: Tensor) -> Tensor:
    """Return the median, of an even number the mean of the two in the middle; `torch.median` returns the lower."""
    return quantile(values.sort().values, 0.5)


def share_clipped(norms: Tensor, max_norm: float) -> float:
    """Return the share of steps above a bound."""
    return (norms > max_norm).double().mean().item()


def share_removed(norms: Tensor, max_norm: float) -> float:
    """Return the share that a bound takes away of the sum of all norms."""
    return ((norms - max_norm).clamp(min=0.0).sum() / norms.sum()).item()
