"""One contract for the operations of every backend, against the oracle."""

import math
from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import reference
from conftest import is_slow
from gradclip import numbers
from gradclip.ops import registry
from gradclip.ops.backend import Backend
from gradclip.ops.reference import ReferenceBatch
from strategies import NARROW, elements

REAL = (*NARROW, torch.float64)
EVERY = (*REAL, torch.complex64, torch.complex128)
ORDERS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.5, 0.1, 3.3, -1.0, -2.5)


def make(dtype: torch.dtype, *shape: int) -> Tensor:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, dtype=wide).to(dtype)


def layouts(dtype: torch.dtype, backend: Backend) -> list[Tensor]:
    """Sizes around the widths of vectors and blocks, and dense layouts in other orders of dimensions."""
    widths = (0, 1, 3, 1024, 1025) if is_slow(backend) else (0, 1, 3, 7, 8, 9, 31, 32, 33, 255, 256, 257, 513, 1025)
    sizes = [make(dtype, n) for n in widths]
    return [*sizes, make(dtype), make(dtype, 5, 7).t(), make(dtype, 2, 3, 4, 5).permute(0, 2, 3, 1)]


def unit_layouts(dtype: torch.dtype, backend: Backend) -> list[Tensor]:
    """Units of one element and of many thousands, in order or scattered in memory, and none at all."""
    if is_slow(backend):  # units of a chunk and more, and more units than one
        shapes = [(0, 4), (2, 0), (1, 9), (9, 1), (4, 1, 3, 3), (2, 17_000), (17_000,)]
    else:
        shapes = [(0, 4), (2, 0), (1, 9), (700, 1), (400, 1, 3, 3), (90, 33), (9, 300), (3, 40_000), (140_000,)]
    filters = [make(dtype, 6, 5, 3, 4) for _ in range(3)]
    scattered = [make(dtype, 40, 300).t(), filters[0].permute(3, 0, 2, 1), make(dtype, 4, 6)[:, ::2]]
    in_order = [filters[1].to(memory_format=torch.channels_last), filters[2].transpose(1, 3), make(dtype, 5, 1).t()]
    return [*layouts(dtype, backend), *(make(dtype, *shape) for shape in shapes), *scattered, *in_order]


def orders(backend: Backend, dtype: torch.dtype) -> list[float]:
    """Every order; of interpreted kernels one of each kind, the powers in turn over the dtypes."""
    kinds = [0.0, 1.0, 2.0, math.inf, -math.inf]
    powers = [p for p in ORDERS if p not in kinds]
    return [*kinds, *(powers[EVERY.index(dtype) :: len(EVERY)] if is_slow(backend) else powers)]


def in_kernels(backend: Backend, tensors: list[Tensor]) -> list[Tensor]:
    """Those that dispatch may hand to a backend."""
    return [x for x in tensors if backend.takes([x])]


def measured(backend: Backend, tensors: list[Tensor], p: float, factor: float = 1.0) -> float:
    return float(backend.open(tensors).partial(p, factor))


def is_known() -> bool:
    """Whether the host knows the numbers that it passes, and so what they leave as it is."""
    return torch.get_default_device().type == "cpu"


def raw(x: Tensor) -> Tensor:
    """The bytes of every element."""
    return (torch.view_as_real(x) if x.is_complex() else x).contiguous().view(torch.uint8)


