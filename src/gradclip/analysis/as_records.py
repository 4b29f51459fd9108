"""A recorded run as the records that it was made of, as far as alarms look at them."""

import math
from collections.abc import Iterator, Mapping

from gradclip.analysis.series import Series, Worst
from gradclip.records import ClipRecord


def records_of(run: Series, worst: Mapping[int, Worst], first: int = 0) -> Iterator[ClipRecord]:
    """Return the rows of a run one by one, from one on, with the parameters of the largest norms at some steps."""
    count = len(run) - first
    unknown, never = [math.nan] * count, [False] * count
    after, thresholds, clipped, skipped = (
        otherwise if column is None else column[first:].tolist()
        for column, otherwise in (
            (run.norms_after, unknown),
            (run.thresholds, unknown),
            (run.clipped, never),
            (run.skipped, never),
        )
    )
    statuses = {event.step: event.status for event in run.events}
    columns = (run.steps[first:].tolist(), run.norms[first:].tolist(), after, thresholds, clipped, skipped)
    for step, norm, left, threshold, was_clipped, was_skipped in zip(*columns, strict=True):
        taken = "clipped" if was_clipped else "ok"
        status = statuses.get(step, "skipped_nonfinite") if was_skipped else taken
        coefficient = left / norm if norm > 0.0 else math.nan
        yield ClipRecord(step, 0.0, status, norm, left, threshold, coefficient, "", worst.get(step, ()))
