"""On a device without float64: nothing overflows, underflows or drifts, whatever is asked; and everything works."""

import math
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

import gradclip
import reference
import there
from gradclip.numbers import home
from gradclip.ops import narrow, registry
from gradclip.ops.narrow import NarrowBatch
from gradclip.testing import capture_records
from policies.cases import CASES, SHAPES, clipper_of, model
from there import PLACE, There, without_float64

ULPS = 4
"""Units in the last place of float32 that a norm may be off by."""

LARGEST = torch.finfo(torch.float32).max


def is_right(got: Tensor, expected: float) -> bool:
    """Whether a norm is that near; beyond float32, infinite."""
    number = got.held.item()
    near = expected < LARGEST * (1 + 1e-6) and reference.float32_ulps(number, min(expected, LARGEST)) <= ULPS
    return near or (expected > LARGEST * (1 - 1e-6) and number == math.inf)


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with without_float64():
        yield


def owners(gradients: list[Tensor]) -> list[Parameter]:
    found = [Parameter(There(torch.zeros_like(x))) for x in gradients]
    for parameter, gradient in zip(found, gradients, strict=True):
        parameter.grad = There(gradient)
    return found


def held(parameters: list[Parameter]) -> list[Tensor]:
    return [p.grad.held for p in parameters]


def drawn(scale: float = 1.0) -> list[Tensor]:
    """Gradients of every dtype there is, in several layouts."""
    tensors = [torch.randn(shape) * scale for shape in ((3,), (70, 300), (), (0,), (5, 7, 3), (1, 9))]
    tensors += [(torch.randn(40, 50) * scale).t(), (torch.randn(60, 8) * scale)[:, ::2]]
    tensors += [torch.randn(500).to(dtype) for dtype in (torch.float16, torch.bfloat16)]
    return [*tensors, torch.randn(30, 4, dtype=torch.complex64) * scale]


def test_the_stand_in_refuses_float64() -> None:
    """As the device does."""
    with pytest.raises(TypeError, match="float64"):
        There(torch.zeros(2)).double()
    with pytest.raises(TypeError, match="float64"):
        torch.full((2,), 1.0, dtype=torch.float64, device=PLACE)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 2.0, 3.3, 9.0, math.inf, -1.0, -math.inf])
@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 1e37])
def test_norms(p: float, scale: float) -> None:
    """Of everything and of each, over the range of float32."""
    gradients = drawn(scale)
    norm = gradclip.get_total_norm([There(x) for x in gradients], p)
    assert (norm.device, norm.dtype) == (PLACE, torch.float32)
    assert is_right(norm, reference.norm(gradients, p))
    for own, x in zip(gradclip.get_norms(owners(gradients), p).values(), gradients, strict=True):
        assert is_right(own, reference.norm([x], p))


@pytest.mark.parametrize("value", [0.1, 1.0 + 2.0**-23, 3e38, 1e-45])
@pytest.mark.parametrize("numel", [1, 63, 64, 65, 2047, 2049, 2**20 + 7])
def test_a_long_sum_does_not_drift(value: float, numel: int) -> None:
    """Equal numbers err all in one direction."""
    x = torch.full((numel,), value)
    expected = x[0].double().item() * math.sqrt(numel)
    got = gradclip.get_total_norm([There(x)])
    assert is_right(got, expected)
    assert torch.equal(gradclip.clip_grad_norm_(owners([x]), math.inf).held, got.held)


