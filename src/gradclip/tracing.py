"""Whether somebody records the operations of torch, and would miss what kernels do behind them."""

import torch
from torch.compiler import is_dynamo_compiling

_count_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_jit_tracing = torch._C._is_tracing


def is_traced() -> bool:
    """Whether a compiler, a tracer or a dispatch mode watches: then torch's operations alone may be used.

    Values are not there to be read, either: a number on the host would become a constant of the trace.
    """
    return is_dynamo_compiling() or _count_dispatch_modes() > 0 or _is_jit_tracing()
