"""Bad input: a clear error that names the argument, the value and the way out, before anything is changed."""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradclip


@pytest.fixture
def p() -> nn.Parameter:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    return parameter


BOUNDS = [
    (-1, ValueError, "must be >= 0, got -1. To switch clipping off, pass `math.inf`."),
    (-1e-9, ValueError, "must be >= 0, got -1e-09."),
    (math.nan, ValueError, "must be >= 0, got nan."),
    (True, TypeError, "must be a number, got True (bool)."),
    (np.bool_(True), TypeError, "must be a number, got "),
    (10**400, ValueError, "must be a number that a float can hold, got a larger one."),
    ("1.0", TypeError, "must be a number, got '1.0' (str)."),
    (None, TypeError, "must be a number, got None (NoneType)."),
    (1j, TypeError, "must be a number, got 1j (complex)."),
    (torch.tensor(-1.0), ValueError, "must be >= 0, got -1.0."),
    (torch.tensor(math.nan), ValueError, "must be >= 0, got nan."),
    (torch.ones(2), ValueError, "must hold one real number, got a torch.float32 tensor of shape (2,)."),
    (torch.tensor(True), ValueError, "must hold one real number, got a torch.bool tensor of shape ()."),
]


@pytest.mark.parametrize(("bound", "error", "message"), BOUNDS)
def test_bounds(p: nn.Parameter, bound: object, error: type[Exception], message: str) -> None:
    """max_norm and clip_value: torch flips signs for -1, poisons for NaN, and takes True and "1.0"."""
    calls: dict[str, Callable[[], object]] = {
        "clip_grad_norm_(max_norm=...)": lambda: gradclip.clip_grad_norm_([p], bound),
        "clip_grads_with_norm_(max_norm=...)": lambda: gradclip.clip_grads_with_norm_([p], bound, 5.0),
        "clip_coefficient(max_norm=...)": lambda: gradclip.clip_coefficient(5.0, bound),
        "clip_grad_value_(clip_value=...)": lambda: gradclip.clip_grad_value_([p], bound),
    }
    for name, call in calls.items():
        with pytest.raises(error, match=re.escape(f"`{name}` {message}")):
            call()
    assert p.grad.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("norm_type", "error", "message"),
    [
        (math.nan, ValueError, "must be a number, got nan."),
        ("nan", ValueError, "must be a number, got nan."),
        ("two", ValueError, "must be a number or 'inf', got 'two'."),
        (None, TypeError, "must be a number, got None (NoneType)."),
        (True, TypeError, "must be a number, got True (bool)."),
    ],
)
def test_norm_type(p: nn.Parameter, norm_type: object, error: type[Exception], message: str) -> None:
    """An order is a real number, or 'inf'."""
    calls: dict[str, Callable[[], object]] = {
        "clip_grad_norm_": lambda: gradclip.clip_grad_norm_([p], 1.0, norm_type),
        "get_total_norm": lambda: gradclip.get_total_norm([p.grad], norm_type),
        "get_norms": lambda: gradclip.get_norms([p], norm_type),
    }
    for name, call in calls.items():
        with pytest.raises(error, match=re.escape(f"`{name}(norm_type=...)` {message}")):
            call()
    assert p.grad.tolist() == [3, 4]


@pytest.mark.parametrize("order", ["inf", "Inf", "-inf", "2", " 1 ", 1])
def test_norm_type_as_text(p: nn.Parameter, order: str | float) -> None:
    """As a command line gives it, and torch takes it."""
    expected = torch.nn.utils.get_total_norm([p.grad], order)
    assert gradclip.clip_grad_norm_([p], 10.0, order).equal(expected)
    assert gradclip.get_total_norm([p.grad], order).equal(expected)