def test_pieces_of_large_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its own unit."""
    monkeypatch.setattr(narrow, "PIECE", 1000)
    x = torch.randn(4321) * torch.logspace(-30, 30, 4321)
    assert is_right(gradclip.get_total_norm([There(x)]), reference.norm([x], 2.0))
    assert gradclip.get_total_norm([There(x)], math.inf).held.item() == x.abs().max().item()


@given(data=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=200))
def test_any_numbers(data: list[float]) -> None:
    x = torch.tensor(data, dtype=torch.float32)
    assert is_right(gradclip.get_total_norm([There(x)]), reference.norm([x], 2.0))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e18, 1e37])
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e30])
def test_clip(max_norm: float, scale: float) -> None:
    """To the bound within the rounding of each element; what is below it keeps its bytes."""
    gradients = [x for x in drawn(scale) if x.dtype == torch.float32]
    before = [x.clone() for x in gradients]
    parameters = owners(gradients)
    norm = reference.norm(before, 2.0)
    gradclip.clip_grad_norm_(parameters, max_norm)
    coef = reference.coefficient(norm, max_norm)
    for x, old in zip(held(parameters), before, strict=True):
        if coef == 1.0:
            assert torch.equal(x, old)
        torch.testing.assert_close(x.double(), old.double() * coef, rtol=ULPS * 2.0**-23, atol=1.5e-45)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_scaled_by_an_exact_coefficient(dtype: torch.dtype) -> None:
    """Whose rounding to a half type would leave a norm above the bound."""
    x = torch.randn(10_000).to(dtype)
    expected = x.double() * reference.coefficient(reference.norm([x], 2.0), 33.3)
    parameters = owners([x])
    gradclip.clip_grad_norm_(parameters, 33.3)
    assert bool(
        ((held(parameters)[0].double() - expected).abs() <= expected.abs() * torch.finfo(dtype).eps * 0.51).all()
    )


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float16, 11), (torch.bfloat16, 8)])
def test_a_bound_is_rounded_once_to_a_half_type(dtype: torch.dtype, digits: int) -> None:
    """By way of float32, one just above a tie would become the tie, and then the even number below."""
    bound = 1.0 + 2.0**-digits + 2.0**-40
    parameters = owners([torch.full((3,), 7.0, dtype=dtype)])
    gradclip.clip_grad_value_(parameters, bound)
    assert held(parameters)[0].tolist() == [reference.rounded(bound, dtype)] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite(bad: float) -> None:
    """Is seen by every order, named, kept and set to 0."""
    x = torch.randn(5000)
    x[4000] = bad
    for p in (1.0, 2.0, 3.3, math.inf):
        assert not math.isfinite(gradclip.get_total_norm([There(x)], p).held.item())
    parameters = owners([torch.ones(3), x.clone()])
    with pytest.raises(
        gradclip.NonFiniteGradientError, match=r"parameters\[1\] \(1 NaN|parameters\[1\] \(0 NaN, 1 Inf"
    ):
        gradclip.clip_grad_norm_(parameters, 1.0, nonfinite="raise")
    gradclip.clip_grad_norm_(parameters, 1.0, nonfinite="keep")
    assert torch.equal(held(parameters)[1].nan_to_num(7.0), x.nan_to_num(7.0))
    gradclip.clip_grad_norm_(parameters, 1.0, nonfinite="sanitize")
    assert reference.norm(held(parameters), 2.0) == pytest.approx(1.0, rel=1e-6)


def test_other_functions() -> None:
    """Elements, a norm known already, a bound on the device, and the coefficient."""
    gradients = drawn()
    parameters = owners([x.clone() for x in gradients])
    gradclip.clip_grad_value_(parameters, 0.25)
    real = [torch.view_as_real(x) if x.is_complex() else x for x in held(parameters)]
    assert all(bool((x.abs() <= 0.25).all()) for x in real)
    parameters = owners([x.clone() for x in gradients])
    norm = gradclip.get_total_norm([p.grad for p in parameters])
    gradclip.clip_grads_with_norm_(parameters, There(torch.tensor(0.5)), norm)
    assert reference.norm(held(parameters), 2.0) == pytest.approx(0.5, rel=1e-3)
    coef = gradclip.clip_coefficient(norm, 0.5)
    assert coef.item() == pytest.approx(0.5 / (norm.held.item() + 1e-6))


def test_what_cannot_be_written_is_refused() -> None:
    """Before anything is changed; what has no norm too."""
    parameters = owners([torch.full((3,), 10.0), torch.ones(4)])
    parameters[1] = Parameter(There(torch.zeros(3, 2)))
    parameters[1].grad = There(torch.ones(4).as_strided((3, 2), (1, 1)))
    with pytest.raises(gradclip.OverlappingGradientError, match=r"parameters\[1\]"):
        gradclip.clip_grad_norm_(parameters, 0.5)
    assert parameters[0].grad.held.tolist() == [10.0] * 3
    assert gradclip.get_total_norm([There(torch.ones(1).expand(4))]).held.item() == 2.0
    with pytest.raises(TypeError, match="floating-point gradients"):
        gradclip.get_total_norm([There(torch.ones(3, dtype=torch.int64))])


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("p", [1.0, 2.0, 3.3, math.inf, -1.0])
@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64])
def test_magnitudes_beyond_the_parts(dtype: torch.dtype, p: float) -> None:
    """Both parts are finite, and the magnitude is not, in their precision."""
    big = 3e38 if dtype == torch.complex64 else 5e4
    x = torch.tensor([complex(big, big), complex(big / 7, 0.0)], dtype=torch.complex128).to(dtype)
    expected = reference.norm([x.to(torch.complex128)], p)
    assert is_right(gradclip.get_total_norm([There(x)], p), expected)
    parameters = owners([x])
    gradclip.clip_grad_norm_(parameters, 0.5)
    left = held(parameters)[0].to(torch.complex128)
    assert reference.norm([left], 2.0) == pytest.approx(0.5, rel=1e-3 if dtype == torch.complex32 else 1e-6)


@pytest.mark.parametrize("max_norm", [1e-34, 1e-36])
def test_coefficients_far_below_float32(max_norm: float) -> None:
    parameters = owners([torch.full((4,), 3e38)])
    gradclip.clip_grad_norm_(parameters, max_norm)
    assert held(parameters)[0].tolist() == pytest.approx([max_norm / 2] * 4, rel=1e-6)


def test_a_float64_parameter_on_the_cpu_beside() -> None:
    """Each norm is where its parameter is, as wide as that can be."""
    wide = Parameter(torch.zeros(3, dtype=torch.float64))
    wide.grad = torch.ones(3, dtype=torch.float64)
    for parameters in ([*owners([torch.ones(4)]), wide], [wide, *owners([torch.ones(4)])]):
        norms = {norm.device.type: norm for norm in gradclip.get_norms(parameters).values()}
        assert norms["cpu"].item() == pytest.approx(math.sqrt(3.0), rel=1e-15)
        assert (norms[PLACE.type].held.item(), norms[PLACE.type].dtype) == (2.0, torch.float32)


def test_units() -> None:
    """Rows of a weight, in any layout; those times 1 keep their bytes."""
    gradients = [x for x in drawn() if x.numel()]
    batch = NarrowBatch([There(x) for x in gradients])
    units = [unit for x in gradients for unit in reference.units(x)]
    for p in (1.0, 2.0, math.inf):
        expected = [reference.norm([unit], p) ** (p if p < math.inf else 1.0) for unit in units]
        assert batch.unit_partials(p).tolist() == pytest.approx(expected, rel=1e-6)
    coefs = [(1.0, 0.5, 2.0**-120)[i % 3] for i in range(len(units))]
    before = [unit.clone() for unit in units]
    batch.scale_units_(torch.tensor(coefs, dtype=torch.float64))
    for unit, old, coef in zip(units, before, coefs, strict=True):
        assert torch.equal(unit, (old.to(torch.complex128 if old.is_complex() else torch.float64) * coef).to(old.dtype))


@pytest.mark.parametrize("name", CASES)
def test_policies(name: str) -> None:
    """Every policy decides as on the CPU, on what float32 can tell apart."""
    there, here = (outcomes(CASES[name].policy, away) for away in (True, False))
    for ours, expected in zip(there, here, strict=True):
        for key, value in expected.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-7)


def outcomes(policy: Any, away: bool) -> list[dict[str, Tensor]]:
    torch.manual_seed(0)
    parameters = {
        key: Parameter(There(p.detach().float()) if away else p.detach().float()) for key, p in model().items()
    }
    clipper = clipper_of(policy, parameters)
    found: list[dict[str, Tensor]] = []
    for step in range(12):
        torch.manual_seed(step)
        for key, shape in SHAPES.items():
            x = torch.randn(shape) * (30.0 if step == 9 else 1.0)
            parameters[key].grad = There(x) if away else x
        clipper.clip()
        found.append({key: (p.grad.held if away else p.grad).clone() for key, p in parameters.items()})
    return found


@pytest.mark.parametrize("nonfinite", ["skip", "propagate", "sanitize"])
def test_a_fused_step_under_a_scaler(nonfinite: Any) -> None:
    """Gradients are unscaled and overflows heard of, as on the CPU."""
    runs: list[list[Any]] = []
    for make in (lambda x: x, There):
        parameter: Any = Parameter(make(torch.ones(3)))
        optimizer: Any = torch.optim.SGD([parameter], lr=0.1, fused=True)
        clipper = gradclip.GradClipper([parameter], nonfinite=nonfinite).attach(optimizer)
        found: list[Any] = []
        for value, overflow in ((12.0, 0.0), (8.0, 1.0), (2.0, 0.0)):
            parameter.grad = make(torch.full((3,), value))
            optimizer.grad_scale, optimizer.found_inf = make(torch.tensor(4.0)), make(torch.tensor(overflow))
            optimizer.step()
            assert clipper.last is not None
            found += [clipper.last.status, clipper.last.total_norm, *parameter.detach().cpu().tolist()]
        runs.append(found)
    assert runs[1] == pytest.approx(runs[0])
    assert [x for x in runs[0] if isinstance(x, str)] == ["clipped", "skipped_scaler", "ok"]


def test_a_record_of_a_fused_step_names_what_is_not_finite() -> None:
    """The numbers are on the host, which decides about the step, and looks as it does elsewhere."""
    parameter: Any = Parameter(There(torch.ones(3)))
    optimizer = torch.optim.SGD([parameter], lr=0.1, fused=True)
    clipper = gradclip.GradClipper([("w", parameter)]).attach(optimizer)
    with capture_records(clipper) as records:
        for bad in (1.0, math.nan, math.inf):
            parameter.grad = There(torch.tensor([0.0, bad, 0.5]))
            optimizer.step()
    assert [x.nonfinite for x in records] == [None, {"w": (1, 0)}, {"w": (0, 1)}]


def test_a_coefficient_goes_with_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it to the device, for each tensor, would be waited for each time."""
    copied: list[Tensor] = []

    def noting(to: Tensor, x: Tensor, *_: object) -> Tensor:
        copied.append(x)
        return there._copied(x, to)

    monkeypatch.setattr(there, "_copied_again", noting)
    parameters = owners([torch.ones(3), torch.ones(4, 5), torch.full((2,), 3e38)])
    copied.clear()
    gradclip.clip_grad_norm_(parameters, 1e-30)
    assert len([x for x in copied if not isinstance(x, There)]) == 1  # the norm, which is returned


