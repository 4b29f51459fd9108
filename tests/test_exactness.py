"""The exactness contract of the functions: right to the last digits, however the elements are grouped."""

import math
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradclip
import reference
from gradclip.ops import reference as plain
from strategies import NARROW, elements, gradients

ORDERS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 10.0, math.inf, 0.0, -1.0, -math.inf)


def owners(tensors: list[Tensor]) -> list[Tensor]:
    parameters = [torch.nn.Parameter(torch.zeros_like(x)) for x in tensors]
    for parameter, x in zip(parameters, tensors, strict=True):
        parameter.grad = x
    return parameters


def raw(tensors: list[Tensor]) -> list[bytes]:
    return [bytes(x.contiguous().view(-1).view(torch.uint8).tolist()) for x in tensors]


@pytest.mark.parametrize("p", ORDERS)
@given(tensors=gradients())
def test_norm_is_right_to_two_ulp(p: float, tensors: list[Tensor]) -> None:
    """From the smallest subnormal to the largest finite number, and a norm beyond float32 is infinite."""
    expected = reference.norm(tensors, p)
    got = gradclip.get_total_norm(tensors, p)
    assert got.dtype == torch.float32
    assert got.shape == ()
    largest = torch.finfo(torch.float32).max
    if expected > largest * (1 + 2**-25):
        assert got.item() == math.inf
    elif expected < largest:
        assert reference.float32_ulps(got.item(), expected) <= 2


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@given(data=st.data())
def test_every_grouping_gives_the_same_norm(dtype: torch.dtype, data: st.DataObject) -> None:
    """Cut anywhere, in any order: one float32 ulp at most."""
    x = data.draw(elements(dtype, max_size=200))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=10)))
    pieces = [piece.clone() for piece in x.tensor_split(cuts)]
    whole = gradclip.get_total_norm([x]).item()
    assert reference.float32_ulps(gradclip.get_total_norm(pieces).item(), whole) <= 1
    assert reference.float32_ulps(gradclip.get_total_norm(pieces[::-1]).item(), whole) <= 1


def test_two_thousand_tensors() -> None:
    """Many small tensors are as exact as one."""
    x = torch.randn(20_000)
    assert gradclip.get_total_norm(list(x.split(10))).item() == gradclip.get_total_norm([x]).item()
    assert len(x.split(10)) == 2000


@pytest.mark.filterwarnings("ignore:.*sets every gradient to 0")
@pytest.mark.parametrize("dtype", NARROW, ids=str)
@given(data=st.data(), ratio=st.floats(1e-6, 0.999))
def test_clipped_norm_respects_the_bound(dtype: torch.dtype, data: st.DataObject, ratio: float) -> None:
    """One common factor, each element rounded once, and the norm of the result within one rounding of the bound."""
    tensors = [data.draw(elements(dtype)) for _ in range(3)]
    before = [x.clone() for x in tensors]
    norm = reference.norm(tensors, 2.0)
    max_norm = norm * ratio
    gradclip.clip_grad_norm_(owners(tensors), max_norm, eps=0.0)
    if norm == 0:
        assert raw(tensors) == raw(before)
        return
    values = [v for x in tensors for v in x.to(torch.float64).tolist()]
    exact = [v * max_norm / norm for x in before for v in x.to(torch.float64).tolist()]
    digits, _, smallest = reference.FORMATS[dtype]
    for got, wanted in zip(values, exact, strict=True):
        half_unit = max(abs(wanted) * 2.0**-digits, 2.0 ** (smallest - 1))
        assert abs(got - wanted) <= half_unit * (1 + 1e-9)
    slack = math.sqrt(len(values)) * 2.0 ** (smallest - 1)
    assert reference.norm(tensors, 2.0) <= max_norm * (1 + 2.0**-digits) * (1 + 1e-12) + slack


@given(tensors=gradients(), factor=st.floats(1.0 + 1e-12, 1e6))
def test_below_the_bound_no_byte_changes(tensors: list[Tensor], factor: float) -> None:
    """A step that needs no clipping reads and does not write."""
    before = raw(tensors)
    versions = [x._version for x in tensors]
    norm = reference.norm(tensors, 2.0)
    gradclip.clip_grad_norm_(owners(tensors), (norm + 1e-6) * factor)
    assert raw(tensors) == before
    assert [x._version for x in tensors] == versions