def test_numbers_of_other_libraries(p: nn.Parameter) -> None:
    """Whatever float() takes, but truth values and words."""
    for number in (np.float32(1), np.float64(1), np.array(1.0), Decimal(1), Fraction(1), np.int64(1)):
        p.grad = torch.tensor([3.0, 4.0])
        assert gradclip.clip_grad_norm_([p], number, number, eps=0.0).item() == 7
        assert p.grad.abs().sum().item() == pytest.approx(1)
    assert gradclip.clip_grad_norm_([p], 1e9, torch.tensor(3.0)).dtype == torch.float32


NO_NUMBERS = [
    torch.tensor(True),
    torch.tensor(1j),
    torch.tensor([]),
    torch.ones(2),
    torch.ones(1).to_sparse(),
    torch.tensor(1.0, device="meta"),
    np.complex64(1j),
    np.ones(2),
    np.timedelta64(1, "Y"),
    np.datetime64("2020"),
    Decimal("sNaN"),
]
"""What Python makes a float of, or refuses to in words that name no argument."""


@pytest.mark.parametrize("given", NO_NUMBERS, ids=repr)
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_no_numbers(p: nn.Parameter, given: object) -> None:
    """Truth values, complex numbers, dates, many numbers and none, wherever one real number is asked for."""
    calls: dict[str, Callable[[], object]] = {
        "clip_grad_norm_(norm_type=...)": lambda: gradclip.clip_grad_norm_([p], 1.0, given),
        "clip_grad_norm_(eps=...)": lambda: gradclip.clip_grad_norm_([p], 1.0, eps=given),
        "GradClipper(norms_every=...)": lambda: gradclip.GradClipper([p], norms_every=given),
        "GradClipper(max_consecutive_skips=...)": lambda: gradclip.GradClipper([p], max_consecutive_skips=given),
        "FixedNorm(max_norm=...)": lambda: gradclip.policies.FixedNorm(given),
        "warmup(steps=...)": lambda: gradclip.policies.warmup(given, gradclip.policies.FixedNorm(1.0)),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=re.escape(f"`{name}` must be a number, got ")):
            call()
    bounds: dict[str, Callable[[], object]] = {
        "clip_grad_norm_(max_norm=...)": lambda: gradclip.clip_grad_norm_([p], given),
        "clip_grads_with_norm_(total_norm=...)": lambda: gradclip.clip_grads_with_norm_([p], 1.0, given),
        "GradClipper.observe_loss(loss=...)": lambda: gradclip.GradClipper([p]).observe_loss(given),
    }
    for name, call in bounds.items() if not (isinstance(given, Tensor) and given.is_meta) else ():
        with pytest.raises((TypeError, ValueError), match=re.escape(f"`{name}` must ") + "(be a|hold one real) number"):
            call()
    assert p.grad.tolist() == [3, 4]


def test_no_words(p: nn.Parameter) -> None:
    """Arrays compare element by element, and have no truth value then."""
    with pytest.raises(ValueError, match=re.escape("`GradClipper(nonfinite=...)` must be one of 'skip', ")):
        gradclip.GradClipper([p], nonfinite=np.ones(2))


@pytest.mark.parametrize("eps", [-1e-6, math.nan, math.inf])
def test_eps(p: nn.Parameter, eps: float) -> None:
    """What is added to the norm cannot be negative."""
    for call in (
        lambda: gradclip.clip_grad_norm_([p], 1.0, eps=eps),
        lambda: gradclip.clip_grads_with_norm_([p], 1.0, 5.0, eps=eps),
        lambda: gradclip.clip_coefficient(5.0, 1.0, eps),
    ):
        with pytest.raises(ValueError, match=r"\(eps=...\)` must be finite and >= 0, got"):
            call()
    assert p.grad.tolist() == [3, 4]


def test_total_norm(p: nn.Parameter) -> None:
    """A negative norm would flip every gradient."""
    with pytest.raises(ValueError, match=r"`clip_grads_with_norm_\(total_norm=...\)` must be >= 0, got -1.0"):
        gradclip.clip_grads_with_norm_([p], 1.0, -1.0)
    with pytest.raises(TypeError, match=r"\(total_norm=...\)` must be a number, got '5'"):
        gradclip.clip_grads_with_norm_([p], 1.0, "5")
    assert p.grad.tolist() == [3, 4]


