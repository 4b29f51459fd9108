"""How often a run is clipped, in a window that moves along."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradclip.cli.report.runs import Run

LARGEST_WINDOW = 500
"""Steps that the alarm about too much clipping looks back on."""


def window_of(runs: Sequence[Run]) -> int:
    """Return how many steps a window has, the same for all runs: the shortest has room for it."""
    steps = min(len(run.series) for run in runs)
    return max(1, min(steps, LARGEST_WINDOW, max(20, steps // 20)))


def rates_of(run: Run, window: int) -> NDArray[np.float64] | None:
    """Return the share of the last `window` steps that were clipped, at each step; NaN while there are fewer.

    None where it is not known what was clipped.
    """
    if run.clipped is None:
        return None
    total = np.cumsum(np.concatenate([[0], run.clipped.numpy()]))
    return np.concatenate([np.full(window - 1, np.nan), (total[window:] - total[:-window]) / window])
