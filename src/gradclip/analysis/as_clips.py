"""A recorded run as the clips that it was made of, as far as alarms look at them."""

import math
from collections.abc import Iterator, Mapping
from itertools import repeat

import torch

from gradclip.analysis.series import Series, Worst
from gradclip.records.alarms import Row


def clips_of(run: Series, worst: Mapping[int, Worst], first: int = 0) -> Iterator[Row]:
    """Return the clips of a run one by one, from one on, with the parameters of the largest norms at some steps."""
    steps, norms = run.steps[first:].tolist(), run.norms[first:]
    unknown, never = torch.full_like(norms, math.nan), torch.zeros_like(norms, dtype=torch.bool)
    after, thresholds = (unknown if each is None else each[first:] for each in (run.norms_after, run.thresholds))
    clipped, skipped = (never if each is None else each[first:] for each in (run.clipped, run.skipped))
    statuses = ["clipped" if was_clipped else "ok" for was_clipped in clipped.tolist()]
    named = {event.step: event.status for event in run.events}
    for place in skipped.nonzero().flatten().tolist():
        statuses[place] = named.get(steps[place], "skipped_nonfinite")
    coefficients = torch.where(norms > 0.0, after / norms, math.nan)
    columns = (steps, statuses, norms.tolist(), thresholds.tolist(), coefficients.tolist())
    return map(Row._make, zip(*columns, map(worst.get, steps, repeat(())), strict=True))
