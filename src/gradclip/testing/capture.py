"""Hear what clippers do."""

from collections.abc import Generator
from contextlib import contextmanager

from gradclip.clipper import GradClipper
from gradclip.records import ClipRecord
from gradclip.records.sinks import LISTENERS


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
    sinks = LISTENERS if clipper is None else clipper._sinks.sinks
    records: list[ClipRecord] = []
    sink = records.append
    sinks.append(sink)
    try:
        yield records
    finally:
        sinks.remove(sink)
