"""What is kept for a stream of a device: memory that is used up within one operation, and used again.

To ask for new memory takes longer than a launch.
"""

import threading
from collections import defaultdict, deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from torch import Tensor

from gradclip.numbers import CPU
from gradclip.tracing import is_captured


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one, where it is not."""
    if device.type == "cpu":
        return nullcontext()
    module: Any = torch.get_device_module(device)
    return nullcontext() if module.current_device() == device.index else module.device(device)


def pinned(words: int) -> Tensor:
    """Return int64 memory on the host that is copied without a wait."""
    return torch.empty(words, dtype=torch.int64, device=CPU, pin_memory=True)


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
        self.host = pinned(words)
        self.address = self.host.data_ptr()
        self.copied = torch.cuda.Event()


@final
class Slots:
    """The pinned memory of a device, which outlives threads: a copy may be under way when one ends.

    Each stream has its own: in one, the oldest is free first, while another may be held up for long.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, deque[Slot]] = defaultdict(deque)
        self._spare: Tensor | None = None

    def take(self, words: int, stream: int) -> Slot:
        """Return memory that no copy reads any more: the oldest of a stream, or where that is not free, new memory."""
        free = self._free[stream]
        try:
            slot = free.popleft()
        except IndexError:
            return self._new(words)
        if not slot.copied.query():
            free.appendleft(slot)
            return self._new(words)
        return slot if slot.host.numel() >= words else self._new(words)

    def give_back(self, slot: Slot, stream: int) -> None:
        """Take memory back whose copy is under way in a stream, and its event recorded."""
        self._free[stream].append(slot)

    def take_spare(self, words: int) -> Tensor | None:
        """Return memory for a graph that is captured: older torch can pin none then. Nobody gives it back."""
        spare, self._spare = self._spare, None
        return spare if spare is not None and len(spare) >= words else None

    def _new(self, words: int) -> Slot:
        if self._spare is None or len(self._spare) < words:
            self._spare = pinned(words)
        return Slot(words)


_SLOTS: dict[torch.device, Slots] = {}


def slots_of(device: torch.device) -> Slots:
    """Return the pinned memory of a device."""
    return _SLOTS.setdefault(device, Slots())


@final
class Lane:
    """What a thread keeps for one stream; two threads on one stream may take turns between two launches.

    Attributes:
        device: The device.
        stream: The stream.
        handle: What the driver calls it.
        slots: The pinned memory of the device.
        plans: The clips that it has made there, by the form of their tables.
    """

    def __init__(self, device: torch.device, stream: Any) -> None:
        self.device = device
        self.stream = stream
        self.handle: int = stream.cuda_stream
        self.slots = slots_of(device)
        self.plans: dict[Any, Any] = {}
        self._partials: Tensor | None = None

    def partials(self, count: int) -> Tensor:
        """Return float64 memory for so many numbers or more, until the next call."""
        if self._partials is None or len(self._partials) < count:
            self._partials = torch.empty(count, dtype=torch.float64, device=self.device)
        return self._partials


def partials_of(chunks: int, device: torch.device, lane: Lane | None) -> Tensor:
    """Return memory for the partials of chunks, which are used up before the next are asked for."""
    count = max(1, chunks)  # what combines none writes all the same
    return torch.empty(count, dtype=torch.float64, device=device) if lane is None else lane.partials(count)


@final
class _Lanes(threading.local):
    def __init__(self) -> None:
        self.known: dict[tuple[torch.device, int], Lane] = {}


_LANES = _Lanes()


def lane_of(device: torch.device) -> Lane | None:
    """Return what this thread keeps for the current stream of a device.

    None inside a graph that is being captured, whose replays may run beside other work, and for devices without CUDA.
    """
    if device.type != "cuda" or is_captured(device):
        return None
    stream = torch.cuda.current_stream(device.index)  # torch takes twice as long to look at a device
    lane = _LANES.known.get((device, stream.cuda_stream))
    if lane is None:
        with on(device):
            torch.cuda.Event().record()  # the driver launches nothing in a thread that has no context yet
        lane = _LANES.known[device, stream.cuda_stream] = Lane(device, stream)
    return lane
