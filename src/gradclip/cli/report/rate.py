"""How often a run is clipped, in a window that moves along."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradclip.cli.report.columns import axis, column
from gradclip.cli.report.runs import Run

LARGEST_WINDOW = 500
"""Steps that the alarm about too much clipping looks back on."""

FINEST = 20_000
"""Points that are kept apart."""


def window_of(runs: Sequence[Run]) -> int:
    """Return how many steps a window has, the same for all runs: the shortest has room for it."""
    steps = min(len(run.series) for run in runs)
    return max(1, min(steps, LARGEST_WINDOW, max(20, steps // 20)))


def rates(clipped: Tensor, window: int) -> Tensor:
    """Return the share of the last `window` steps that were clipped, at each step; NaN while there are fewer."""
    total = torch.cat([torch.zeros(1, dtype=torch.int64), clipped.to(torch.int64).cumsum(0)])
    shares = (total[window:] - total[:-window]).to(torch.float64) / window
    return torch.cat([shares.new_full((window - 1,), math.nan), shares])


def rate_of(run: Run, window: int) -> dict[str, Any] | None:
    """Return the curve for the page, in per cent; None where clipping is not recorded."""
    if run.clipped is None:
        return None
    bucket = -(-len(run.series) // FINEST)
    return {
        **axis(run.series.steps, bucket),
        "rate": column(100.0 * rates(run.clipped, window), bucket),
    }
