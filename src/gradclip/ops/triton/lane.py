"""What is kept for a stream of a device: memory that is used up within one operation, and used again.

To ask for new memory takes longer than a launch.
"""

import threading
from collections import defaultdict, deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from gradclip.numbers import CPU
from gradclip.ops.triton import driver
from gradclip.torch_private import current_cuda_device, current_cuda_stream
from gradclip.tracing import is_captured

AT_ONCE = 16
"""Clips whose numbers are asked for at once: what is asked for the first time after a step takes ten times as long."""

HERE: AbstractContextManager[object] = nullcontext()


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one, where it is not."""
    if device.type == "cpu" or (device.type == "cuda" and current_cuda_device() == device.index):
        return HERE
    return torch.get_device_module(device).device(device)


def pinned(words: int) -> Tensor:
    """Return int64 memory on the host that is copied without a wait."""
    return torch.empty(words, dtype=torch.int64, device=CPU, pin_memory=True)


@final
class Slot:
    """Pinned memory that a table is copied from, and the event after the copy.

    Attributes:
        host: The memory: int64 words.
        address: Where it is.
        copied: What the driver calls the event.
        is_new: Whether nothing can have been copied from it yet.
    """

    __slots__ = ("_event", "address", "copied", "host", "is_new")

    def __init__(self, words: int, device: torch.device) -> None:
        self.host = pinned(words)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(device))  # or it is no event of the device yet
        self.address = self.host.data_ptr()
        self.copied: int = self._event.cuda_event
        self.is_new = True


@final
class Slots:
    """The pinned memory of a device, which outlives threads: a copy may be under way when one ends.

    Each stream has its own: in one, the oldest is free first, while another may be held up for long. None is ever let
    go: of a copy that the driver makes, torch knows nothing, and would hand its memory to others at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: defaultdict[driver.Where, deque[Slot]] = defaultdict(deque)
        self._made: list[Slot] = []
        self._spare: Tensor | None = None

    def take(self, words: int, where: driver.Where) -> Slot:
        """Return the memory of a stream that is free first, or where there is none of that size, new memory."""
        try:
            slot = self._free[where].popleft()
        except IndexError:
            return self.new(words)
        return slot if slot.host.numel() >= words else self.new(words)

    def give_back(self, slot: Slot, where: driver.Where) -> None:
        """Take memory back whose copy is under way in a stream, and its event recorded."""
        slot.is_new = False
        self._free[where].append(slot)

    def leave(self, slot: Slot, where: driver.Where) -> None:
        """Take memory back from which nothing was copied now: it stays the first of a stream that will be free."""
        slot.is_new = False
        self._free[where].appendleft(slot)

    def take_spare(self, words: int) -> Tensor | None:
        """Return memory for a graph that is captured: older torch can pin none then. Nobody gives it back."""
        spare, self._spare = self._spare, None
        return spare if spare is not None and len(spare) >= words else None

    def new(self, words: int) -> Slot:
        """Return new memory, as large as any before, so that little of it is outgrown; some is kept for a graph."""
        if self._spare is None or len(self._spare) < words:
            self._spare = pinned(words)
        slot = Slot(max([words, *(other.host.numel() for other in self._made)]), self._device)
        self._made.append(slot)
        return slot


_SLOTS: dict[torch.device, Slots] = {}


def slots_of(device: torch.device) -> Slots:
    """Return the pinned memory of a device."""
    return _SLOTS.setdefault(device, Slots(device))


@final
class Lane:
    """What a thread keeps for one stream; two threads on one stream may take turns between two launches.

    Attributes:
        device: The device.
        where: The context of the device and the stream, as the driver calls them.
        slots: The pinned memory of the device.
        plans: The clips that it has made there, by the form of their tables.
    """

    def __init__(self, device: torch.device, where: driver.Where) -> None:
        self.device = device
        self.where = where
        self.slots = slots_of(device)
        self.plans: dict[Any, Any] = {}
        self._partials: Tensor | None = None
        self._numbers: dict[bool, list[Numbers]] = {False: [], True: []}

    def partials(self, count: int) -> Tensor:
        """Return float64 memory for so many numbers or more, until the next call."""
        if self._partials is None or len(self._partials) < count:
            self._partials = torch.empty(count, dtype=torch.float64, device=self.device)
        return self._partials

    def numbers(self, *, wide: bool) -> "Numbers":
        """Return memory for the numbers of a clip, which nobody else gets."""
        found = self._numbers[wide]
        if not found:
            with torch.inference_mode(mode=False):  # or they were of that mode outside too
                first = Numbers.on(self.device, wide=wide)
                found += [first, *(first.more() for _ in range(AT_ONCE - 1))]
        return found.pop()

    def leave(self, numbers: "Numbers", *, wide: bool) -> None:
        """Take back memory that nobody has written to."""
        self._numbers[wide].append(numbers)


@final
class Numbers(NamedTuple):
    """What a clip has of its gradients: the sum of squares, the norm, the coefficient, and the norm as it is returned.

    Each is in memory of its own, as compilers want of what an operator returns; and where that is.
    """

    partial: Tensor
    length: Tensor
    coef: Tensor
    norm: Tensor
    addresses: tuple[int, ...]

    @classmethod
    def on(cls, device: torch.device, *, wide: bool) -> "Numbers":
        """Return memory for them on a device."""
        dtypes = *[torch.float64] * 3, torch.float64 if wide else torch.float32
        return cls._of([torch.empty((), dtype=dtype, device=device) for dtype in dtypes])

    def more(self) -> "Numbers":
        """Return more of the same, in a third of the time."""
        return self._of([torch.empty_like(x) for x in self[:4]])

    @classmethod
    def _of(cls, numbers: list[Tensor]) -> "Numbers":
        partial, length, coef, norm = numbers
        return cls(partial, length, coef, norm, tuple(x.data_ptr() for x in numbers))


def numbers_of(device: torch.device, lane: Lane | None, *, wide: bool) -> Numbers:
    """Return memory for the numbers of a clip."""
    return Numbers.on(device, wide=wide) if lane is None else lane.numbers(wide=wide)


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
    if device.type != "cuda":
        return None
    handle = current_cuda_stream(device.index)
    if handle and is_captured(device):  # the default stream captures nothing
        return None
    lane = _LANES.known.get((device, handle))
    if lane is None:
        with on(device):
            torch.cuda.Event().record()  # a new thread has no context yet
            context = 0 if (by := driver.found()) is None else by.context()
        lane = _LANES.known[device, handle] = Lane(device, (context, handle))
    return lane
