"""The kernels for GPUs that write, in Triton: arithmetic in float64, rounded once; what stays as it is, is not written."""

import triton
import triton.language as tl

from gradclip.ops.triton.measuring import ARGUMENTS, INF, begin_of, parts, wide


@triton.jit
def _rounded(y, DTYPE: tl.constexpr):
    """Return float64 numbers rounded to a dtype once: to a half one by way of float32, rounded to odd."""
    if DTYPE == tl.float64:
        return y
    elif DTYPE == tl.float32:
        return y.to(tl.float32)
    else:
        near = y.to(tl.float32)
        back = near.to(tl.float64)
        bits = near.to(tl.int32, bitcast=True)
        bits = tl.where(tl.abs(back) > tl.abs(y), bits - 1, bits)  # towards zero
        bits = tl.where((back == y) | (y != y), bits, bits | 1)
        if DTYPE == tl.float16:
            return bits.to(tl.float32, bitcast=True).to(DTYPE)
        half = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest even; Triton's interpreter would cut off
        return tl.where(y != y, 0x7FC0, half).to(tl.int16).to(DTYPE, bitcast=True)


@triton.jit(do_not_specialize=ARGUMENTS, do_not_specialize_on_alignment=ARGUMENTS)
def scale(
    table, n, begin, end, coefs,
    DTYPE: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Multiply in float64 by one coefficient or one a segment, and round once; where it is 1, nothing is read."""
    lanes = tl.arange(0, BLOCK)
    one = tl.load(coefs)
    if EACH or one != 1.0:
        for k in range(tl.program_id(0), end - begin, tl.num_programs(0)):
            c = end - 1 - k  # backwards: what was measured last is in the cache still
            coef = tl.load(coefs + tl.load(table + 2 * n + c)) if EACH else one
            if coef != 1.0:
                base = begin_of(table, c, DTYPE, ALIGNED)
                count = (tl.load(table + n + c) * WIDTH).to(tl.int32)
                whole = (count // BLOCK) * BLOCK
                for o in range(0, whole, BLOCK):
                    p = base + o + lanes
                    tl.store(p, _rounded(wide(tl.load(p), DTYPE) * coef, DTYPE))
                if whole < count:
                    p = base + whole + lanes
                    inside = whole + lanes < count
                    y = wide(tl.load(p, mask=inside, other=0.0), DTYPE) * coef
                    tl.store(p, _rounded(y, DTYPE), mask=inside)


@triton.jit(do_not_specialize=ARGUMENTS, do_not_specialize_on_alignment=ARGUMENTS)
def clamp(
    table, n, begin, end, limits,
    DTYPE: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    """Limit real numbers to [-limit, limit], one limit or one a segment, rounded to the dtype; only what changes is written."""
    lanes = tl.arange(0, BLOCK)
    for c in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        bound = tl.load(limits + tl.load(table + 2 * n + c)) if EACH else tl.load(limits)
        if bound != INF:
            limit = wide(_rounded(bound, DTYPE), DTYPE)
            base = begin_of(table, c, DTYPE, ALIGNED)
            count = (tl.load(table + n + c) * WIDTH).to(tl.int32)
            for o in range(0, count, BLOCK):
                p = base + o + lanes
                inside = o + lanes < count
                v = wide(tl.load(p, mask=inside, other=0.0), DTYPE)
                tl.store(p, _rounded(tl.where(v > 0.0, limit, -limit), DTYPE), mask=inside & (tl.abs(v) > limit))


@triton.jit
def _is_bad(x):
    return (x != x) | (tl.abs(x) == INF)


@triton.jit(do_not_specialize=ARGUMENTS, do_not_specialize_on_alignment=ARGUMENTS)
def sanitize(
    table, n, begin, end,
    DTYPE: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Set elements that are NaN or infinite to 0, complex ones as a whole; nothing else is written."""
    lanes = tl.arange(0, BLOCK)
    for c in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        base = begin_of(table, c, DTYPE, ALIGNED)
        count = tl.load(table + n + c).to(tl.int32)
        for o in range(0, count, BLOCK):
            inside = o + lanes < count
            if WIDTH == 2:
                p = base + 2 * (o + lanes)
                re, im = parts(base, o + lanes, inside)
                bad = inside & (_is_bad(re) | _is_bad(im))
                tl.store(p, tl.zeros((BLOCK,), DTYPE), mask=bad)
                tl.store(p + 1, tl.zeros((BLOCK,), DTYPE), mask=bad)
            else:
                x = wide(tl.load(base + o + lanes, mask=inside, other=0.0), DTYPE)
                tl.store(base + o + lanes, tl.zeros((BLOCK,), DTYPE), mask=inside & _is_bad(x))
