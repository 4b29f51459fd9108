"""Which kernels an operation is: with which constants, over which chunks."""

import math
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from gradclip.numbers import as_float64
from gradclip.ops.triton import measuring
from gradclip.ops.triton.lane import Numbers
from gradclip.ops.triton.launch import Call, programs_on
from gradclip.ops.triton.table import DTYPES, Table

BLOCK, WARPS = 1024, 4
"""Elements that a program works on at a time, and its warps."""

TOTAL, TOTAL_WARPS = 1024, 8
"""The same where the partials of everything are combined."""

EACH, EACH_WARPS = 128, 1
"""The same where those of one of many segments are."""

REAL: dict[torch.dtype, tuple[Any, int]] = {
    torch.float16: (tl.float16, 1),
    torch.bfloat16: (tl.bfloat16, 1),
    torch.float32: (tl.float32, 1),
    torch.float64: (tl.float64, 1),
    torch.complex64: (tl.float32, 2),
    torch.complex128: (tl.float64, 2),
}
"""The kind of real numbers that an element is made of, and how many these are."""

KINDS = {
    0.0: measuring.COUNT.value,
    1.0: measuring.ABS.value,
    2.0: measuring.SQUARE.value,
    math.inf: measuring.LARGEST.value,
    -math.inf: measuring.SMALLEST.value,
}
POWER: int = measuring.POWER.value


def over_runs(kernel: Any, table: Table, *memory: Tensor, **constants: Any) -> list[Call]:
    """Return a kernel over all chunks: once for each dtype."""
    most = programs_on(table.words.device)
    return [
        Call(
            kernel,
            min(end - begin, most),
            (table.words, table.chunks, begin, end, *memory),
            WARPS,
            {"DTYPE": dtype, "WIDTH": width, "ALIGNED": aligned, "BLOCK": BLOCK, **constants},
        )
        for place, begin, end, aligned in table.runs
        for dtype, width in (REAL[DTYPES[place]],)
    ]


def measuring_each(table: Table, order: float, partials: Tensor, factors: Tensor | None = None) -> list[Call]:
    """Return what measures the partials of chunks, times one factor, or one a segment, if there are any."""
    kind = KINDS.get(order, POWER)
    if math.isinf(order):
        if factors is not None:
            raise ValueError("an extremum is measured without a factor")
        return over_runs(measuring.measure_extrema, table, partials, KIND=kind)
    numbers, scaled = partials, 0  # which are not read
    if kind == POWER or factors is not None:
        own = as_float64(order, table.words.device).view(1)
        numbers = own if factors is None else torch.cat([own, factors.to(torch.float64)])
        scaled = 0 if factors is None else 1 if len(factors) == 1 else 2
    return over_runs(measuring.measure_powers, table, partials, numbers, KIND=kind, SCALED=scaled)


def combining_each(table: Table, order: float, partials: Tensor, out: Tensor) -> list[Call]:
    """Return what combines the partials of each segment."""
    arguments = (table.words, table.segments, table.each, table.bounds, partials, *[out] * 4)
    constants = {"KIND": KINDS.get(order, POWER), "COEF": False, "WIDE": False, "BLOCK": EACH}
    return [Call(measuring.combine, table.segments, arguments, EACH_WARPS, constants)] if table.segments else []


def combining(table: Table, order: float, partials: Tensor, out: Tensor) -> Call:
    """Return what combines the partials of everything."""
    arguments = (table.words, 1, table.whole, table.bounds, partials, *[out] * 4)
    constants = {"KIND": KINDS.get(order, POWER), "COEF": False, "WIDE": False, "BLOCK": TOTAL}
    return Call(measuring.combine, 1, arguments, TOTAL_WARPS, constants)


def norming(table: Table, partials: Tensor, numbers: Numbers) -> Call:
    """Return what combines the partials of squares, and makes a norm and a coefficient of them."""
    arguments = (table.words, 1, table.whole, table.bounds, partials, *numbers[:4])
    constants = {"KIND": KINDS[2.0], "COEF": True, "WIDE": table.is_wide, "BLOCK": TOTAL}
    return Call(measuring.combine, 1, arguments, TOTAL_WARPS, constants)
