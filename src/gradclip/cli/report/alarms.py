"""The alarms of a run, found by the code that raises them in training."""

import math
from dataclasses import replace
from typing import NamedTuple, final

from gradclip.analysis.as_records import Worst, records_of
from gradclip.cli.report.runs import Run
from gradclip.records import Alarms


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
    worst = {step: _worst(norms) for step, norms in run.series.each}
    for record in records_of(replace(run.series, clipped=run.clipped), worst):
        for name in alarms.feed(record):
            earlier = raised.get(name, Raised(name, record.step, 0))
            raised[name] = earlier._replace(times=earlier.times + 1)
    return list(raised.values())


def _worst(norms: dict[str, float]) -> Worst:
    largest = max(norms.values(), default=0.0)
    if not 0.0 < largest < math.inf:
        return ()
    name = max(norms, key=lambda key: norms[key])
    return ((name, 1.0 / math.fsum((norm / largest) ** 2 for norm in norms.values())),)
