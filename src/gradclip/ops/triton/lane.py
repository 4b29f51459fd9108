"""What a thread keeps for a stream of a device: memory that is used up within one operation, and used again.

To ask for new memory takes longer than a launch. Two threads on one stream may take turns between two launches, so each
has its own.
"""

import threading
from typing import final

import torch
from torch import Tensor

from gradclip.numbers import CPU


@final
class Slot:
    """Pinned memory that a table is copied from, and the event after the copy.

    Attributes:
        host: The memory: int64 words.
        address: Where it is.
        copied: What happens once it may be written again.
    """

    __slots__ = ("address", "copied", "host")

    def __init__(self, words: int) -> None:
        self.host = torch.empty(words, dtype=torch.int64, device=CPU, pin_memory=True)
        self.address = self.host.data_ptr()
        self.copied = torch.cuda.Event()


@final
class Lane:
    """Memory for one stream.

    Attributes:
        stream: The handle of the stream.
    """

    def __init__(self, device: torch.device, stream: int) -> None:
        self.stream = stream
        self._device = device
        self._partials: Tensor | None = None
        self._slots: list[Slot] = []
        self._next = 0

    def partials(self, count: int) -> Tensor:
        """Return float64 memory for so many numbers or more, until the next call."""
        if self._partials is None or len(self._partials) < count:
            self._partials = torch.empty(count, dtype=torch.float64, device=self._device)
        return self._partials

    def slot(self, words: int) -> Slot:
        """Return pinned memory that no copy is to read any more: the oldest, or where that is not free, a new one."""
        if self._slots:
            at = self._next % len(self._slots)
            oldest = self._slots[at]
            if oldest.copied.query():
                if len(oldest.host) < words:
                    oldest = self._slots[at] = Slot(words)
                self._next = at + 1
                return oldest
        self._slots.insert(self._next, Slot(words))
        self._next += 1
        return self._slots[self._next - 1]


@final
class _Lanes(threading.local):
    def __init__(self) -> None:
        self.known: dict[tuple[torch.device, int], Lane] = {}


_LANES = _Lanes()


def lane_of(device: torch.device) -> Lane | None:
    """Return what this thread keeps for the current stream of a device.

    None inside a graph that is being captured, whose replays may run beside other work, and for devices without CUDA.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return None
    stream = torch.cuda.current_stream(device).cuda_stream
    lane = _LANES.known.get((device, stream))
    if lane is None:
        lane = _LANES.known[device, stream] = Lane(device, stream)
    return lane
