"""A run in ten stretches: the chart over its steps, for those who read it as a table."""

import math
from typing import NamedTuple, final

import torch

from gradclip.cli.report.facts import quantile
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
    places = torch.arange(len(run.series)).tensor_split(min(STRETCHES, max(1, len(run.series))))
    found: list[Stretch] = []
    for own in places:
        norms = run.series.norms[own]
        known = norms[norms.isfinite()].sort().values
        clipped = None if run.clipped is None else run.clipped[own].double().mean().item()
        largest = known[-1].item() if len(known) else math.nan
        first, last = int(run.series.steps[own[0]]), int(run.series.steps[own[-1]])
        found.append(Stretch(first, last, quantile(known, 0.5), largest, clipped))
    return found