def partial(tensors: list[Tensor], p: float) -> float:
    values = reference.magnitudes(tensors)
    if p == 0:
        return float(sum(v != 0 for v in values))
    if math.isinf(p):
        return max(values, default=0.0) if p > 0 else min(values, default=math.inf)
    return math.fsum(v**p for v in values)


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_measure_is_the_definition(backend: Backend, dtype: torch.dtype) -> None:
    """The partial of a list is that of all its elements, and each tensor's own comes out of the same pass."""
    tensors = layouts(dtype, backend)
    for p in orders(backend, dtype):
        assert measured(backend, tensors, p) == pytest.approx(partial(tensors, p), rel=1e-12), p
        each = backend.open(tensors).partials(p)
        assert each.dtype == torch.float64
        assert each.tolist() == pytest.approx([partial([x], p) for x in tensors], rel=1e-12), p


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_measure_shows_non_finite_elements(backend: Backend, dtype: torch.dtype) -> None:
    """One bad element anywhere makes its own partial non-finite, and that of all; NaN for NaN."""
    sizes = (1, 1030) if is_slow(backend) else (1, 8, 100, 1000)
    places = [(n, place) for n in sizes for place in sorted({0, n // 2, n - 1})]
    bad = [x for x in (math.nan, math.inf, -math.inf) for _ in places]
    tensors = [make(dtype, n) for n, _ in places * 3]
    for x, (_, place), value in zip(tensors, places * 3, bad, strict=True):
        x[place] = value
    few = slice(len(places) - 1, None, len(places)) if is_slow(backend) else slice(None)
    for p in (1.0, 2.0, 3.3, math.inf):
        good, *each = backend.open([make(dtype, 5), *tensors]).partials(p).tolist()
        whole = [measured(backend, [make(dtype, 5), x, make(dtype, 5)], p) for x in tensors[few]]
        assert math.isfinite(good)
        for value, got in zip([*bad, *bad[few]], [*each, *whole], strict=True):
            assert math.isnan(got) if math.isnan(value) else got == math.inf, (p, value)


def test_smallest_magnitude_propagates_nan(backend: Backend) -> None:
    """-inf takes the smallest magnitude, unless there is a NaN; infinite elements are just large."""
    x = torch.tensor([3.0, -0.5, math.inf])
    assert measured(backend, [x], -math.inf) == 0.5
    assert math.isnan(measured(backend, [x, torch.tensor([math.nan])], -math.inf))


def test_zero_has_no_power_below_0(backend: Backend) -> None:
    """It is infinite, so that the norm of such an order is 0; of any other order, a zero adds nothing."""
    x = torch.tensor([2.0, 0.0])
    assert measured(backend, [x], -1.0) == measured(backend, [x], -2.5) == math.inf
    assert measured(backend, [x], 0.5) == pytest.approx(2.0**0.5)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_a_complex_number_with_an_infinite_part_is_infinite(backend: Backend, dtype: torch.dtype) -> None:
    """Whatever the other part is."""
    for other in (1.0, math.inf, -math.inf, math.nan):
        for x in (complex(math.inf, other), complex(other, -math.inf)):
            each = [measured(backend, [torch.tensor([1.0, x], dtype=dtype)], p) for p in (1.0, math.inf)]
            assert each == [math.inf] * 2, (x, each)


def test_nan_is_not_zero(backend: Backend) -> None:
    """Order 0 counts NaN and both infinities, and neither zero."""
    assert measured(backend, [torch.tensor([math.nan, math.inf, -0.0, 0.0, 1e-45])], 0.0) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(backend: Backend, dtype: torch.dtype) -> None:
    """To the other half type, which torch joins no tensors of this one with."""
    tensors = [make(dtype, 9), make(dtype, 4)]
    expected = measured(backend, tensors, 3.3), [x * 0.5 for x in tensors]
    other = torch.bfloat16 if dtype == torch.float16 else torch.float16
    with torch.autocast(torch.get_default_device().type, other):
        assert measured(backend, tensors, 3.3) == expected[0]
        backend.open(tensors).scale_(0.5)
    assert all(torch.equal(x, y) for x, y in zip(tensors, expected[1], strict=True))


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_factor_multiplies_before_the_power(backend: Backend, dtype: torch.dtype) -> None:
    """A sum of powers in units of the largest element is what large orders are made of."""
    x = make(dtype, 100)
    expected = math.fsum((v * 0.25) ** 10 for v in reference.magnitudes([x]))
    assert measured(backend, [x], 10.0, 0.25) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_unit_square_sums(backend: Backend, dtype: torch.dtype) -> None:
    """Units are the indices of dimension 0, or the whole of a vector, whatever the order in memory."""
    tensors = in_kernels(backend, unit_layouts(dtype, backend))
    got = backend.open(tensors).unit_partials()
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(
        [partial([unit], 2.0) for x in tensors for unit in reference.units(x)], rel=1e-12
    )


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@given(data=st.data(), coef=st.floats(0.0, 1.0))
def test_scale_rounds_once(backend: Backend, dtype: torch.dtype, data: st.DataObject, coef: float) -> None:
    """Every element is the exact product rounded to the nearest, over all finite bit patterns."""
    x = data.draw(elements(dtype, max_size=300))
    expected = reference.scaled(x, coef)
    backend.open([x]).scale_(coef)
    assert x.to(torch.float64).tolist() == expected


@lru_cache  # for all backends
def scaled_patterns(dtype: torch.dtype, coef: float) -> Tensor:
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    return torch.tensor(reference.scaled(x[x.isfinite()], coef), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("coef", [0.3, 0.999, 1 - 2**-9, 0.5 + 2**-30, 3e-5, 2.0**-130, 0.0])
def test_scale_rounds_once_for_all_bit_patterns(backend: Backend, dtype: torch.dtype, coef: float) -> None:
    """All 65536 patterns: near ties the float32 product would round the wrong way."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    before = x.clone()
    finite = x.isfinite()
    backend.open([x]).scale_(coef)
    assert torch.equal(x[finite].to(torch.float64), scaled_patterns(dtype, coef).to(x.device))
    assert torch.equal(x[finite].signbit(), before[finite].signbit())
    assert bool(x[before.isnan()].isnan().all())
    assert bool((x[before.isinf()].isnan() if coef == 0 else x[before.isinf()] == before[before.isinf()]).all())


def test_scale_rounds_once_where_the_float32_product_is_beyond_a_tie(backend: Backend) -> None:
    """The product and the rounded coefficient are off together by more than one unit here, across a tie."""
    x = torch.full((1024,), float.fromhex("0x1.f7c0000000000p-13"), dtype=torch.float16)
    coef = float.fromhex("0x1.001043000d1b7p-1")
    expected = reference.scaled(x[:1], coef)
    backend.open([x]).scale_(coef)
    assert set(x.to(torch.float64).tolist()) == set(expected)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_parts_are_scaled_each_for_itself(backend: Backend, dtype: torch.dtype) -> None:
    """A real factor leaves an infinite part infinite and a signed zero signed, on lazy conjugates too."""
    x = torch.tensor([complex(math.inf, 1.0), complex(-0.0, -1.0)], dtype=dtype)
    for y in (x.clone(), x.clone().conj().resolve_conj().conj()):
        backend.open([y]).scale_(torch.tensor(0.5, dtype=torch.float64))
        assert torch.view_as_real(y.resolve_conj()).tolist() == [[math.inf, 0.5], [0.0, -0.5]]
        assert torch.view_as_real(y.resolve_conj())[1, 0].signbit()
        backend.open([y]).clamp_(0.25)
        assert torch.view_as_real(y.resolve_conj()).tolist() == [[0.25, 0.25], [0.0, -0.25]]


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_scale_reaches_every_element_of_every_layout(backend: Backend, dtype: torch.dtype) -> None:
    """Halving is exact, so it shows any element that was missed or scaled twice."""
    tensors = layouts(dtype, backend)
    halves = [x * 0.5 for x in tensors]
    versions = [x._version for x in tensors]
    backend.open(tensors).scale_(0.5)
    assert all(torch.equal(x, half) for x, half in zip(tensors, halves, strict=True))
    assert all(x._version > version for x, version in zip(tensors, versions, strict=True) if x.numel())


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_one_writes_nothing(backend: Backend, dtype: torch.dtype) -> None:
    """Not a byte, signalling NaNs included, and no version: one coefficient, one a tensor, and one a unit."""
    bits = (
        torch.arange(-40, 40, dtype=torch.int16) * 257 if dtype.itemsize == 2 else torch.arange(0x7F800000, 0x7F800064)
    )
    tensors = [
        bits.to({2: torch.int16, 4: torch.int32}[dtype.itemsize]).clone().view(dtype).view(-1, 4) for _ in range(2)
    ]
    before = [raw(x).clone() for x in tensors]
    ones = torch.ones(2, dtype=torch.float64)
    backend.open(tensors).scale_(1.0)
    backend.open(tensors).scale_(ones[0])
    backend.open(tensors).scale_(ones)
    backend.open(tensors).scale_units_(torch.ones(sum(len(x) for x in tensors), dtype=torch.float64))
    assert [x._version for x in tensors] == [0, 0] or not is_known()
    backend.open(tensors).scale_(torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert tensors[0]._version < tensors[1]._version or not is_known()
    assert torch.equal(raw(tensors[0]), before[0])


def test_scale_takes_one_coefficient_a_tensor(backend: Backend) -> None:
    """A vector of coefficients goes tensor by tensor; a 0-dim tensor is one for all."""
    tensors = [torch.full((5,), 8.0), torch.full((70_000,), 8.0), torch.full((3,), 8.0)]
    backend.open(tensors).scale_(torch.tensor([0.5, 1.0, 0.25], dtype=torch.float64))
    assert [set(x.tolist()) for x in tensors] == [{4.0}, {8.0}, {2.0}]
    backend.open(tensors).scale_(torch.tensor(0.5, dtype=torch.float64))
    assert [set(x.tolist()) for x in tensors] == [{2.0}, {4.0}, {1.0}]


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@given(data=st.data(), length=st.integers(1, 150))
def test_scale_units_rounds_once(backend: Backend, dtype: torch.dtype, data: st.DataObject, length: int) -> None:
    """Every element is its product with the coefficient of its unit, rounded to the nearest."""
    x = data.draw(elements(dtype, max_size=300))
    x = x[: len(x) // length * length].view(-1, length)
    coefs = data.draw(st.lists(st.floats(0.0, 1.0), min_size=len(x), max_size=len(x)))
    expected = [reference.scaled(unit, coef) for unit, coef in zip(x, coefs, strict=True)]
    backend.open([x]).scale_units_(torch.tensor(coefs, dtype=torch.float64))
    assert x.to(torch.float64).tolist() == expected


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_scale_units_reaches_every_unit_of_every_layout(backend: Backend, dtype: torch.dtype) -> None:
    """Powers of two are exact, so they show any element that was missed, scaled twice, or by its neighbour's number."""
    tensors = in_kernels(backend, unit_layouts(dtype, backend))
    units = [unit for x in tensors for unit in reference.units(x)]
    coefs = [(0.5, 1.0, 2.0, 4.0, -1.0)[i % 5] for i in range(len(units))]
    expected = [unit * coef for unit, coef in zip(units, coefs, strict=True)]
    before = [(x._version, x.stride()) for x in tensors]
    backend.open(tensors).scale_units_(torch.tensor(coefs, dtype=torch.float64))
    assert all(torch.equal(unit, scaled) for unit, scaled in zip(units, expected, strict=True))
    given = iter(coefs)
    for x, (version, stride) in zip(tensors, before, strict=True):
        own = [next(given) for _ in reference.units(x)]
        changed = own != [1.0] * len(own)
        assert (x._version > version) == (changed or not is_known()) or not x.numel()
        assert x.stride() == stride


@pytest.mark.parametrize("dtype", EVERY, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_unit_times_one_keeps_its_bytes(backend: Backend, dtype: torch.dtype, transposed: bool) -> None:
    """Signalling NaN and negative zeros included, while its neighbours are scaled."""
    bytes_ = torch.randint(256, (70, 130 * dtype.itemsize), dtype=torch.uint8)
    x = bytes_.view(dtype).t() if transposed else bytes_.view(dtype)
    kept = torch.rand(len(x)) < 0.7
    before = x.clone()
    backend.open([x]).scale_units_(torch.where(kept, 1.0, 0.5).to(torch.float64))
    assert torch.equal(raw(x[kept]), raw(before[kept]))
    assert not torch.equal(raw(x[~kept]), raw(before[~kept]))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_units_of_lazy_conjugates(backend: Backend, dtype: torch.dtype) -> None:
    """A conjugate that is not yet taken has the same norms, and is scaled through its view."""
    x = make(dtype, 4, 6)
    for y in (x.clone().conj(), x.clone().t().conj()):
        sums = [partial([unit], 2.0) for unit in reference.units(y.resolve_conj())]
        assert backend.open([y]).unit_partials().tolist() == pytest.approx(sums, rel=1e-12)
        expected = y.resolve_conj() * 0.5
        backend.open([y]).scale_units_(torch.full((len(y),), 0.5, dtype=torch.float64))
        assert torch.equal(y.resolve_conj(), expected)


def test_units_of_parameters(backend: Backend) -> None:
    """Weights are measured in the same way, and autograd hears nothing of it."""
    weights = [torch.nn.Parameter(x) for x in (make(torch.float32, 4, 6), make(torch.float32, 4, 6).t())]
    sums = backend.open(weights).unit_partials()
    assert not sums.requires_grad
    assert sums.tolist() == pytest.approx([partial([u], 2.0) for x in weights for u in reference.units(x)], rel=1e-12)


def test_a_bad_unit_stays_alone(backend: Backend) -> None:
    """A coefficient of NaN or 0 reaches its own unit and no other, across the pieces that a sweep is cut into."""
    x = torch.ones(5, 50_000)
    backend.open([x]).scale_units_(torch.tensor([1.0, math.nan, 0.5, 0.0, 1.0], dtype=torch.float64))
    assert bool(x[1].isnan().all())
    assert [set(x[i].tolist()) for i in (0, 2, 3, 4)] == [{1.0}, {0.5}, {0.0}, {1.0}]


@pytest.mark.parametrize("coef", [math.nan, 0.0])
def test_scale_by_a_bad_norm_is_ieee_arithmetic(backend: Backend, coef: float) -> None:
    """What torch does after a NaN or infinite norm: NaN everywhere, or zeros with NaN for infinity."""
    for dtype in REAL:
        x = torch.tensor([1.0, -2.0, math.inf] * 100).to(dtype)
        expected = x.to(torch.float64) * coef
        backend.open([x]).scale_(coef)
        assert torch.equal(x.to(torch.float64).nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("bound", [0.0, 0.1, 1.0, 1 + 2**-11 + 2**-40, 1 + 2**-8 + 2**-40, 1e30, math.inf])
def test_clamp_is_torch_clamp(backend: Backend, dtype: torch.dtype, bound: float) -> None:
    """Element by element the same as torch, NaN and infinities included; the bound is rounded once, not by float32."""
    x = torch.cat([make(dtype, 1500), torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0]).to(dtype)])
    limit = bound if math.isinf(bound) else reference.rounded(bound, dtype)
    expected = x.to(torch.float64).clamp(-limit, limit)
    backend.open([x]).clamp_(bound)
    assert torch.equal(x.to(torch.float64).nan_to_num(7.0, 8.0, -8.0), expected.nan_to_num(7.0, 8.0, -8.0))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_clamp_limits_real_and_imaginary_part(backend: Backend, dtype: torch.dtype) -> None:
    """A complex element keeps each of its parts in the interval, not its modulus."""
    x = torch.tensor([3 + 0.5j, -0.25 - 4j, 0.1 + 0.1j], dtype=dtype)
    backend.open([x]).clamp_(1.0)
    assert x.tolist() == pytest.approx([1 + 0.5j, -0.25 - 1j, 0.1 + 0.1j], rel=1e-6)


def test_nothing_is_combined_to_the_identity(backend: Backend) -> None:
    """No element has the neutral partial of its order."""
    for p in (0.0, 1.0, 2.0, math.inf, -math.inf):
        assert measured(backend, [torch.empty(0)], p) == numbers.identity(p)


def test_reference_cuts_large_tensors_and_joins_small_ones() -> None:
    """Pieces are scratch memory, not meaning: a large tensor between small ones counts all its elements."""
    tensors = [torch.ones(3), torch.ones(2**21 + 5), torch.ones(4), *[torch.ones(2**19) for _ in range(5)]]
    assert ReferenceBatch(tensors).partial(1.0) == 7 + 2**21 + 5 + 5 * 2**19


class Counting(TorchDispatchMode):
    """Counts what a device would be asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_plain_torch_elsewhere_has_as_few_launches_for_many_tensors_as_for_few(dtype: torch.dtype) -> None:
    """With an exact result, under autocast to another half type too: each launch takes longer than a small tensor."""
    few, many = [make(dtype, 30, 4).t() for _ in range(2)], [make(dtype, 70) for _ in range(100)]
    expected = [reference.scaled(x, 0.3) for x in few + many]
    counts = []
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        patch.setattr("gradclip.ops.reference._is_elsewhere", lambda _: True)
        for tensors in (many[:2], many[2:], few):
            with Counting() as counting:
                ReferenceBatch(tensors).scale_(0.3)
            counts.append(counting.operations)
    assert counts[1] == counts[0]
    assert counts[1] < 25
    assert [x.to(torch.float64).reshape(-1).tolist() for x in few + many] == expected


def test_oracle_rounds_halves_to_even() -> None:
    """The oracle itself: float32 neighbours of 1 are 2**-23 apart."""
    assert reference.rounded(1 + 2.0**-24, torch.float32) == 1.0
    assert reference.rounded(1 + 3 * 2.0**-24, torch.float32) == 1 + 2**-22
    assert reference.rounded(65520.0, torch.float16) == math.inf
    assert reference.rounded(2.0**-134, torch.bfloat16) == 0.0


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_clamp_takes_one_bound_a_tensor(backend: Backend, dtype: torch.dtype) -> None:
    """An infinite one changes nothing, and no version where it is known to be."""
    tensors = [make(dtype, 70), make(dtype, 70), make(dtype, 3, 5)]
    bounds = torch.tensor([0.25, math.inf, 0.5], dtype=torch.float64)
    expected = [x.clamp(-bound, bound) for x, bound in zip(tensors, bounds.tolist(), strict=True)]
    backend.open(tensors).clamp_(bounds)
    assert all(torch.equal(x, y) for x, y in zip(tensors, expected, strict=True))
    assert tensors[1]._version == 0 or not is_known()


@pytest.mark.parametrize("dtype", EVERY, ids=str)
def test_bad_elements_are_counted_and_set_to_zero(backend: Backend, dtype: torch.dtype) -> None:
    """NaN before infinity, in the order of the tensors; what has none is not written."""
    tensors = [make(dtype, 9), make(dtype, 4, 5).t(), make(dtype, 0)]
    tensors[1][0, 0], tensors[1][1, 1], tensors[1][2, 2] = math.nan, math.inf, -math.inf
    before = [x.clone() for x in tensors]
    versions = [x._version for x in tensors]
    batch = backend.open(tensors)
    assert batch.count_nonfinite().tolist() == [[0, 1, 0], [0, 2, 0]]
    batch.sanitize_()
    expected = [torch.where(x.isfinite(), x, 0.0) for x in before]
    assert all(torch.equal(x, y) for x, y in zip(tensors, expected, strict=True))
    assert batch.count_nonfinite().tolist() == [[0, 0, 0], [0, 0, 0]]
    if backend.name != "reference":
        assert (tensors[0]._version, tensors[1]._version > versions[1]) == (versions[0], True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64], ids=str)
def test_none_is_counted_where_a_number_is_finite(backend: Backend, dtype: torch.dtype) -> None:
    """Whether the host knows that, or a device."""
    tensors = [make(dtype, 3, 5), make(dtype, 3000), make(dtype, 0)]
    tensors[0][1, 1], tensors[1][2000], tensors[1][-1] = math.nan, math.inf, math.nan
    batch = backend.open(tensors)
    found, none = [[1, 1, 0], [0, 1, 0]], [[0] * 3] * 2
    for number, counts in ((math.nan, found), (math.inf, found), (1.0, none)):
        assert batch.count_nonfinite(number).tolist() == counts
        assert batch.count_nonfinite(torch.tensor(number, dtype=torch.float64)).tolist() == counts


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_either_part_of_a_complex_number_may_be_bad(backend: Backend, dtype: torch.dtype) -> None:
    """One that is both NaN and infinite counts as both; it becomes 0 as a whole."""
    x = torch.tensor([complex(1, math.nan), complex(-math.inf, 1), complex(math.inf, math.nan), 1 + 1j], dtype=dtype)
    batch = backend.open([x])
    assert batch.count_nonfinite().tolist() == [[2], [2]]
    batch.sanitize_()
    assert x.tolist() == [0, 0, 0, 1 + 1j]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz], ids=str)
def test_bad_numbers_of_8_bits(dtype: torch.dtype) -> None:
    """Torch compares none of them, sets none to 0 by a mask, and makes NaN of a bound that some dtypes do not hold."""
    x = torch.tensor([1.0, math.nan, -2.0]).to(dtype)
    batch = ReferenceBatch([x])
    assert batch.count_nonfinite().tolist() == [[1], [0]]
    batch.sanitize_()
    assert x.to(torch.float32).tolist() == [1.0, 0.0, -2.0]
    for bound, limited in ((1e6, -2.0), (1.5, -1.5)):
        batch.clamp_(bound)
        assert x.to(torch.float32).tolist() == [1.0, 0.0, limited]


@pytest.mark.parametrize("order", [8.0, 20.0, -8.0])
def test_each_tensor_in_units_of_its_own(backend: Backend, order: float) -> None:
    """A vector of factors goes tensor by tensor."""
    tensors = [make(torch.float32, 50) * 1e30, make(torch.float32, 20) * 1e-30]
    factors = torch.tensor([1e-30, 1e30], dtype=torch.float64)
    expected = [partial([x.double() * f], order) for x, f in zip(tensors, factors.tolist(), strict=True)]
    assert backend.open(tensors).partials(order, factors).tolist() == pytest.approx(expected, rel=1e-12)


# Several backends as one.


def mixed() -> list[Tensor]:
    """Dense, sliced, sparse with and without duplicates, in no order."""
    loose = torch.sparse_coo_tensor([[0, 0, 2]], [[1.0, 2.0], [2.0, 2.0], [-1.0, 5.0]], (4, 2))
    tight = torch.sparse_coo_tensor([[1, 3]], [4.0, -6.0], (5,)).coalesce()
    return [
        make(torch.float64, 3, 4),
        loose,
        make(torch.float32, 6, 6)[:, ::2],
        tight,
        make(torch.bfloat16, 5),
        make(torch.float32, 0),
    ]


def dense(tensors: list[Tensor]) -> list[Tensor]:
    return [x.to_dense().clone() for x in tensors]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, math.inf])
def test_several_parts_are_one_batch(p: float) -> None:
    """Partials come in the order of the tensors, whichever backend opened them; duplicates count as their sum."""
    tensors = mixed()
    batch = registry.open_(tensors)
    expected = [partial([x], p) for x in dense(tensors)]
    assert batch.partials(p).tolist() == pytest.approx(expected, rel=1e-12)
    assert float(batch.partial(p)) == pytest.approx(partial(dense(tensors), p), rel=1e-12)
    assert batch.is_wide
    assert batch.as_tensor(1e39).item() == 1e39


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_several_parts_are_changed_as_one() -> None:
    """By one number, by one a tensor, and limits; a limit holds for the sum of duplicates."""
    tensors = mixed()
    before = dense(tensors)
    coefs = torch.tensor([0.5, 0.25, 1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    batch = registry.open_(tensors)
    batch.scale_(coefs)
    batch.scale_(0.5)
    for x, y, coef in zip(dense(tensors), before, coefs.tolist(), strict=True):
        torch.testing.assert_close(x, (y.double() * coef * 0.5).to(y.dtype), rtol=1e-2, atol=0.0)
    batch.clamp_(torch.tensor([math.inf, 0.3, math.inf, 0.2, math.inf, 0.0], dtype=torch.float64))
    assert dense(tensors)[1].abs().max().item() == pytest.approx(0.3)
    assert dense(tensors)[3].abs().max().item() == pytest.approx(0.2)
    assert batch.partials(math.inf).tolist()[1] == pytest.approx(0.3)
    tensors[0][0, 0] = math.nan
    tensors[1]._values()[0] = math.inf
    again = registry.open_(tensors)
    assert again.count_nonfinite().tolist() == [[1, 0, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0]]
    again.sanitize_()
    assert again.count_nonfinite().sum() == 0
    assert all(bool(x.isfinite().all()) for x in dense(tensors))


def test_units_of_several_parts() -> None:
    """Units count through all tensors, in their order."""
    tensors = [make(torch.float32, 3, 4), make(torch.float32, 4, 6)[:, ::2], make(torch.float64, 5)]
    batch = registry.open_(tensors)
    assert batch.unit_counts() == [3, 4, 1]
    sums = [partial([unit], 2.0) for x in tensors for unit in reference.units(x)]
    assert batch.unit_partials().tolist() == pytest.approx(sums, rel=1e-12)
    coefs = torch.tensor([0.5, 1.0, 2.0] * 3, dtype=torch.float64)[:8]
    expected = [
        unit * c for unit, c in zip([u for x in tensors for u in reference.units(x)], coefs.tolist(), strict=True)
    ]
    batch.scale_units_(coefs)
    got = [unit for x in tensors for unit in reference.units(x)]
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))
