"""What kernels that are made of rules call, in Triton: exact numbers, and which of many is at a place in their order."""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-0x8000000000000000)
HIGHEST = tl.constexpr(0x7FFFFFFFFFFFFFFF)
BITS = tl.constexpr(64)


@triton.jit
def number(WORD: tl.constexpr):
    """Return a float64 by its bits: Triton takes a number that is written for a float32."""
    return tl.full((), WORD, tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def _flipped(word):
    """Return the bits of numbers as integers in the order of the numbers, and back."""
    return word ^ ((word >> 63) & HIGHEST)


@triton.jit
def in_order(x, inside, place):
    """Return the number at a place, from 0, of those inside in ascending order, where NaN comes last: bit by bit."""
    keys = tl.where(x != x, HIGHEST, _flipped(x.to(tl.int64, bitcast=True)))
    low = tl.full((), LOWEST, tl.int64)
    high = tl.full((), HIGHEST, tl.int64)
    for _ in range(BITS):
        middle = (low & high) + ((low ^ high) >> 1)
        enough = tl.sum((inside & (keys <= middle)).to(tl.int64)) > place
        low, high = tl.where(enough, low, middle + 1), tl.where(enough, middle, high)
    return _flipped(high).to(tl.float64, bitcast=True)


@triton.jit
def larger(a, b):
    """Return the larger of two numbers; NaN if one is."""
    return tl.where(a != a, a, tl.where(a >= b, a, b))


@triton.jit
def smaller(a, b):
    """Return the smaller of two numbers; NaN if one is."""
    return tl.where(a != a, a, tl.where(a <= b, a, b))


@triton.jit
def smaller_known(a, b):
    """Return the smaller of two numbers; the other one if one is NaN."""
    return tl.where(b != b, a, tl.where(a <= b, a, b))
