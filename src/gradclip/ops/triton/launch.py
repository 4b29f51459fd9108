"""Launch kernels on the device that their memory is on, in the stream that is current there.

Triton's own launcher takes tens of microseconds a launch on a busy host. It compiles a kernel at its first launch, and
what it has compiled is launched by the driver itself from then on, where there is one and it can.
"""

from functools import lru_cache
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from gradclip.ops.triton import driver
from gradclip.ops.triton.lane import on
from gradclip.torch_private import current_cuda_stream

PER_PROCESSOR = 8
"""Programs for each multiprocessor."""

INTERPRETED = 2
"""Programs in Triton's interpreter, which runs one after the other: more than one, so that they have to share."""

_compiled: dict[tuple[Any, ...], driver.Ready] = {}


@final
class Call(NamedTuple):
    """A kernel with its arguments, to be launched.

    Attributes:
        kernel: The kernel.
        programs: How many programs, at least one.
        arguments: Its arguments but for constants.
        warps: How many warps a program has.
        constants: Its constants, of which each set makes another kernel.
        fused: Whether it is compiled, whatever Triton's default is, so that products are added without rounding first.
    """

    kernel: Any
    programs: int
    arguments: tuple[Tensor | int, ...]
    warps: int
    constants: dict[str, Any]
    fused: bool = True

    def key(self, device: torch.device) -> tuple[Any, ...]:
        """Return what tells compiled kernels apart."""
        return (self.kernel, device, *self.constants.values())


def launch(calls: list[Call], device: torch.device) -> None:
    """Launch kernels on a device, one after the other."""
    by = driver.found()
    with on(device):
        if by is not None and (launches := launches_of(calls, device)) is not None:
            by.launch((0, current_cuda_stream(device.index)), launches)
            return
        for call in calls:
            options = {"enable_fp_fusion": call.fused, "num_warps": call.warps}
            compiled = call.kernel[(call.programs,)](*call.arguments, **call.constants, **options)
            if by is not None and (ready := driver.ready(compiled, len(call.arguments))) is not None:
                _compiled[call.key(device)] = ready


def launches_of(calls: list[Call], device: torch.device) -> list[driver.Launch] | None:
    """Return how the driver launches kernels, if each was compiled and it can."""
    found: list[driver.Launch] = []
    for call in calls:
        if (ready := _compiled.get(call.key(device))) is None:
            return None
        found.append(ready.with_arguments(call.programs, call.arguments))
    return found


def is_by_driver() -> bool:
    """Whether kernels that were compiled are launched by the driver."""
    return bool(_compiled) and driver.found() is not None


@lru_cache
def programs_on(device: torch.device) -> int:
    """Return how many programs keep a device busy."""
    if device.type == "cpu":
        return INTERPRETED
    properties: Any = torch.get_device_module(device).get_device_properties(device)
    # The multiprocessors of CUDA and ROCm, the subslices of XPU.
    processors = getattr(properties, "multi_processor_count", None) or getattr(properties, "gpu_subslice_count", 1)
    return processors * PER_PROCESSOR
