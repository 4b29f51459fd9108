"""Hear what clippers do."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from gradclip.clipper import GradClipper
from gradclip.records import ClipRecord, Sinks
from gradclip.records.sinks import LISTENERS, Listener


@contextmanager
def capture_records(clipper: GradClipper | None = None) -> Generator[list[ClipRecord]]:
    """Collect a record of every clip inside a `with` statement.

    Args:
        clipper: Whose records; None for those of all clippers of the process.

    Yields:
        The list that records are added to; it keeps them afterwards.

    Example:
        >>> import torch
        >>> from gradclip import GradClipper
        >>> from gradclip.testing import capture_records
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> with capture_records() as records:
        ...     result = GradClipper([p]).clip()
        >>> [(record.status, record.total_norm) for record in records]
        [('clipped', 5.0)]
    """
    records: list[ClipRecord] = []
    sink = records.append

    def hear(record: ClipRecord, source: Sinks) -> None:  # noqa: ARG001 -- of whichever
        sink(record)

    heard_by: list[Any] = LISTENERS if clipper is None else clipper._sinks.sinks
    hears = Listener(sink, hear, at_once=True) if clipper is None else sink
    heard_by.append(hears)
    try:
        yield records
    finally:
        heard_by.remove(hears)
