"""The runs of a report: their names, and what is known of each of their steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from gradclip.analysis.series import Series

MOST_RUNS = 6
"""How many runs a report can hold: as many colours as every kind of colour vision tells apart."""


@final
@dataclass(frozen=True, eq=False)
class Run:
    """A run as the report sees it.

    Attributes:
        name: What the report calls it.
        series: What was recorded.
    """

    name: str
    series: Series

    @property
    def clipped(self) -> Tensor | None:
        """Whether each step was clipped, where that is recorded or can be told: bool, of shape (n,)."""
        series = self.series
        if series.clipped is not None:
            return series.clipped
        if series.thresholds is None or not series.thresholds.isfinite().any():
            return None
        return (series.norms > series.thresholds) & series.finite

    @property
    def finite_norms(self) -> Tensor:
        """The finite norms, in order."""
        return self.series.norms[self.series.finite]

    @property
    def times(self) -> tuple[float, float] | None:
        """The first and the last known moment, in seconds since 1970."""
        times = self.series.times
        if times is None or not times.isfinite().any():
            return None
        known = times[times.isfinite()]
        return known.min().item(), known.max().item()

    @property
    def threshold(self) -> float | None:
        """The threshold, where one finite number was that of all steps."""
        thresholds = self.series.thresholds
        if thresholds is None:
            return None
        known = thresholds[thresholds.isfinite()]
        return known[0].item() if len(known) and bool(torch.all(known == known[0])) else None


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return short names that tell files apart: as much of the end of each path as it takes.

    Example:
        >>> names_of([Path("runs/a/clip.jsonl"), Path("runs/b/clip.jsonl"), Path("runs/old.csv")])
        ['a/clip.jsonl', 'b/clip.jsonl', 'old.csv']
    """
    return [_name(path, [other for j, other in enumerate(paths) if j != i]) for i, path in enumerate(paths)]


def _name(path: Path, others: Sequence[Path]) -> str:
    parts = [part for part in path.parts if part not in {path.anchor, ".", ".."}]
    for length in range(1, len(parts) + 1):
        end = parts[-length:]
        if all(list(other.parts[-length:]) != end for other in others):
            return "/".join(end)
    return "/".join(parts[-2:])
