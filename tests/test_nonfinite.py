"""NaN and infinite gradients: what each answer leaves behind, and what the error names."""

import math

import pytest
import torch
from torch import Tensor, nn

import gradclip


def net(*gradients: Tensor) -> list[tuple[str, nn.Parameter]]:
    pairs = [(f"layer{i}.weight", nn.Parameter(torch.zeros_like(g))) for i, g in enumerate(gradients)]
    for (_, p), g in zip(pairs, gradients, strict=True):
        p.grad = g.clone()
    return pairs


GOOD = torch.tensor([3.0, -0.0, 4.0])
BAD = [torch.tensor([1.0, math.nan]), torch.tensor([math.inf, 2.0]), torch.tensor([-math.inf, math.nan, math.inf])]


def raw(pairs: list[tuple[str, nn.Parameter]]) -> list[list[int]]:
    return [p.grad.view(torch.uint8).tolist() for _, p in pairs]


@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 10.0, math.inf])
def test_propagate_is_the_arithmetic_of_torch(bad: Tensor, norm_type: float) -> None:
    """Zeros after an infinite norm, NaN after a NaN, and the same norm."""
    ours, theirs = net(GOOD, bad), net(GOOD, bad)
    norm = gradclip.clip_grad_norm_(ours, 1.0, norm_type)
    expected = torch.nn.utils.clip_grad_norm_([p for _, p in theirs], 1.0, norm_type)
    assert torch.equal(norm.nan_to_num(-1.0, -2.0), expected.nan_to_num(-1.0, -2.0))
    for (_, p), (_, q) in zip(ours, theirs, strict=True):
        assert torch.equal(p.grad.nan_to_num(-1.0, -2.0, -3.0), q.grad.nan_to_num(-1.0, -2.0, -3.0))


@pytest.mark.parametrize("bad", BAD, ids=str)
@pytest.mark.parametrize(
    "how", [{"error_if_nonfinite": True}, {"nonfinite": "raise"}, {"error_if_nonfinite": True, "nonfinite": "raise"}]
)
def test_raise_touches_nothing(bad: Tensor, how: dict[str, object]) -> None:
    """Every byte is as it was, and the error is torch's with the names after it."""
    pairs = net(GOOD, bad)
    before = raw(pairs)
    with pytest.raises(RuntimeError) as caught:
        gradclip.clip_grad_norm_(pairs, 1.0, **how)
    with pytest.raises(RuntimeError) as torchs:
        torch.nn.utils.clip_grad_norm_([p for _, p in pairs], 1.0, error_if_nonfinite=True)
    assert isinstance(caught.value, gradclip.NonFiniteGradientError)
    assert str(caught.value).startswith(str(torchs.value))
    nan, inf = int(bad.isnan().sum()), int(bad.isinf().sum())
    assert str(caught.value).endswith(f"Found in layer1.weight ({nan} NaN, {inf} Inf of {bad.numel()} elements).")
    assert raw(pairs) == before


def test_raise_names_the_first_and_counts_the_rest() -> None:
    """Three names are enough to start looking."""
    pairs = net(GOOD, *[BAD[0]] * 5)
    with pytest.raises(gradclip.NonFiniteGradientError, match=r"layer1\.weight .*layer3\.weight .* and 2 more\.$"):
        gradclip.clip_grad_norm_(pairs, 1.0, nonfinite="raise")


def test_places_stand_in_for_names() -> None:
    """Without names, the place in the list says which."""
    parameters = [p for _, p in net(GOOD, BAD[0])]
    with pytest.raises(gradclip.NonFiniteGradientError, match=r"parameters\[1\] \(1 NaN, 0 Inf of 2 elements\)"):
        gradclip.clip_grad_norm_(parameters, 1.0, nonfinite="raise")
    with pytest.raises(gradclip.NonFiniteGradientError, match=r"tensors\[1\] \(1 NaN, 0 Inf of 2 elements\)"):
        gradclip.get_total_norm([p.grad for p in parameters], error_if_nonfinite=True)


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_keep_touches_nothing(bad: Tensor) -> None:
    """The norm says what happened; the gradients are as they were."""
    pairs = net(GOOD, bad)
    before = raw(pairs)
    assert not math.isfinite(gradclip.clip_grad_norm_(pairs, 1.0, nonfinite="keep").item())
    assert raw(pairs) == before


def test_keep_and_sanitize_clip_as_usual_while_all_is_well() -> None:
    """They speak about non-finite norms only."""
    for nonfinite in ("keep", "sanitize", "raise", "propagate"):
        pairs = net(GOOD)
        assert gradclip.clip_grad_norm_(pairs, 1.0, eps=0.0, nonfinite=nonfinite).item() == 5
        assert pairs[0][1].grad.tolist() == pytest.approx([0.6, 0, 0.8])


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_sanitize_zeroes_the_bad_and_clips_the_rest(bad: Tensor) -> None:
    """The norm returned and the clipping are those of what is left."""
    pairs = net(GOOD, bad)
    rest = bad.nan_to_num(0.0, 0.0, 0.0)
    norm = math.sqrt(25 + float((rest**2).sum()))
    assert gradclip.clip_grad_norm_(pairs, 1.0, eps=0.0, nonfinite="sanitize").item() == pytest.approx(norm)
    assert pairs[0][1].grad.tolist() == pytest.approx([0.6 * 5 / norm, 0, 0.8 * 5 / norm])
    assert pairs[1][1].grad.tolist() == pytest.approx((rest / norm).tolist())


def test_sanitize_complex_zeroes_the_element() -> None:
    """A complex number with one bad part is a bad number."""
    p = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    p.grad = torch.tensor([complex(1, math.nan), 3 + 4j])
    assert gradclip.clip_grad_norm_([p], 1.0, eps=0.0, nonfinite="sanitize").item() == 5
    assert p.grad.tolist() == pytest.approx([0, 0.6 + 0.8j])


def test_an_infinite_bound_touches_nothing_even_then() -> None:
    """`math.inf` measures only, whatever else is asked for."""
    pairs = net(GOOD, BAD[0])
    before = raw(pairs)
    assert math.isnan(gradclip.clip_grad_norm_(pairs, math.inf, nonfinite="sanitize").item())
    assert raw(pairs) == before


def test_names_of_tensors_are_their_own_places() -> None:
    """A parameter among the tensors of get_total_norm is a tensor, and its gradient another one."""
    p = net(torch.tensor([math.nan]))[0][1]
    with pytest.raises(gradclip.NonFiniteGradientError, match=r"Found in tensors\[1\] "):
        gradclip.get_total_norm([p, p.grad], error_if_nonfinite=True)


def test_overflow_of_float64_is_said_and_survived() -> None:
    """Plain sums of float64 can overflow: no element is bad then, and sanitize measures in units of the largest."""
    p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    p.grad = torch.full((4,), 2e200, dtype=torch.float64)
    with pytest.raises(gradclip.NonFiniteGradientError, match="No element is NaN or infinite: .* overflows float64"):
        gradclip.clip_grad_norm_([p], 1.0, nonfinite="raise")
    assert gradclip.clip_grad_norm_([p], 1.0, nonfinite="sanitize").item() == pytest.approx(4e200)
    assert p.grad.tolist() == pytest.approx([0.5] * 4)


def test_order_zero_has_no_non_finite_norm() -> None:
    """A count is finite whatever it counts, as in torch."""
    pairs = net(BAD[0])
    assert gradclip.clip_grad_norm_(pairs, 10.0, 0, error_if_nonfinite=True).item() == 2
