"""Launch compiled kernels by the driver of NVIDIA's cards: the extension calls its function, in a microsecond.

What a compiled kernel is, only Triton knows: the names below were seen in Triton 3.6 to 3.9. Where anything is not as
expected, Triton's own launcher answers.
"""

import ctypes
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    from gradclip.ops import _native
except ImportError:
    _native = None

SCRATCH = 2
"""Arguments that Triton adds to those of a kernel: memory of its own, which no kernel here asks for."""


class Ready(NamedTuple):
    """A compiled kernel.

    Attributes:
        start: What launches kernels.
        function: Its handle.
        threads: How many threads a program has.
        shared: How many bytes of shared memory.
    """

    start: Callable[..., None]
    function: int
    threads: int
    shared: int


@lru_cache(maxsize=1)
def starter() -> Callable[..., None] | None:
    """Return what launches kernels by the driver; None where there is no driver, or no extension."""
    if _native is None or torch.version.cuda is None:
        return None
    try:
        address = ctypes.cast(ctypes.CDLL("libcuda.so.1").cuLaunchKernel, ctypes.c_void_p).value
    except (AttributeError, OSError):
        return None
    return None if address is None else partial(_native.launch, address)


def ready(compiled: Any, arguments: int) -> Ready | None:
    """Return what the driver needs of a kernel that Triton has launched, if it can launch it.

    Args:
        compiled: What the launch has returned.
        arguments: How many arguments it took.
    """
    if (start := starter()) is None:
        return None
    try:
        about = compiled.metadata
        is_plain = (
            about.target.backend == "cuda"
            and about.num_ctas == 1
            and not about.launch_cooperative_grid
            and not about.launch_pdl
            and about.global_scratch_size == about.profile_scratch_size == 0
            and sum(kind != "constexpr" for kind in compiled.src.signature.values()) == arguments
        )
        threads = int(about.num_warps) * int(about.target.warp_size)
        found = Ready(start, int(compiled.function), threads, int(about.shared))
    except (AttributeError, TypeError):
        return None
    return found if is_plain else None


def launch(kernel: Ready, programs: int, device: torch.device, arguments: tuple[Tensor | int, ...]) -> None:
    """Launch a kernel in the current stream of a device, which is the current one."""
    pointers = [x if isinstance(x, int) else x.data_ptr() for x in arguments]
    stream = torch.cuda.current_stream(device).cuda_stream
    words = [*pointers, *[0] * SCRATCH]
    kernel.start(kernel.function, programs, kernel.threads, kernel.shared, stream, words)
