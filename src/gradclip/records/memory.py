"""Records in memory."""

from collections import deque
from typing import final

from gradclip.records.record import ClipRecord


@final
class Memory:
    """A sink that keeps records in memory.

    Args:
        maxlen: How many of the most recent records to keep; None for all. A record takes about half a kilobyte, and
            more if it has norms.

    Attributes:
        records: The records, the oldest first.

    Example:
        >>> import torch, gradclip
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> memory = gradclip.records.Memory(maxlen=2)
        >>> clipper = gradclip.GradClipper([p], sinks=[memory])
        >>> results = [clipper.clip() for _ in range(3)]
        >>> [record.step for record in memory.records]
        [2, 3]
    """

    def __init__(self, maxlen: int | None = None) -> None:
        self.records: deque[ClipRecord] = deque(maxlen=maxlen)

    def __call__(self, record: ClipRecord) -> None:
        """Keep a record."""
        self.records.append(record)

    def __repr__(self) -> str:
        return f"Memory({len(self.records)} records)"
