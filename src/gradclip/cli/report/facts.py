"""The numbers that matter of a run."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from gradclip.cli.report.runs import Run


@final
@dataclass(frozen=True)
class Facts:
    """What a run comes to.

    Attributes:
        steps: How many steps were recorded.
        first: The number of the first; 0 of none.
        last: The number of the last; 0 of none.
        clipped: How many were clipped; None where that is not known.
        skipped: How many did not happen; None where that is not known.
        nonfinite: How many norms are NaN or infinite.
        median: The median of the finite norms; NaN of none.
        p99: Their 99th percentile.
        largest: The largest of them.
        largest_step: The step of the largest.
        largest_after: The largest known norm after clipping; NaN where none is known.
    """

    steps: int
    first: int
    last: int
    clipped: int | None
    skipped: int | None
    nonfinite: int
    median: float
    p99: float
    largest: float
    largest_step: int
    largest_after: float

    @property
    def share_clipped(self) -> float:
        """The share of all recorded steps that were clipped; NaN where it is not known."""
        return math.nan if self.clipped is None or not self.steps else self.clipped / self.steps


def facts_of(run: Run) -> Facts:
    """Return the numbers of a run."""
    series = run.series
    finite = series.finite
    norms = series.norms[finite]
    ordered = norms.sort().values
    place = int(norms.argmax()) if len(norms) else -1
    after = None if series.norms_after is None else series.norms_after[series.norms_after.isfinite()]
    return Facts(
        steps=len(series),
        first=int(series.steps[0]) if len(series) else 0,
        last=int(series.steps[-1]) if len(series) else 0,
        clipped=None if run.clipped is None else int(run.clipped.sum()),
        skipped=None if run.skipped is None else int(run.skipped.sum()),
        nonfinite=int((~finite).sum()),
        median=quantile(ordered, 0.5),
        p99=quantile(ordered, 0.99),
        largest=norms[place].item() if len(norms) else math.nan,
        largest_step=int(series.steps[finite][place]) if len(norms) else 0,
        largest_after=after.max().item() if after is not None and len(after) else math.nan,
    )


def quantile(ordered: Tensor, q: float) -> float:
    """Return a quantile of numbers in order of size, interpolated linearly; NaN of none.

    `torch.quantile` refuses more than 16 million numbers.
    """
    if not len(ordered):
        return math.nan
    place = (len(ordered) - 1) * q
    low = math.floor(place)
    pair = ordered[low : low + 2].to(torch.float64)
    return (pair[0] + (pair[-1] - pair[0]) * (place - low)).item()
