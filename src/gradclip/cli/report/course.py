"""A run over its steps: how often it is clipped in a window that moves along, and ten stretches of it."""

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from gradclip.cli.report.runs import Run

LARGEST_WINDOW = 500
"""Steps that the alarm about too much clipping looks back on."""

STRETCHES = 10


@final
class Stretch(NamedTuple):
    """Some steps in a row: the first and the last, median and largest of the finite norms, and the share clipped."""

    first: int
    last: int
    median: float
    largest: float
    share_clipped: float | None


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


def stretches_of(run: Run) -> list[Stretch]:
    """Return the stretches of a run, each with as many steps."""
    steps, norms = run.series.steps.numpy(), run.series.norms.numpy()
    found: list[Stretch] = []
    for own in np.array_split(np.arange(len(steps)), min(STRETCHES, len(steps))):
        known = norms[own][np.isfinite(norms[own])]
        median, largest = (float(np.median(known)), float(known.max())) if len(known) else (math.nan, math.nan)
        clipped = None if run.clipped is None else float(run.clipped.numpy()[own].mean())
        found.append(Stretch(int(steps[own[0]]), int(steps[own[-1]]), median, largest, clipped))
    return found
