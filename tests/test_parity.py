"""The drop-in: the same names, arguments and numbers as torch.nn.utils, wherever torch is right."""

import inspect
import math

import pytest
import torch
from torch import Tensor, nn

import gradclip

NAMES = ("clip_grad_norm_", "clip_grad_value_", "get_total_norm", "clip_grads_with_norm_")
ORDERS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, math.inf)


def pair(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    gradients = [torch.randn(shape, dtype=torch.float64) * scale for shape in [(10, 10), (10,), (3, 4, 5), (), (1000,)]]
    both = []
    for _ in range(2):
        parameters = [nn.Parameter(torch.zeros(g.shape, dtype=dtype)) for g in gradients]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.to(dtype, copy=True)
        both.append(parameters)
    return both[0], both[1]


@pytest.mark.parametrize("name", NAMES)
def test_torchs_arguments_come_first(name: str) -> None:
    """Names, order and defaults of torch; ours are keyword-only after them."""
    ours = list(inspect.signature(getattr(gradclip, name)).parameters.values())
    theirs = list(inspect.signature(getattr(torch.nn.utils, name)).parameters.values())
    for mine, its in zip(ours, theirs, strict=False):
        assert (mine.name, mine.default, mine.kind) == (its.name, its.default, its.kind)
    assert all(extra.kind is inspect.Parameter.KEYWORD_ONLY for extra in ours[len(theirs) :])


@pytest.mark.parametrize("norm_type", ORDERS)
@pytest.mark.parametrize("max_norm", [0.0, 0.1, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("foreach", [None, True, False])
@pytest.mark.filterwarnings("ignore:.*sets every gradient to 0")
def test_clip_grad_norm(norm_type: float, max_norm: float, foreach: bool | None) -> None:
    """Norm and gradients agree with torch's to float32 rounding."""
    ours, theirs = pair()
    norm = gradclip.clip_grad_norm_(ours, max_norm, norm_type, False, foreach)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type, False, foreach)
    torch.testing.assert_close(norm, expected, rtol=2e-6, atol=0)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=3e-6, atol=0)


@pytest.mark.parametrize("norm_type", [*ORDERS, -1.0, -math.inf])
def test_float64_agrees_to_float64_rounding(norm_type: float) -> None:
    """Nothing is lost on double precision."""
    ours, theirs = pair(torch.float64)
    norm = gradclip.clip_grad_norm_(ours, 1.0, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0, norm_type)
    torch.testing.assert_close(norm, expected, rtol=1e-13, atol=0)
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("clip_value", [0.0, 0.1, 1.0, 100.0])
@pytest.mark.filterwarnings("ignore:.*sets every gradient to 0")
def test_clip_grad_value_is_torchs_bit_for_bit(dtype: torch.dtype, clip_value: float) -> None:
    """The same bound, rounded the same."""
    ours, theirs = pair(dtype)
    gradclip.clip_grad_value_(ours, clip_value)
    torch.nn.utils.clip_grad_value_(theirs, clip_value)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("norm_type", ORDERS)
def test_one_factor_for_all_elements(norm_type: float) -> None:
    """Clipping keeps the direction: every element shrinks by the same factor."""
    ours, _ = pair(torch.float64)
    before = [p.grad.clone() for p in ours]
    norm = gradclip.clip_grad_norm_(ours, 0.5, norm_type)
    factors = torch.cat([(p.grad / g).reshape(-1) for p, g in zip(ours, before, strict=True)])
    assert factors.std() < 1e-15
    assert factors.mean().item() == pytest.approx(0.5 / (norm.item() + 1e-6), rel=1e-14)


@pytest.mark.parametrize("norm_type", [0.1, 1, 2, 3.5, math.inf, -0.1, -1, -2, -3.5, 0])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 2e22, 2e200])
@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("with_finite", [True, False])
def test_which_norms_are_errors(norm_type: float, value: float, everywhere: bool, with_finite: bool) -> None:
    """error_if_nonfinite raises for the same values, orders and positions as torch does."""

    def make() -> list[Tensor]:
        bad = nn.Parameter(torch.ones(10, dtype=torch.float64))
        bad.grad = torch.full((10,), value if everywhere else 1.0, dtype=torch.float64)
        bad.grad[3] = value
        fine = nn.Parameter(torch.ones(10, dtype=torch.float64))
        fine.grad = torch.ones(10, dtype=torch.float64)
        return [fine, bad] if with_finite else [bad]

    def outcome(clip: object, parameters: list[Tensor]) -> tuple[bool, list[list[float]]]:
        before = [p.grad.clone() for p in parameters]
        try:
            clip(parameters, 1.0, norm_type, error_if_nonfinite=True)
        except RuntimeError:
            assert all(
                torch.equal(p.grad.nan_to_num(), g.nan_to_num()) for p, g in zip(parameters, before, strict=True)
            )
            return True
        return False

    assert outcome(gradclip.clip_grad_norm_, make()) == outcome(torch.nn.utils.clip_grad_norm_, make())


def test_a_training_loop_is_the_same() -> None:
    """Fifty steps of an LSTM with one import exchanged end at the same weights, to float32 rounding."""
    ends = []
    for clip in (gradclip.clip_grad_norm_, torch.nn.utils.clip_grad_norm_):
        torch.manual_seed(0)
        lstm, head = nn.LSTM(4, 16), nn.Linear(16, 1)
        parameters = [*lstm.parameters(), *head.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        for _ in range(50):
            x = torch.randn(20, 8, 4)
            loss = (head(lstm(x)[0][-1]) - x.sum(dim=(0, 2))[:, None]).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            clip(parameters, 0.5)
            optimizer.step()
        ends.append(torch.cat([p.detach().reshape(-1) for p in parameters]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-5)
