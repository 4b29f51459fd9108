"""The kernels for GPUs that measure, in Triton, over one table of chunks, as `table` makes it.

A *chunk* is an address, a count and the *segment* it belongs to: a tensor, or a unit of one. A chunk has one dtype, and a
launch works on those of one, from `begin` to `end`. Measuring leaves one float64 partial a chunk; combining adds those of
a segment in a fixed order, so that the same gradients have the same bits at every call. Programs go through the chunks in
strides of the grid, whose size therefore changes nothing.

Numbers that are float64 come from memory, since Triton passes Python floats as float32. `DTYPE` is that of the real
numbers that elements are made of, `WIDTH` how many these are: 2 for complex ones, which are read in pairs where their
moduli matter.
"""

import triton
import triton.language as tl

COUNT = tl.constexpr(0)
ABS = tl.constexpr(1)
SQUARE = tl.constexpr(2)
POWER = tl.constexpr(3)
LARGEST = tl.constexpr(4)
SMALLEST = tl.constexpr(5)
"""What is measured: non-zeros, a sum of magnitudes, of squares, of any powers, or an extremum."""

INF = tl.constexpr(float("inf"))

ARGUMENTS = [
    "table", "n", "begin", "end", "segments", "starts", "bounds", "partials", "numbers", "out", "length", "coef", "norm",
    "coefs", "limits",
]  # fmt: skip
"""Arguments of which no kernel takes anything for granted, be it that an address is a multiple of 16: each value would
make a kernel of its own, and one that was compiled for others could not be launched."""


