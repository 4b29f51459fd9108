"""The alarms of a run, found by the code that raises them in training."""

import math
from collections.abc import Iterator
from typing import NamedTuple, final

from gradclip.cli.report.runs import Run
from gradclip.records import Alarms, ClipRecord
from gradclip.records.alarms import MEANINGS

__all__ = ["MEANINGS", "Raised", "alarms_of"]


@final
class Raised(NamedTuple):
    """An alarm: when it began for the first time, and how many times in all."""

    name: str
    first_step: int
    times: int


def alarms_of(run: Run) -> list[Raised]:
    """Return the alarms of a run in the order in which they first began."""
    alarms = Alarms()
    raised: dict[str, Raised] = {}
    for record in _records(run):
        for name in alarms.feed(record):
            earlier = raised.get(name, Raised(name, record.step, 0))
            raised[name] = earlier._replace(times=earlier.times + 1)
    return list(raised.values())


def _records(run: Run) -> Iterator[ClipRecord]:
    series = run.series
    count = len(series)
    unknown = [math.nan] * count
    never = [False] * count
    after = unknown if series.norms_after is None else series.norms_after.tolist()
    thresholds = unknown if series.thresholds is None else series.thresholds.tolist()
    clipped = never if run.clipped is None else run.clipped.tolist()
    skipped = never if run.skipped is None else run.skipped.tolist()
    statuses = {event.step: event.status for event in series.events}
    each = dict(series.each)
    columns = (series.steps.tolist(), series.norms.tolist(), after, thresholds, clipped, skipped)
    for step, norm, left, threshold, was_clipped, was_skipped in zip(*columns, strict=True):
        taken = "clipped" if was_clipped else "ok"
        yield ClipRecord(
            step=step,
            time=0.0,
            status=statuses.get(step, "skipped_nonfinite") if was_skipped else taken,
            total_norm=norm,
            total_norm_after=left,
            threshold=threshold,
            coefficient=left / norm if norm > 0.0 else math.nan,
            policy="",
            worst=_worst(each[step]) if step in each else (),
        )


def _worst(norms: dict[str, float]) -> tuple[tuple[str, float], ...]:
    largest = max(norms.values(), default=0.0)
    if not 0.0 < largest < math.inf:
        return ()
    name = max(norms, key=lambda key: norms[key])
    return ((name, 1.0 / math.fsum((norm / largest) ** 2 for norm in norms.values())),)
