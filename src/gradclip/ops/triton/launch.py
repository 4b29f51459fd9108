"""Launch kernels on the device that their memory is on, in the stream that is current there.

Triton's own launcher takes tens of microseconds a launch on a busy host. It compiles a kernel at its first launch, and
what it has compiled is launched by the driver itself from then on, where `driver` can.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gradclip.ops.triton import driver

PER_PROCESSOR = 8
"""Programs for each multiprocessor."""

INTERPRETED = 2
"""Programs in Triton's interpreter, which runs one after the other: more than one, so that they have to share."""

_compiled: dict[tuple[Any, ...], driver.Ready] = {}


def launch(
    kernel: Any, programs: int, device: torch.device, arguments: tuple[Tensor | int, ...], warps: int, **constants: Any
) -> None:
    """Launch a kernel, as many times as there are programs.

    Args:
        kernel: A kernel.
        programs: How many programs, at least one.
        device: Where its memory is.
        arguments: Its arguments but for constants.
        warps: How many warps a program has.
        **constants: Its constants, of which each set makes another kernel.
    """
    key = (kernel, device, *constants.values())
    ready = _compiled.get(key)
    with _on(device):
        if ready is not None:
            driver.launch(ready, programs, device, arguments)
            return
        compiled = kernel[(programs,)](*arguments, **constants, num_warps=warps)
    if (ready := driver.ready(compiled, len(arguments))) is not None:
        _compiled[key] = ready


def is_by_driver() -> bool:
    """Whether kernels that were compiled are launched by the driver."""
    return bool(_compiled)


@lru_cache
def programs_on(device: torch.device) -> int:
    """Return how many programs keep a device busy."""
    if device.type == "cpu":
        return INTERPRETED
    properties: Any = torch.get_device_module(device).get_device_properties(device)
    # The multiprocessors of CUDA and ROCm, the subslices of XPU.
    processors = getattr(properties, "multi_processor_count", None) or getattr(properties, "gpu_subslice_count", 1)
    return processors * PER_PROCESSOR


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one, where it is not."""
    if device.type == "cpu":
        return nullcontext()
    module: Any = torch.get_device_module(device)
    return nullcontext() if module.current_device() == device.index else module.device(device)
