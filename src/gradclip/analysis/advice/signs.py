"""Signs in recorded norms: of an explosion, of spikes, and of a level that moves."""

import math
from typing import NamedTuple, final

import torch
from torch import Tensor

from gradclip.analysis.advice.spells import spikes, without_spells
from gradclip.analysis.advice.thresholds import Landmarks, landmarks, median

TAIL, LEAST_TAIL_INDEX = 0.1, 2.0
"""The share of norms that is the tail, and the tail index below which it is that of an explosion: norms whose variance
is infinite. Healthy training has 4 and more."""

MOST_SPREAD = 100.0
"""The largest norm, in medians, of a recording that is not suspected."""

MOST_GROWTH = 10.0
"""How many times the median of the first quarter that of the last quarter may be, whatever the loss does: norms rise
in runs that are well, too."""

FEW = 0.01
"""The share of norms that may be far off in a healthy run. They stand alone where the rest shows no sign."""

REACH = 3.0
"""Robust deviations within which norms count in full for how they swing."""

MOST_DRIFT = 3.0
"""The factor by which the median may move over the run for a constant to fit all of it."""

PIECES = 20
"""Medians of consecutive steps that the drift is fitted to."""

LARGEST_LOG = 700.0
"""Of a factor that is said: the exponential of no more is a float."""


@final
class Signs(NamedTuple):
    """What a series of norms looks like.

    Attributes:
        median: The median.
        largest: The largest norm.
        tail: The tail index of the largest tenth.
        spread: The largest norm, in medians.
        growth: The median of the last quarter, in medians of the first.
        drift: The factor by which the median moves over the run, by a straight line through its logarithm.
        spikes: How many norms are spikes.
        aside: How many norms are set aside as spikes, or as what trails them.
        explosive_tail: Whether the tail is that of an explosion, and not because of a few norms.
        explosive_spread: Whether the spread is that of an explosion, and not because of a few norms.
        ends_high: Whether the last norms are spikes.
        early: The share of the largest tenth that the first quarter of the steps has.
        begins_highest: Whether no piece of the run has a higher median than the first.
        swing: The correlation between the logarithms of norms that are half a block of the bootstrap apart: near 0
            where blocks are nearly independent.
    """

    median: float
    largest: float
    tail: float
    spread: float
    growth: float
    drift: float
    spikes: int
    aside: int
    explosive_tail: bool
    explosive_spread: bool
    ends_high: bool
    early: float
    begins_highest: bool
    swing: float

    @property
    def moves(self) -> float:
        """The factor by which the level moves, up or down."""
        return max(self.drift, self.growth, 1.0 / self.drift)

    @property
    def drifting(self) -> bool:
        """Whether it moves too far for a constant to fit all of the run."""
        return self.moves > MOST_DRIFT


def signs(norms: Tensor) -> Signs:
    """Return the signs in norms > 0 in the order of their steps, of shape (n,), n >= 20."""
    largest_first, order = norms.sort(descending=True)
    largest = largest_first[0].item()
    found = landmarks(norms)
    middle, spiky = found.center.exp().item(), spikes(norms, found)
    rest = without_spells(norms, found).sort(descending=True).values
    few = max(1, int(FEW * len(norms)))
    top = _in_tail(norms)
    quarter = len(norms) // 4
    medians = _of_pieces(norms)
    return Signs(
        median=middle,
        largest=largest,
        tail=tail_index(largest_first),
        spread=largest / middle,
        growth=(median(norms[-quarter:]) / median(norms[:quarter])).item(),
        drift=_drift(medians),
        spikes=int(spiky.sum()),
        aside=len(norms) - len(rest),
        explosive_tail=_explosive(rest, few),
        explosive_spread=rest[few].item() > MOST_SPREAD * middle,
        ends_high=bool(spiky[-3:].all()),
        early=(order[:top] < quarter).double().mean().item(),
        begins_highest=int(medians.argmax()) == 0,
        swing=_swing(norms, found),
    )


def tail_index(largest_first: Tensor, aside: int = 0) -> float:
    r"""Return the tail index of the largest tenth: Hill's estimate, the reciprocal of a mean of logarithms.

    .. math:: \hat\alpha = k \Big/ \sum_{i=1}^{k} \log \frac{n_{(i)}}{n_{(k+1)}}

    Args:
        largest_first: Norms > 0, sorted.
        aside: How many of the largest count as no larger than the next one, and the divisor is k less these: what is
            left of the tail, as if these norms had only been seen to be larger.

    Returns:
        The index; infinite where the tail is one norm over and over.

    References:
        Hill, A simple general approach to inference about the tail of a distribution, Annals of Statistics 3, 1975.
        Bhattacharya, Kallitsis and Stoev, Trimming the Hill estimator, 2017, arXiv:1705.03088.
    """
    k = _in_tail(largest_first)
    excess = (largest_first[:k] / largest_first[k]).log()
    total = excess[aside:].sum() + aside * excess[aside]
    return ((k - aside) / total).item()


def _of_pieces(norms: Tensor) -> Tensor:
    """Return the median of the logarithms in each piece of the run."""
    return torch.stack([median(piece.log()) for piece in norms.tensor_split(PIECES)])


def _drift(medians: Tensor) -> float:
    """Return the factor by which the median moves from the first piece to the last, by the slope of Theil and Sen.

    It is the median of the slopes between all pairs of pieces: a fast fall in the beginning does not count as drift.
    """
    rows, columns = torch.triu_indices(PIECES, PIECES, offset=1)
    slopes = (medians[columns] - medians[rows]) / (columns - rows)
    return math.exp(max(-LARGEST_LOG, min((PIECES - 1) * median(slopes).item(), LARGEST_LOG)))


def _swing(norms: Tensor, found: Landmarks) -> float:
    apart = round(math.sqrt(len(norms)) / 2.0)
    reach = REACH * found.deviation
    logs = norms.log().clamp(found.center - reach, found.center + reach)  # of which no spike is all of the variance
    correlation = torch.corrcoef(torch.stack([logs[:-apart], logs[apart:]]))[0, 1].item()
    return 0.0 if math.isnan(correlation) else correlation


def _in_tail(norms: Tensor) -> int:
    return math.ceil(TAIL * len(norms))


def _explosive(largest_first: Tensor, few: int) -> bool:
    """Whether the tail index is below the limit by more than its standard error, and below it without a few norms."""
    error = 1.0 / math.sqrt(_in_tail(largest_first))
    whole = tail_index(largest_first) * (1.0 + error) < LEAST_TAIL_INDEX
    return whole and tail_index(largest_first, few) < LEAST_TAIL_INDEX
