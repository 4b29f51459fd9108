"""A run in ten stretches: the chart over its steps, for those who read it as a table."""

import math
from typing import NamedTuple, final

import numpy as np

from gradclip.cli.report.runs import Run

STRETCHES = 10


@final
class Stretch(NamedTuple):
    """Some steps in a row: the first and the last, median and largest of the finite norms, and the share clipped."""

    first: int
    last: int
    median: float
    largest: float
    share_clipped: float | None


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