@triton.jit
def begin_of(table, chunk, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Return where the elements of a chunk begin."""
    base = tl.load(table + chunk).to(tl.pointer_type(DTYPE))
    if ALIGNED:  # or there are no 16-byte loads
        base = tl.multiple_of(base, 16)
    return base


@triton.jit
def wide(x, DTYPE: tl.constexpr):
    """Return elements as float64; bfloat16 by its bits, since a conversion may take subnormals for 0."""
    if DTYPE == tl.bfloat16:
        bits = x.to(tl.int16, bitcast=True).to(tl.int32) << 16
        return bits.to(tl.float32, bitcast=True).to(tl.float64)
    else:
        return x.to(tl.float64)


@triton.jit
def parts(base, at, inside):
    """Return both parts of complex elements as float64, which are read at once; 0 outside."""
    both = tl.load(base + 2 * at[:, None] + tl.arange(0, 2)[None, :], mask=inside[:, None], other=0.0)
    return tl.split(both.to(tl.float64))


@triton.jit
def _modulus(re, im, DTYPE: tl.constexpr):
    """Return the magnitudes of complex numbers: infinite where one part is."""
    a, b = tl.abs(re), tl.abs(im)
    if DTYPE == tl.float32:
        modulus = tl.sqrt(re * re + im * im)
    else:  # whose squares may leave the range
        larger, smaller = tl.where(a > b, a, b), tl.where(a > b, b, a)
        ratio = smaller / tl.where(larger == 0.0, 1.0, larger)
        modulus = tl.where(larger == 0.0, 0.0, larger * tl.sqrt(1.0 + ratio * ratio))
    modulus = tl.where((re != re) | (im != im), re + im, modulus)
    return tl.where((a == INF) | (b == INF), INF, modulus)


@triton.jit
def _values(base, at, inside, DTYPE: tl.constexpr, PAIRS: tl.constexpr, MASKED: tl.constexpr):
    """Return elements as float64, complex ones by their moduli; 0 outside."""
    if PAIRS:
        re, im = parts(base, at, inside)
        return _modulus(re, im, DTYPE)
    elif MASKED:
        return wide(tl.load(base + at, mask=inside, other=0.0), DTYPE)
    else:
        return wide(tl.load(base + at), DTYPE)


@triton.jit
def _power(v, order, KIND: tl.constexpr):
    """Return |v|^order, and 1 for whatever is not 0 where that is counted."""
    if KIND == SQUARE:
        return v * v
    elif KIND == ABS:
        return tl.abs(v)
    elif KIND == COUNT:
        return tl.where(v == 0.0, 0.0, 1.0).to(tl.float64)
    else:
        m = tl.abs(v)
        of_zero = tl.where(order < 0.0, INF, 0.0)
        return tl.where(m == 0.0, of_zero, tl.exp(order * tl.log(tl.where(m == 0.0, 1.0, m))))


@triton.jit(do_not_specialize=ARGUMENTS, do_not_specialize_on_alignment=ARGUMENTS)
def measure_powers(
    table, n, begin, end, partials, numbers,
    DTYPE: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr,
    SCALED: tl.constexpr,
):  # fmt: skip
    """partials[c] = the sum of |factor x|^order over chunk c. `numbers`: the order, then a factor, or one a segment.

    `SCALED`: 0 for no factor, 1 for one, 2 for one a segment. What takes many registers works on `FEW` elements at a time,
    or fewer programs than are launched would fit on a multiprocessor.
    """
    PAIRS: tl.constexpr = WIDTH == 2 and KIND != SQUARE
    PARTS: tl.constexpr = 1 if WIDTH == 2 and KIND != SQUARE else WIDTH
    AT_ONCE: tl.constexpr = BLOCK * 16 // DTYPE.primitive_bitwidth  # of 8 a thread: as many as 16 bytes have
    FEW: tl.constexpr = BLOCK // 4 if WIDTH == 2 and KIND != SQUARE else AT_ONCE if KIND == POWER else BLOCK
    lanes = tl.arange(0, FEW)
    order = tl.load(numbers) if KIND == POWER else 0.0
    for c in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        base = begin_of(table, c, DTYPE, ALIGNED)
        count = (tl.load(table + n + c) * PARTS).to(tl.int32)
        if SCALED:
            factor = tl.load(numbers + 1 + (tl.load(table + 2 * n + c) if SCALED == 2 else 0))
        whole = (count // FEW) * FEW
        acc = tl.zeros((FEW,), tl.float64)
        for o in range(0, whole, FEW):  # without a mask, or there are no 16-byte loads
            v = _values(base, o + lanes, o + lanes < count, DTYPE, PAIRS, False)
            if SCALED:
                v = v * factor
            acc += _power(v, order, KIND)
        if whole < count:
            inside = whole + lanes < count
            v = _values(base, whole + lanes, inside, DTYPE, PAIRS, True)
            if SCALED:
                v = v * factor
            acc += tl.where(inside, _power(v, order, KIND), 0.0)
        tl.store(partials + c, tl.sum(acc))


@triton.jit
def _keys(x, DTYPE: tl.constexpr, KIND: tl.constexpr):
    """Return magnitudes as integers, in whose order NaN is beyond infinity, or for a smallest one below 0.

    So comparing hands NaN on, and flushes no subnormal.
    """
    if DTYPE == tl.float64:
        bits = x.to(tl.int64, bitcast=True) & 0x7FFFFFFFFFFFFFFF
        infinity = 0x7FF0000000000000
    elif DTYPE == tl.float32:
        bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        infinity = 0x7F800000
    else:
        bits = (x.to(tl.int16, bitcast=True) & 0x7FFF).to(tl.int32)
        infinity = 0x7C00 if DTYPE == tl.float16 else 0x7F80
    if KIND == SMALLEST:
        bits = tl.where(bits > infinity, -1, bits)  # which is a NaN again
    return bits


@triton.jit
def _larger(a, b):
    return tl.where((a != a) | (a > b), a, b)  # a NaN in b: a > b is false


@triton.jit
def _smaller(a, b):
    return tl.where((a != a) | (a < b), a, b)


@triton.jit(do_not_specialize=ARGUMENTS, do_not_specialize_on_alignment=ARGUMENTS)
def measure_extrema(
    table, n, begin, end, partials,
    DTYPE: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """partials[c] = the largest, or smallest, |x| of chunk c; NaN if there is one."""
    lanes = tl.arange(0, BLOCK)
    for c in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        base = begin_of(table, c, DTYPE, ALIGNED)
        count = tl.load(table + n + c).to(tl.int32)
        whole = (count // BLOCK) * BLOCK
        if WIDTH == 2:
            FEW: tl.constexpr = BLOCK // 4  # as above
            few = tl.arange(0, FEW)
            identity = INF if KIND == SMALLEST else 0.0
            extremum = tl.full((FEW,), identity, tl.float64)
            for o in range(0, count, FEW):
                inside = o + few < count
                v = tl.where(inside, _values(base, o + few, inside, DTYPE, True, True), identity)
                extremum = _smaller(extremum, v) if KIND == SMALLEST else _larger(extremum, v)
            if KIND == SMALLEST:
                tl.store(partials + c, tl.reduce(extremum, 0, _smaller))
            else:
                tl.store(partials + c, tl.reduce(extremum, 0, _larger))
        else:
            other = INF if KIND == SMALLEST else 0.0
            acc = _keys(tl.full((BLOCK,), other, DTYPE), DTYPE, KIND)
            for o in range(0, whole, BLOCK):
                keys = _keys(tl.load(base + o + lanes), DTYPE, KIND)
                acc = tl.minimum(acc, keys) if KIND == SMALLEST else tl.maximum(acc, keys)
            if whole < count:
                x = tl.load(base + whole + lanes, mask=whole + lanes < count, other=other)
                keys = _keys(x, DTYPE, KIND)
                acc = tl.minimum(acc, keys) if KIND == SMALLEST else tl.maximum(acc, keys)
            key = tl.min(acc, axis=0) if KIND == SMALLEST else tl.max(acc, axis=0)
            if DTYPE == tl.float64:
                tl.store(partials + c, key.to(tl.float64, bitcast=True))
            elif DTYPE == tl.float32:
                tl.store(partials + c, key.to(tl.float32, bitcast=True).to(tl.float64))
            else:
                tl.store(partials + c, wide(key.to(tl.int16).to(DTYPE, bitcast=True), DTYPE))


@triton.jit(do_not_specialize=ARGUMENTS, do_not_specialize_on_alignment=ARGUMENTS)
def combine(
    table, segments, starts, bounds, partials, out, length, coef, norm,
    KIND: tl.constexpr, COEF: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[s] = the partials of segment s together, in a fixed order, whatever the launch.

    Where its first chunk and the one after its last are, the table says from word `starts` on. `COEF`, for one segment of
    squares: the norm too, min(1, max_norm / (norm + eps)), and the norm as it is returned; the table has both bounds from
    word `bounds` on.
    """
    s = tl.program_id(0)
    lanes = tl.arange(0, BLOCK)
    begin = tl.load(table + starts + s).to(tl.int32)
    end = tl.load(table + starts + segments + s).to(tl.int32)
    identity = INF if KIND == SMALLEST else 0.0
    acc = tl.full((BLOCK,), identity, tl.float64)
    for o in range(begin, end, BLOCK):
        own = tl.load(partials + o + lanes, mask=o + lanes < end, other=identity)
        if KIND == LARGEST:
            acc = _larger(acc, own)
        elif KIND == SMALLEST:
            acc = _smaller(acc, own)
        else:
            acc += own
    if KIND == LARGEST:
        total = tl.reduce(acc, 0, _larger)
    elif KIND == SMALLEST:
        total = tl.reduce(acc, 0, _smaller)
    else:
        total = tl.sum(acc)
    tl.store(out + s, total)
    if COEF:
        root = tl.sqrt(total)
        max_norm = tl.load(table + bounds).to(tl.float64, bitcast=True)
        divisor = root + tl.load(table + bounds + 1).to(tl.float64, bitcast=True)
        ratio = max_norm / tl.where(divisor == 0.0, 1.0, divisor)
        ratio = tl.where(ratio >= 1.0, 1.0, ratio)  # NaN stays
        tl.store(length, root)
        tl.store(coef, tl.where((max_norm == INF) | (divisor == 0.0), 1.0, ratio))
        tl.store(norm, root if WIDE else root.to(tl.float32))


@triton.jit(do_not_specialize=ARGUMENTS, do_not_specialize_on_alignment=ARGUMENTS)
def count_nonfinite(
    table, n, begin, end, partials, numbers,
    DTYPE: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr, ASKED: tl.constexpr,
):  # fmt: skip
    """partials[c], partials[n + c] = how many elements of chunk c are NaN, and how many infinite; a complex one may be both.

    `ASKED`: where a number is finite, none counts, and none is read.
    """
    FEW: tl.constexpr = BLOCK // WIDTH
    lanes = tl.arange(0, FEW)
    number = tl.load(numbers) if ASKED else INF
    for c in range(begin + tl.program_id(0), end, tl.num_programs(0)):
        base = begin_of(table, c, DTYPE, ALIGNED)
        count = tl.load(table + n + c).to(tl.int32)
        if ASKED:
            count = tl.where(number - number == 0.0, 0, count)
        nans = tl.zeros((FEW,), tl.float64)
        infinite = tl.zeros((FEW,), tl.float64)
        for o in range(0, count, FEW):
            inside = o + lanes < count
            if WIDTH == 2:
                re, im = parts(base, o + lanes, inside)
                is_nan, is_infinite = (re != re) | (im != im), (tl.abs(re) == INF) | (tl.abs(im) == INF)
            else:
                x = wide(tl.load(base + o + lanes, mask=inside, other=0.0), DTYPE)
                is_nan, is_infinite = x != x, tl.abs(x) == INF
            nans += is_nan.to(tl.float64)
            infinite += is_infinite.to(tl.float64)
        tl.store(partials + c, tl.sum(nans))
        tl.store(partials + n + c, tl.sum(infinite))
