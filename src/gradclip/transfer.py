"""Copies of numbers from a device to the host that nothing waits for."""

from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor

from gradclip.numbers import CPU, Scalar, is_known
from gradclip.torch_private import current_cuda_stream
from gradclip.tracing import is_captured

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


@lru_cache
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
