"""The oracle: definitions in exact or float64 arithmetic, written from the formulas and never from `src`."""

import math

import torch
from torch import Tensor

# significant bits, and exponents of the largest power of two and of the smallest subnormal
FORMATS = {
    torch.float16: (11, 15, -24),
    torch.bfloat16: (8, 127, -133),
    torch.float32: (24, 127, -149),
    torch.float64: (53, 1023, -1074),
}


def magnitudes(tensors: list[Tensor]) -> list[float]:
    """The absolute value of every element, duplicates of uncoalesced sparse entries summed."""
    values: list[float] = []
    for x in tensors:
        dense = x.detach().to_dense() if x.is_sparse else x.detach()
        wide = dense.to(torch.complex128 if x.is_complex() else torch.float64)
        values += [abs(element) for element in wide.reshape(-1).tolist()]
    return values


def norm(tensors: list[Tensor], p: float) -> float:
    """The p-norm of all elements as one vector; powers are taken in units of the largest element."""
    values = magnitudes(tensors)
    if not values:
        return 0.0
    if any(math.isnan(v) for v in values) and p != 0:
        return math.nan
    if p == 0:
        return float(sum(v != 0 for v in values))
    if math.isinf(p):
        return max(values) if p > 0 else min(values)
    if p < 0 and min(values) == 0:
        return 0.0
    unit = max(values) if p > 0 else min(values)
    if unit == 0 or math.isinf(unit):
        return unit
    return unit * math.fsum((v / unit) ** p for v in values) ** (1 / p)


def coefficient(total_norm: float, max_norm: float, eps: float = 1e-6) -> float:
    """min(1, max_norm / (total_norm + eps))."""
    return min(1.0, max_norm / (total_norm + eps))


def rounded(value: float, dtype: torch.dtype) -> float:
    """The number of a format that is nearest to a float64, ties to even."""
    digits, largest, smallest = FORMATS[dtype]
    unit = max(math.frexp(value)[1] - digits, smallest)  # what the last digit counts, as a power of two
    nearest = math.ldexp(round(math.ldexp(value, -unit)), unit)  # Python rounds halves to even; the rest is exact
    return nearest if math.frexp(nearest)[1] <= largest + 1 else math.copysign(math.inf, value)


def scaled(x: Tensor, coef: float) -> list[float]:
    """Every element times a coefficient in float64, then rounded once."""
    return [rounded(v * coef, x.dtype) for v in x.to(torch.float64).reshape(-1).tolist()]


def units(x: Tensor) -> list[Tensor]:
    """The indices of dimension 0, each by itself; a vector or a number is one unit."""
    return [x[i] for i in range(x.shape[0])] if x.ndim >= 2 else [x]


def float32_ulps(a: float, b: float) -> float:
    """The distance of two numbers in units of the last place of the second as a float32."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    if not math.isfinite(a) or not math.isfinite(b):
        return math.inf
    unit = 2.0 ** max(math.frexp(b)[1] - 24, -149) if b else 2.0**-149
    return abs(a - b) / unit
