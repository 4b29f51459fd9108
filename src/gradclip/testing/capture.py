"""Hear what clippers do."""

from collections.abc import Generator
from contextlib import contextmanager

from gradclip.clipper import GradClipper
from gradclip.records import ClipRecord, Sinks
from gradclip.records.sinks import LISTENERS, Listener


@contextmanager
def capture_records(clipper: GradClipper | None = None) -> Generator[list[ClipRecord]]:
    """Collect a record of every clip inside a `with` statement.

    Args:
        clipper: The clipper whose records to collect; None for all clippers of the process.

    Yields:
        The list that records are added to; it keeps them after the `with` statement.

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

    def hear(record: ClipRecord, source: Sinks) -> None:
        if clipper is None or source is clipper._sinks:
            records.append(record)

    listener = Listener(records.append, hear, at_once=True)
    LISTENERS.append(listener)
    try:
        yield records
    finally:
        LISTENERS.remove(listener)
