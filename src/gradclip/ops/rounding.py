"""Float64 arithmetic whose result is rounded once, to formats of 8 and 16 bits too."""

import math

import torch
from torch import Tensor

from gradclip.numbers import Scalar


def widened(x: Tensor) -> Tensor:
    """Return float64 numbers that may be written."""
    return x.to(torch.float64, copy=True)


def scaled(x: Tensor, factor: Scalar) -> Tensor:
    """Return real numbers times float64 ones that broadcast, as numbers that their dtype holds."""
    products = rounded(widened(x).mul_(factor), x.dtype)
    # A NaN times 1 may have other bits.
    return torch.where(factor == 1.0, x, products.to(x.dtype)) if isinstance(factor, Tensor) else products


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float64 numbers that `dtype` holds; torch's conversion goes through float32, and may round twice."""
    if dtype.itemsize >= torch.float32.itemsize:
        return x  # rounded once as it is written
    info = torch.finfo(dtype)
    digits = 1 - round(math.log2(info.eps))
    # Adding 1.5 * 2**52 units in the last place of the result makes the adder round there.
    power = (x.view(torch.int64) & 0x7FF0_0000_0000_0000).view(torch.float64)
    magic = power.clamp(info.smallest_normal, 2.0**200) * (1.5 * 2.0 ** (53 - digits))
    return torch.copysign((x + magic) - magic, x)  # -0 stays -0