def test_one_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is scratch memory for a few pieces of the gradients, and not for all."""
    sizes = narrow._sizes
    made: list[weakref.ref[torch.UntypedStorage]] = []
    counts: list[int] = []

    def noting(x: Tensor) -> Tensor:
        counts.append(sum(own() is not None for own in made))
        found = sizes(x)
        made.append(weakref.ref(found.untyped_storage()))
        return found

    monkeypatch.setattr(narrow, "_sizes", noting)
    monkeypatch.setattr(narrow, "PIECE", 4)
    batch = NarrowBatch([torch.full((4, 4), 2.0) for _ in range(5)])
    assert batch.partial(2.0) == 320.0
    assert batch.partials(1.0).tolist() == [32.0] * 5
    assert batch.unit_partials().tolist() == [16.0] * 20
    assert max(counts) <= 2


def test_of_one_type_some_have_float64_and_some_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intel's first Arc cards have none, which their properties say; kernels that need it are not tried on them."""
    first, second = torch.device("xpu", 0), torch.device("xpu", 1)
    monkeypatch.setattr(
        torch.xpu, "get_device_properties", lambda device: SimpleNamespace(has_fp64=device.index == second.index)
    )
    assert home(first) == torch.device("cpu")
    assert home(second) == second
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(registry, "is_interpreted", lambda: False)
    tried = registry._Tried()
    assert tried.backend() is None
    assert "float64" in tried.missing
