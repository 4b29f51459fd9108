"""Launch compiled kernels by the driver of NVIDIA's cards: the extension calls its functions, in a microsecond each.

What a compiled kernel is, only Triton knows: the names below were seen in Triton 3.6 to 3.9. Where anything is not as
expected, Triton's own launcher answers.
"""

import ctypes
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor

try:
    from gradclip.ops import _native
except ImportError:
    _native = None

SCRATCH = [0, 0]
"""Arguments that Triton adds to those of a kernel: memory of its own, which no kernel here asks for."""

MOST = 40 - len(SCRATCH)
"""Arguments that the extension passes."""

Launch: TypeAlias = tuple[int, int, int, int, list[int]]
"""A kernel, how many programs, threads of one, bytes of shared memory, and arguments."""


Where: TypeAlias = tuple[int, int]
"""A context of the driver, 0 for the current one of the thread, and a stream of it."""

NAMES = (
    "cuLaunchKernel", "cuMemcpyHtoDAsync_v2", "cuEventQuery", "cuEventRecord", "cuCtxGetCurrent", "cuCtxSetCurrent",
)  # fmt: skip
"""The functions of the driver that are called."""


@final
class Driver:
    """Functions of the driver, by their addresses: those of `NAMES`, in that order.

    Attributes:
        functions: These addresses.
    """

    def __init__(self, *functions: int) -> None:
        self.functions: Any = functions

    def context(self) -> int:
        """Return the context that is current in this thread."""
        found = ctypes.c_void_p()
        ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self.functions[NAMES.index("cuCtxGetCurrent")])(
            ctypes.byref(found)
        )
        return found.value or 0

    def launch(self, where: Where, launches: list[Launch]) -> None:
        """Launch kernels in a stream."""
        _native.launch(self.functions, where, launches)  # type: ignore[union-attr] -- there is a driver

    def start(
        self,
        where: Where,
        table: object,
        bounds: tuple[float, float],
        slot: tuple[int, int, bool],
        device: int,
        launches: list[Launch],
    ) -> bool:
        """Write a table with its bounds to pinned memory, copy it, record the event after the copy, and launch kernels.

        Args:
            where: The stream.
            table: What the extension has made of tensors.
            bounds: `max_norm` and `eps`.
            slot: The address of pinned memory for both; what the driver calls the event after the last copy from it;
                and whether there was none yet.
            device: The address of memory for both on the device.
            launches: The kernels.

        Returns:
            Whether it was done: nothing is where that event has not happened.
        """
        return _native.start(self.functions, where, table, *bounds, slot, device, launches)  # type: ignore[union-attr]


_is_left_out = False


def found() -> Driver | None:
    """Return the driver; None where there is none, or no extension, or it is left out."""
    return None if _is_left_out else _loaded()


def leave_out() -> None:
    """Launch nothing by the driver from now on."""
    global _is_left_out  # noqa: PLW0603 -- of this process
    _is_left_out = True


@lru_cache(maxsize=1)
def _loaded() -> Driver | None:
    if _native is None or torch.version.cuda is None:
        return None
    try:
        library = ctypes.CDLL("libcuda.so.1")
        functions = [getattr(library, name) for name in NAMES]
    except (AttributeError, OSError):
        return None
    addresses = [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions]
    return Driver(*addresses) if all(addresses) else None


@final
class Ready(NamedTuple):
    """A compiled kernel: its handle, how many threads a program has, how many bytes of shared memory, and its owner."""

    function: int
    threads: int
    shared: int
    owner: object = None  # which unloads it once it is gone

    def with_arguments(self, programs: int, arguments: tuple[Tensor | int, ...]) -> Launch:
        """Return how to launch it: memory is passed by its address."""
        words = [x if isinstance(x, int) else x.data_ptr() for x in arguments]
        return self.function, programs, self.threads, self.shared, words + SCRATCH


def ready(compiled: Any, arguments: int) -> Ready | None:
    """Return what the driver needs of a kernel that Triton has launched, if it can launch it.

    Args:
        compiled: What the launch has returned.
        arguments: How many arguments it took.
    """
    try:
        about = compiled.metadata
        is_plain = (
            about.target.backend == "cuda"
            and about.num_ctas == 1
            and not about.launch_cooperative_grid
            and not about.launch_pdl
            and not getattr(about, "instrumentation_mode", None)
            and about.global_scratch_size == about.profile_scratch_size == 0
            and arguments <= MOST
            and sum(kind != "constexpr" for kind in compiled.src.signature.values()) == arguments
        )
        threads = int(about.num_warps) * int(about.target.warp_size)
        kernel = Ready(int(compiled.function), threads, int(about.shared), compiled)
    except (AttributeError, TypeError):
        return None
    return kernel if is_plain else None
