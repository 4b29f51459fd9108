"""Numbers on their way between the host and devices, without a wait."""

import functools
from array import array
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast, final

import torch
from torch import Tensor

from gradclip.devices import is_narrow
from gradclip.numbers import CPU, Scalar, as_float64, home, is_host, is_known
from gradclip.torch_private import current_cuda_stream
from gradclip.tracing import is_captured

TAKES_PINNED = torch.__version__ >= "2.11"
"""Whether a graph that is captured copies from pinned memory alone, and memory can be pinned then; before, from any."""

P = ParamSpec("P")
T = TypeVar("T")

_replayed: list[Tensor] = []
"""What captured graphs copy at every replay: it has to outlive them, and nobody tells when they are gone."""


def for_replays(x: Tensor) -> Tensor:
    """Return numbers of the host in memory that a graph which is captured may copy from, at every replay."""
    kept = x.pin_memory() if TAKES_PINNED else x
    _replayed.append(kept)
    return kept


def sent(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return numbers of the host, or rows of such, where those of a device are."""
    return moved(torch.tensor(numbers, dtype=dtype, device=CPU), home(device))


def moved(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device, which copies it whenever it comes to that."""
    return (for_replays(x) if is_captured(device) else x).to(device, non_blocking=True)


def indices(places: Sequence[int], device: torch.device) -> Tensor:
    """Return places as what numbers of a device are picked by."""
    return sent(list(places), device, torch.int64)


def on_the_host(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function make its tensors on the host, whatever the default device is."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with CPU:
            return function(*args, **kwargs)

    return call


def placed(x: Tensor, device: torch.device) -> Tensor:
    """Return numbers on a device, rounded to float32 if it has no more."""
    return (x.to(torch.float32) if is_narrow(device) else x).to(device)


def vector_of(numbers: Sequence[Scalar], place: Callable[[torch.device], torch.device]) -> Tensor:
    """Return numbers, and vectors of such, as one float64 vector, where `place` wants those of their device to be."""
    device = next((x.device for x in numbers if not is_known(x)), None)
    if device is not None:
        where = place(device)
        made = {x: as_float64(x, where).reshape(-1) for x in {*filter(is_known, numbers)}}  # equal ones in one launch
        return torch.cat([made[x] if is_known(x) else as_float64(x, where).reshape(-1) for x in numbers])
    # Half the cost of reading a list.
    vector = torch.frombuffer(array("d", cast("Sequence[float]", numbers)), dtype=torch.float64)
    return moved(vector, place(CPU))


def scalars_of(vector: Tensor, like: Sequence[Scalar] = ()) -> list[Scalar]:
    """Return the numbers of a vector: where `like` are tensors on a device, there, without a wait; else as floats."""
    device = next((x.device for x in like if not is_known(x)), None)
    if device is not None:
        return list(vector.to(device).unbind())
    return vector.tolist() if like or is_host(vector) else list(vector.unbind())


# Copies to the host, which say when they are done.

WITH_STREAMS = {"cuda", "xpu"}
"""The types of devices whose copies say when they are done; `cuda` is ROCm's too."""


def can_transfer(x: Scalar) -> bool:
    """Whether a copy can be made now: not in a graph that is captured, whose replays nobody would hear of."""
    return is_known(x) or not is_captured(x.device)


def _stream_on(device: torch.device) -> Any:
    """Return the current stream of a device: torch makes an object of it each time, which takes as long as a copy."""
    if device.type != "cuda":
        return torch.get_device_module(device).current_stream(device)
    return _current_stream(device, current_cuda_stream(device.index))


@functools.lru_cache
def _current_stream(device: torch.device, handle: int) -> Any:  # noqa: ARG001 -- by which it is known
    return torch.cuda.current_stream(device)


@final
class Transfer:
    """A copy of a vector to the host, on its way.

    From a device with streams, the copy runs when the kernels before it are done, into memory that the device writes by
    itself, and an event says when. Others are waited for.

    Attributes:
        host: The copy: not to be read before `is_done` or `wait`.
    """

    __slots__ = ("_event", "host")

    def __init__(self, vector: Tensor) -> None:
        self._event: Any = None
        if self.is_waited_for(vector.device):
            self.host = vector.to(CPU)
            return
        self.host = torch.empty(vector.shape, dtype=vector.dtype, device=CPU, pin_memory=True)
        self._event = torch.get_device_module(vector.device).Event()
        self.again(vector)

    def again(self, vector: Tensor) -> "Transfer":
        """Copy such a vector to the same memory, once the copy before it was waited for."""
        self.host.copy_(vector, non_blocking=True)
        if self._event is not None:
            self._event.record(_stream_on(vector.device))
        return self

    @staticmethod
    def is_waited_for(device: torch.device) -> bool:
        """Whether a copy from a device is there as soon as it is made: the host waits for it."""
        return device.type not in WITH_STREAMS

    def is_done(self) -> bool:
        """Whether the copy is there."""
        return self._event is None or self._event.query()

    def wait(self) -> None:
        """Wait until it is."""
        if self._event is not None:
            self._event.synchronize()
