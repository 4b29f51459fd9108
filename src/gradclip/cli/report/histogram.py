"""How norms are spread, on a logarithmic scale."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from gradclip.cli.report.facts import quantile
from gradclip.cli.report.runs import Run

FEWEST, MOST = 24, 160
"""How many bins there are."""


@final
@dataclass(frozen=True)
class Histogram:
    """The counts of norms between edges.

    Attributes:
        edges: Decimal logarithms of norms, one more than there are bins, at equal distances.
        counts: How many norms of each run are in each bin.
        totals: How many positive finite norms each run has.
    """

    edges: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]
    totals: tuple[int, ...]

    def data(self) -> dict[str, Any]:
        """Return it for the page."""
        return {"edges": self.edges, "counts": self.counts, "totals": self.totals}


def histogram_of(runs: list[Run]) -> Histogram | None:
    """Return the histogram of the runs in common bins; None where no norm is positive and finite."""
    logs = [norms[norms > 0].log10() for norms in (run.finite_norms for run in runs)]
    known = torch.cat(logs).sort().values
    if not len(known):
        return None
    low, high = known[0].item(), known[-1].item()
    if high - low < 1e-6:  # noqa: PLR2004 -- all alike: bins of some width all the same
        low, high = low - 0.05, high + 0.05
    bins = _bins(known, high - low)
    width = (high - low) / bins
    return Histogram(
        edges=tuple(low + width * i for i in range(bins + 1)),
        counts=tuple(_counts(values, low, width, bins) for values in logs),
        totals=tuple(len(values) for values in logs),
    )


def _bins(ordered: Tensor, spread: float) -> int:
    """Return how many bins show the shape: by the rule of Freedman and Diaconis, within reason."""
    middle = quantile(ordered, 0.75) - quantile(ordered, 0.25)
    width = 2.0 * middle / len(ordered) ** (1.0 / 3.0)
    return FEWEST if width <= 0.0 else max(FEWEST, min(MOST, math.ceil(spread / width)))


def _counts(values: Tensor, low: float, width: float, bins: int) -> tuple[int, ...]:
    places = ((values - low) / width).floor().to(torch.int64).clamp(0, bins - 1)
    return tuple(torch.bincount(places, minlength=bins).tolist())
