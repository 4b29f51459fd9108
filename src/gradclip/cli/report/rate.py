"""How often a run is clipped, in a window that moves along."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gradclip.cli.report.runs import Run
from gradclip.records.alarms import WINDOW


def window_of(runs: Sequence[Run]) -> int:
    """Return how many steps a window has, the same for all runs: the shortest has room for it.

    It is never longer than what the alarm about too much clipping looks back on.
    """
    steps = min(len(run.series) for run in runs)
    return max(1, min(steps, WINDOW, max(20, steps // 20)))


def rates_of(run: Run, window: int) -> NDArray[np.float64] | None:
    """Return the share of the last `window` steps that were clipped, at each step; NaN while there are fewer.

    None where it is not known what was clipped.
    """
    return None if run.clipped is None else pl.Series(run.clipped.double().numpy()).rolling_mean(window).to_numpy()
