"""The operations of torch that are a formula in Triton, which has the same bits; and numbers, written out."""

import struct
from collections.abc import Iterable
from typing import Any

import torch

from gradclip.ops.triton.recording import Node

DTYPES = {torch.float64: "tl.float64", torch.int64: "tl.int64", torch.bool: "tl.int1"}
"""Those that are computed in."""

WRITTEN = DTYPES | {torch.float32: "tl.float32"}
"""Those that a number may be turned into, for others to read."""

ARITHMETIC = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "rsub": "{1} - {0}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "reciprocal": "1.0 / {0}",
    "abs": "tl.abs({0})",
    "sqrt": "tl.sqrt({0})",
    "floor": "tl.floor({0})",
    "minimum": "smaller({0}, {1})",
    "maximum": "larger({0}, {1})",
    "fmin": "smaller_known({0}, {1})",
    "_to_copy": "{0}",
}
"""What works on numbers of the dtype of its result."""

COMPARISONS = {
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
}
"""What works on numbers of the wider of two dtypes."""

LOGIC = {
    "mul": "{0} & {1}",
    "bitwise_and": "{0} & {1}",
    "bitwise_or": "{0} | {1}",
    "bitwise_xor": "{0} ^ {1}",
    "bitwise_not": "{0} == 0",
}
"""What works on conditions."""

FILLED = {"zeros_like": 0.0, "ones_like": 1.0, "scalar_tensor": 0, "full": 1, "full_like": 1}
"""The number that an operation fills a tensor with, or which of its arguments that is."""

PLAIN = {"dtype", "device", "layout", "pin_memory", "memory_format", "non_blocking"}
"""What an operation may be given by name, and the shape and the dtype of its result say."""


def literal(number: Any, dtype: torch.dtype) -> str:
    """Return a number that is written out: of float64, by its bits."""
    if dtype != torch.float64:
        return repr(bool(number) if dtype == torch.bool else int(number))
    return f"number({struct.unpack('<q', struct.pack('<d', number))[0]:#x})"


def widest(given: Iterable[Any]) -> torch.dtype:
    """Return the dtype that numbers are compared in."""
    dtypes = {x.dtype if isinstance(x, Node) else torch.float64 if isinstance(x, float) else torch.bool for x in given}
    return next(x for x in DTYPES if x in dtypes)