def test_an_infinite_bound_measures_only() -> None:
    """Even where the norm is not a number."""
    tensors = [torch.tensor([3.0, math.nan]), torch.tensor([math.inf, -0.0])]
    before = raw(tensors)
    assert math.isnan(gradclip.clip_grad_norm_(owners(tensors), math.inf).item())
    assert raw(tensors) == before


@pytest.mark.parametrize("p", [1.0, 2.0, 10.0, math.inf])
def test_extreme_but_finite_gradients_survive(p: float) -> None:
    """Torch's norm is infinite or zero here, and its gradients vanish or stay."""
    for value in (1e20, 1e38, 1e-30, 1e-42):
        x = torch.full((1000,), value)
        expected = reference.norm([x], p)
        norm = gradclip.clip_grad_norm_(owners([x]), expected / 2, p, eps=0.0)
        if expected < torch.finfo(torch.float32).max:
            assert reference.float32_ulps(norm.item(), expected) <= 2
        assert reference.norm([x], p) == pytest.approx(expected / 2, rel=1e-3 if value < 1e-38 else 1e-6)


def test_norm_beyond_float32_still_clips() -> None:
    """The norm of 1e6 elements of 1e38 is no float32, but it is a number: the gradients are clipped, not zeroed."""
    x = torch.full((1_000_000,), 1e38)
    norm = gradclip.clip_grad_norm_(owners([x]), 1.0, error_if_nonfinite=True)
    assert norm.item() == math.inf
    assert reference.norm([x[:100]], 2.0) == pytest.approx(10 / 1000, rel=1e-6)


def test_float16_norm_beyond_its_range() -> None:
    """Four tensors of norm 4e4: torch returns inf and zeroes everything."""
    tensors = [torch.full((4,), 2e4, dtype=torch.float16) for _ in range(4)]
    assert gradclip.clip_grad_norm_(owners(tensors), 8e3).item() == 8e4
    assert all(x.tolist() == [2000.0] * 4 for x in tensors)


def test_float64_is_plain() -> None:
    """2e200 squared is infinite, as in torch; 1e100 is not."""
    assert gradclip.get_total_norm([torch.full((4,), 2e200, dtype=torch.float64)]).item() == math.inf
    norm = gradclip.get_total_norm([torch.full((4,), 1e100, dtype=torch.float64), torch.ones(3)])
    assert norm.dtype == torch.float64
    assert norm.item() == 2e100


def test_two_hundred_million_elements() -> None:
    """0.1 repeated 200 million times: a running float32 sum is off by 2.4 %."""
    count = 200_000_000
    x = torch.full((count,), 0.1)
    expected = float(x[0]) * math.sqrt(count)
    assert reference.float32_ulps(gradclip.get_total_norm([x]).item(), expected) <= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_norms_have_all_digits(dtype: torch.dtype) -> None:
    """The norm of a narrow gradient is a float32, not three digits, and one tensor or many are the same."""
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(1000, generator=generator).to(dtype)
        expected = reference.norm([x], 2.0)
        assert reference.float32_ulps(gradclip.get_total_norm([x]).item(), expected) <= 1
        assert reference.float32_ulps(gradclip.get_total_norm(list(x.split(37))).item(), expected) <= 1


@pytest.mark.parametrize("order", [1.0, 2.0, math.inf])
def test_one_tensor_is_widened_at_a_time(order: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of a large model are measured in the memory of its largest tensors, not in four times that of all."""
    widened: list[weakref.ref[Tensor]] = []
    counts: list[int] = []

    def noting(x: Tensor) -> Tensor:
        counts.append(sum(own() is not None for own in widened))
        found = x.to(torch.float64)
        widened.append(weakref.ref(found))
        return found

    monkeypatch.setattr(plain, "_real", noting)
    sums = plain.ReferenceBatch([torch.full((2, 3), 2.0) for _ in range(9)]).unit_partials(order)
    assert sums.tolist() == [{1.0: 6.0, 2.0: 12.0, math.inf: 2.0}[order]] * 18
    assert max(counts) <= 1