def test_nonfinite(p: nn.Parameter) -> None:
    """One answer, of the four there are."""
    with pytest.raises(ValueError, match=r"must be one of 'propagate', 'raise', 'keep', 'sanitize', got 'skip'"):
        gradclip.clip_grad_norm_([p], 1.0, nonfinite="skip")
    with pytest.raises(ValueError, match="must agree with `error_if_nonfinite=True`, got 'keep'"):
        gradclip.clip_grad_norm_([p], 1.0, error_if_nonfinite=True, nonfinite="keep")
    assert p.grad.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"w": torch.zeros(1)}, "an Optimizer, got dict. Pass its `.values()` or `.items()`."),
        ("weights", "an Optimizer, got str. Pass `model.parameters()`."),
        (None, "an Optimizer, got NoneType."),
        (3, "an Optimizer, got int."),
        ([torch.zeros(1, requires_grad=True), 3], "hold Tensors, got int at parameters[1]."),
        ([None], "hold Tensors, got NoneType at parameters[0]."),
        ([("w", None)], "hold Tensors, got tuple at parameters[0]."),
        ([("w", torch.zeros(1, requires_grad=True)), 3], "hold Tensors, got int at parameters[1]."),
        ([[[torch.zeros(1)]]], "hold Tensors, got list at parameters[0]."),
        ([{"weight": torch.zeros(1)}], "hold Tensors, got dict at parameters[0]."),
        ([[3]], "hold Tensors, got int at parameters[0]."),
        ([{"params": iter([])}], "got dict at parameters[0]. Make its `params` a list."),
    ],
)
def test_what_is_no_parameters(given: object, message: str) -> None:
    """A dict, a string, a list with something else in it."""
    for call in (gradclip.clip_grad_norm_, gradclip.clip_grad_value_):
        with pytest.raises(
            TypeError, match=re.escape(f"`{call.__name__}(parameters=...)` must ") + ".*" + re.escape(message)
        ):
            call(given, 1.0)


def test_gradients_in_place_of_parameters() -> None:
    """Torch returns 0 and clips nothing; transformers shipped that."""
    gradients = [torch.ones(3), torch.ones(2)]
    for call in (
        lambda: gradclip.clip_grad_norm_(gradients, 1.0),
        lambda: gradclip.clip_grad_norm_(iter(gradients), 1.0),
        lambda: gradclip.clip_grads_with_norm_(gradients, 1.0, 5.0),
        lambda: gradclip.clip_grad_value_(gradients, 1.0),
        lambda: gradclip.get_norms(gradients),
    ):
        with pytest.raises(TypeError, match=r"must hold parameters.*call `get_total_norm\(gradients\)`"):
            call()


@pytest.mark.parametrize(
    "make",
    [lambda: torch.ones(2, dtype=torch.int64), lambda: torch.ones(2) > 0, lambda: torch.eye(2).to_sparse_csr()],
    ids=["integer", "bool", "csr"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_gradients_without_a_norm(make: Callable[[], Tensor]) -> None:
    """Integers, and layouts that are not clipped."""
    with pytest.raises(TypeError, match=r"`get_total_norm` must be given real or complex .* at tensors\[1\]"):
        gradclip.get_total_norm([torch.ones(2), make()])


def test_nothing_is_touched_when_a_later_gradient_is_refused(p: nn.Parameter) -> None:
    """All gradients are looked at before the first is written."""
    q = nn.Parameter(torch.zeros(2))
    q.grad = torch.ones(1).expand(2)
    with pytest.raises(gradclip.OverlappingGradientError):
        gradclip.clip_grad_norm_([p, q], 1.0)
    assert p.grad.tolist() == [3, 4]
