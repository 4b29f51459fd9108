"""How far thresholds would move, had the same training been recorded another time: the moving-block bootstrap.

A series is put together anew from blocks of consecutive steps, drawn with replacement, so that what one norm says about
the next is kept. Blocks are as long as the square root of the series.

The thresholds depend on how many norms of which size there are, and not on their order. So a block is a histogram, a
resampled series the sum of those of its blocks, and all of them are one product of matrices: how often each short
stretch is drawn, times how many of its norms are in each bin. Up to 1024 steps each norm has a bin of its own, and the
result is that of the plain bootstrap; of a million steps it takes under a second.

References:
    Künsch, The jackknife and the bootstrap for general stationary observations, Annals of Statistics 17, 1989.
    Liu and Singh, Moving blocks jackknife and bootstrap capture weak dependence, 1992.
"""

import math

import torch
from torch import Tensor

from gradclip.analysis.advice.thresholds import Landmarks

REPLICATES = 1000
LEVEL = 0.95
"""The share of resampled thresholds within an interval."""

MOST_CELLS = 2048
"""Stretches of consecutive steps that a series is cut into; a block is some of them in a row."""

MOST_BINS = 1024
"""Bins of a histogram, each with as many norms of the whole series."""


def intervals(norms: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return the ends of the interval of each threshold, as factors on it.

    Args:
        norms: Norms > 0 in the order of their steps, of shape (n,).
        seed: What blocks are drawn with.

    Returns:
        Low and high, of shape (3,).
    """
    steps = -(-len(norms) // MOST_CELLS)
    cells = len(norms) // steps
    length = max(1, round(math.sqrt(len(norms)) / steps))
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(cells - length + 1, (REPLICATES, round(cells / length)), generator=generator)
    whole = norms[len(norms) - cells * steps :].reshape(cells, steps)
    found = resampled(whole, starts, length) / resampled(whole, torch.zeros(1, 1, dtype=torch.int64), cells)
    tail = (1.0 - LEVEL) / 2.0
    low, high = found.quantile(torch.tensor([tail, 1.0 - tail], dtype=torch.float64), dim=0)
    return low, high


def resampled(norms: Tensor, starts: Tensor, length: int) -> Tensor:
    """Return the thresholds of series that are put together from blocks.

    Args:
        norms: Norms > 0, of shape (cells, steps of a cell).
        starts: The first cell of each block: int64, of shape (series, blocks).
        length: How many cells a block is long.

    Returns:
        Of shape (series, 3).
    """
    cells = len(norms)
    ordered = norms.flatten().sort().values
    bins = min(len(ordered), MOST_BINS)
    edges = torch.arange(bins + 1) * len(ordered) // bins
    first, last = ordered[edges[:-1]], ordered[edges[1:] - 1]
    places = torch.searchsorted(first, norms, right=True) - 1 + bins * torch.arange(cells)[:, None]
    histograms = places.flatten().bincount(minlength=cells * bins).reshape(cells, bins).double()

    ends = torch.zeros(len(starts), cells + 1, dtype=torch.float64)  # a block adds 1 to each of its cells
    ones = torch.ones(starts.shape, dtype=torch.float64)
    ends.scatter_add_(1, starts, ones).scatter_add_(1, starts + length, -ones)
    drawn = ends.cumsum(1)[:, :-1] @ histograms

    center = _quantile(first.log(), last.log(), drawn, 0.5)
    middles = (first.log() + last.log()) / 2.0
    distances, order = (middles - center[:, None]).abs().sort(dim=1)
    return Landmarks(
        p90=_quantile(first, last, drawn, 0.90),
        p99=_quantile(first, last, drawn, 0.99),
        largest=_quantile(first, last, drawn, 1.0),
        center=center,
        mad=_quantile(distances, distances, drawn.gather(1, order), 0.5),
    ).thresholds()


def _quantile(first: Tensor, last: Tensor, counts: Tensor, q: float) -> Tensor:
    """Return a quantile of each row of histograms, whose bins spread evenly from their first number to their last."""
    first, last = first.expand_as(counts), last.expand_as(counts)
    upto = counts.cumsum(1)
    place = (upto[:, -1:] - 1.0) * q

    def ranked(rank: Tensor) -> Tensor:
        found = torch.searchsorted(upto, rank, right=True)
        low, high, above, count = (x.gather(1, found) for x in (first, last, upto, counts))
        return high - (high - low) * (above - rank - 0.5) / count

    low, high = ranked(place.floor()), ranked(place.ceil())
    return (low + (high - low) * (place - place.floor())).squeeze(1)
