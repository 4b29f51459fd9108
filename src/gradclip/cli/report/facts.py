"""The numbers that matter of a run, or of a part of it."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from gradclip.analysis.series import Series
from gradclip.cli.report.runs import Run

PERCENTILES = (1, 10, 50, 90, 99, 99.9, 100)

STRETCHES = 10


@final
@dataclass(frozen=True)
class Facts:
    """What some steps come to: how many there are of each kind, and their finite norms before and after clipping.

    A count is None where it is not known, a norm is NaN where there is none, and 0 is the step of none.
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
    steps, finite = series.steps.numpy(), series.finite.numpy()
    norms = run.finite_norms.numpy()
    after = None if series.norms_after is None else series.norms_after[series.norms_after.isfinite()]
    median, p99, largest = np.quantile(norms, (0.5, 0.99, 1.0)).tolist() if len(norms) else (math.nan,) * 3
    return Facts(
        steps=len(series),
        first=int(steps[0]) if len(steps) else 0,
        last=int(steps[-1]) if len(steps) else 0,
        clipped=None if run.clipped is None else int(run.clipped.sum()),
        skipped=None if series.skipped is None else int(series.skipped.sum()),
        nonfinite=int((~finite).sum()),
        median=median,
        p99=p99,
        largest=largest,
        largest_step=int(steps[finite][norms.argmax()]) if len(norms) else 0,
        largest_after=after.max().item() if after is not None and len(after) else math.nan,
    )


def percentiles_of(run: Run) -> dict[str, float]:
    """Return percentiles of the finite norms of a run, of which there is one at least."""
    found = np.percentile(run.finite_norms.numpy(), PERCENTILES).tolist() if len(run.finite_norms) else []
    return {f"{percentile:g}": norm for percentile, norm in zip(PERCENTILES, found, strict=False)}


def stretches_of(run: Run) -> list[Facts]:
    """Return the numbers of stretches of a run, each with as many steps: its chart as a table."""
    series = run.series
    columns = (series.steps, series.norms, run.clipped)
    count = min(STRETCHES, len(series))
    split = ([None] * count if column is None else column.tensor_split(count) for column in columns)
    parts = (Series("", steps, norms, clipped=clipped) for steps, norms, clipped in zip(*split, strict=True))
    return [facts_of(Run("", part)) for part in parts]
