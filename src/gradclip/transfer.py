"""Copies of numbers from a device to the host that nothing waits for."""

from typing import Any, final

import torch
from torch import Tensor

from gradclip.numbers import CPU, Scalar, is_known
from gradclip.tracing import is_captured

WITH_STREAMS = {"cuda", "xpu"}
"""The types of devices whose copies say when they are done; `cuda` is ROCm's too."""


def can_transfer(x: Scalar) -> bool:
    """Whether a copy can be made now: not in a graph that is captured, whose replays nobody would hear of."""
    return is_known(x) or not is_captured(x.device)


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
        if not self.is_waited_for(vector.device):
            module: Any = torch.get_device_module(vector.device)
            self.host = torch.empty(vector.shape, dtype=vector.dtype, device=CPU, pin_memory=True)
            self.host.copy_(vector, non_blocking=True)
            self._event = module.Event()
            self._event.record(module.current_stream(vector.device))
        else:
            self.host = vector.to(CPU)

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
