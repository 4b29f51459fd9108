"""Whether somebody records the operations of torch, and would miss what kernels do behind them."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch.compiler import is_dynamo_compiling

from gradclip.torch_private import (
    count_dispatch_modes,
    current_cuda_stream,
    has_tracing_mode,
    is_jit_tracing,
    transform,
)

WITH_GRAPHS: dict[str, Any] = {
    name: module
    for name, module in (("cuda", torch.cuda), ("xpu", torch.xpu))
    if hasattr(module, "is_current_stream_capturing")  # that of Intel's GPUs came later
}
"""The modules of those types of devices that capture graphs; `cuda` is ROCm's too."""

P = ParamSpec("P")
T = TypeVar("T")


def is_traced() -> bool:
    """Whether a compiler, a tracer or a dispatch mode watches: then torch's operations alone may be used.

    Values are not there to be read, either: a number on the host would become a constant of the trace.
    """
    return is_dynamo_compiling() or count_dispatch_modes() > 0 or is_jit_tracing()


def is_graph_made() -> bool:
    """Whether a graph is made of what is called, or shapes are followed alone: then no number can be read at all.

    In a dispatch mode that looks on, such as one that counts operations, numbers are there.
    """
    return is_dynamo_compiling() or is_jit_tracing() or has_tracing_mode()


def is_transformed() -> bool:
    """Whether torch is traced, or works inside a transform of `torch.func`, where a tensor may stand for many.

    Kernels need not ask: they take no tensor without memory of its own.
    """
    return is_traced() or transform() is not None


def untraced(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that compilers leave out of their graphs with all that it calls, and run as it is."""
    left_out: Callable[P, T] | None = None  # by a wrapper that costs microseconds, so that others go without

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal left_out
        if not is_dynamo_compiling():
            return function(*args, **kwargs)
        left_out = left_out or torch.compiler.disable(function)
        return left_out(*args, **kwargs)

    return call


def is_captured(device: torch.device) -> bool:
    """Whether the current stream captures a graph on a device, whose replays read and write the same memory."""
    if (module := WITH_GRAPHS.get(device.type)) is None or is_dynamo_compiling():
        return False
    if device.type == "cuda" and device.index is not None and current_cuda_stream(device.index) == 0:
        return False  # the default stream captures nothing
    with module.device(device.index):  # torch takes twice as long to look at a device
        return module.is_current_stream_capturing()
