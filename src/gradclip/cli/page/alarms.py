"""The alarms of a run, found by the code that raises them in training."""

from typing import NamedTuple, final

from gradclip.analysis.as_clips import clips_of
from gradclip.analysis.series import Series
from gradclip.cli.page.tensors import Tensors
from gradclip.records import Alarms


@final
class Raised(NamedTuple):
    """An alarm: when it began for the first time, and how many times in all."""

    name: str
    first_step: int
    times: int


def alarms_of(series: Series, tensors: Tensors | None) -> list[Raised]:
    """Return the alarms of a run in the order in which they first began."""
    alarms = Alarms()
    raised: dict[str, Raised] = {}
    worst = {**(tensors.worst if tensors else {}), **dict(series.worst)}  # as recorded, where it was
    for record in clips_of(series, worst):
        for name in alarms.feed(record):
            earlier = raised.get(name, Raised(name, record.step, 0))
            raised[name] = earlier._replace(times=earlier.times + 1)
    return list(raised.values())
