"""Where records go: any callables that take one."""

import warnings
from collections.abc import Callable
from typing import TypeAlias, final

from gradclip.records.record import ClipRecord

Sink: TypeAlias = Callable[[ClipRecord], object]

LISTENERS: list[Sink] = []
"""Who hears the records of all clippers of the process; `gradclip.testing.capture_records` does."""


@final
class Sinks:
    """The sinks of one clipper. One that fails is dropped with a warning: training goes on.

    Attributes:
        sinks: The sinks there are now.
    """

    def __init__(self, sinks: tuple[Sink, ...]) -> None:
        self.sinks = list(sinks)

    @property
    def wanted(self) -> bool:
        """Whether anybody would read a record."""
        return bool(self.sinks or LISTENERS)

    def emit(self, record: ClipRecord) -> None:
        """Give a record to every sink."""
        for sinks in (self.sinks, LISTENERS):
            for sink in tuple(sinks):
                if (error := _failure(sink, record)) is not None:
                    sinks.remove(sink)
                    message = f"The sink {sink!r} failed at step {record.step} and is dropped: {error!r}"
                    warnings.warn(message, stacklevel=2)


def _failure(sink: Sink, record: ClipRecord) -> Exception | None:
    try:
        sink(record)
    except Exception as error:  # noqa: BLE001 -- whatever a sink does, training goes on
        return error
    return None
