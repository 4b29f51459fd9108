"""A policy of several measurements does all that it decides, or nothing."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import reference
from gradclip import ClipResult, GradClipper, NonFiniteGradientError
from gradclip.policies import (
    AGC,
    AutoClip,
    Decision,
    FixedNorm,
    FixedValue,
    Layout,
    Norms,
    Policy,
    SpikeSkip,
    ZClip,
    by_name,
    chain,
    warmup,
)


def parameters_of(*gradients: Tensor) -> list[tuple[str, Parameter]]:
    made = [(f"p{i}", Parameter(torch.ones(x.shape, dtype=x.dtype))) for i, x in enumerate(gradients)]
    for (_, parameter), gradient in zip(made, gradients, strict=True):
        parameter.grad = gradient
    return made


def bits(parameters: list[tuple[str, Parameter]]) -> list[bytes]:
    return [
        p.grad.coalesce().to_dense().numpy().tobytes() if p.grad.is_sparse else p.grad.numpy().tobytes()
        for _, p in parameters
    ]


HUGE = torch.full((4,), 1e200, dtype=torch.float64)

LATER: dict[str, Policy] = {
    "a bound on the total": FixedNorm(1e190, math.inf),
    "on each parameter": FixedNorm(1e190, math.inf, scope="parameter"),
    "on elements": FixedValue(1e190),
    "on a part": by_name({"p0": FixedNorm(1e190, math.inf)}),
    "two of them": chain(FixedValue(1e195), FixedNorm(1e190, math.inf)),
}


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
@pytest.mark.parametrize("name", LATER)
def test_a_later_norm_that_is_not_finite(name: str, nonfinite: Any) -> None:
    """Squares of 1e190 overflow float64: the first bound is taken back, to the last bit."""
    parameters = parameters_of(HUGE.clone(), HUGE.neg())
    before = bits(parameters)
    clipper = GradClipper(parameters, chain(LATER[name], FixedNorm(1.0)), nonfinite=nonfinite)
    if nonfinite == "raise":
        with pytest.raises(NonFiniteGradientError, match="order 2 is not finite, and `nonfinite` is 'raise'"):
            clipper.clip()
    else:
        result = clipper.clip()
        assert result.status == "skipped_nonfinite" and result.total_norm == 1e200
    assert bits(parameters) == before


def test_a_later_norm_that_an_earlier_bound_brings_in_range() -> None:
    """What overflows before the first bound does not after it."""
    parameters = parameters_of(HUGE.clone())
    result = GradClipper(parameters, chain(FixedNorm(1e100, math.inf), FixedNorm(1.0, eps=0.0))).clip()
    assert result.status == "clipped"
    assert parameters[0][1].grad.tolist() == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
@pytest.mark.parametrize(
    "first",
    [
        FixedValue(0.5),
        FixedNorm(1.0, 1.0),
        FixedNorm(0.5, 1.0, scope="parameter"),
        chain(FixedNorm(9.0, 1.0), FixedValue(0.5)),
    ],
    ids=repr,
)
def test_a_later_spike(first: Policy, nonfinite: Any) -> None:
    """The step does not happen, the gradients are untouched, and the norm is that before the first stage."""
    parameters = parameters_of(torch.tensor([0.1, 0.2]), torch.tensor([0.2]).to_sparse())
    clipper = GradClipper(parameters, chain(first, SpikeSkip(10.0, window=4, warmup=2)), nonfinite=nonfinite)
    for factor in (1.0, 1.1, 0.9):
        for (_, p), x in zip(parameters, (torch.tensor([0.01, 0.02]), torch.tensor([0.02])), strict=True):
            p.grad = x * factor if p.numel() == 2 else (x * factor).to_sparse()
        assert clipper.clip().skipped is None
    for (_, p), x in zip(parameters, (torch.tensor([3.0, 0.0]), torch.tensor([3.0]).to_sparse()), strict=True):
        p.grad = x
    before = bits(parameters)
    result = clipper.clip()
    assert result.status == "skipped_spike"
    order = {FixedValue: math.inf}.get(type(first), 1.0)
    assert result.total_norm == pytest.approx(reference.norm([torch.tensor([3.0, 0.0, 3.0])], order))
    assert bits(parameters) == before


def test_what_a_step_that_is_taken_back_teaches() -> None:
    """Nothing, but to the one who asked for that."""
    policy = chain(AutoClip(1e9, percentile=100), FixedNorm(1e9, 1.0), SpikeSkip(1e9, window=4, warmup=2))
    parameters = parameters_of(torch.ones(2))
    clipper = GradClipper(parameters, policy)
    for size in (1.0, 1.1, 0.9, 1.0):
        parameters[0][1].grad = torch.full((2,), size)
        clipper.clip()
    stages = clipper.state_dict()["stages"]
    parameters[0][1].grad = torch.full((2,), 500.0)
    assert clipper.clip().status == "skipped_spike"
    after = clipper.state_dict()["stages"]
    assert after[:-1] == stages[:-1]
    assert after[-1] != stages[-1]


CHAINS = {
    "two norms": chain(FixedNorm(0.6, math.inf), FixedNorm(1.0)),
    "three norms": chain(FixedNorm(0.6, math.inf), FixedNorm(2.0, 1.0), FixedNorm(1.0)),
    "a learning one": chain(warmup(1, FixedNorm(0.6, math.inf)), ZClip(1.0)),
    "parameters between": chain(FixedNorm(0.6, math.inf), FixedNorm(0.7, 3.0, scope="parameter"), FixedNorm(1.0)),
    "units last": chain(FixedNorm(0.6, math.inf), AGC(0.2)),
    "units first": chain(AGC(0.2), FixedNorm(0.3, math.inf)),
}


@pytest.mark.parametrize("nonfinite", ["skip", "propagate", "sanitize"])
@pytest.mark.parametrize("name", CHAINS)
def test_stages_one_after_the_other(name: str, nonfinite: Any) -> None:
    """As clippers of their own do, called in turn, to the rounding of the gradients."""
    gradients = [torch.tensor([[3.0, -4.0], [0.1, 0.2]]), torch.tensor([2.0])]
    together = parameters_of(*(x.clone() for x in gradients))
    result: ClipResult = GradClipper(together, CHAINS[name], nonfinite=nonfinite).clip()
    apart = parameters_of(*(x.clone() for x in gradients))
    norms: list[float] = []
    for stage in CHAINS[name].stages:
        one = GradClipper(apart, stage, nonfinite=nonfinite).clip()
        norms += [one.total_norm, one.total_norm_after]
    for (_, p), (_, q) in zip(together, apart, strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-6, atol=0.0)
    assert result.total_norm == norms[0]
    assert result.total_norm_after == pytest.approx(norms[-1], rel=1e-6)


@dataclass(frozen=True)
class Broken(Policy):
    """A rule with a mistake in it."""

    def init(self, layout: Layout) -> tuple[()]:
        return ()

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        raise LookupError("a mistake")


@pytest.mark.parametrize("first", [FixedValue(0.5), FixedNorm(1.0, 1.0), AGC(0.1)], ids=repr)
def test_an_error_in_a_later_stage(first: Policy) -> None:
    """Whatever it is, the gradients and what was learned are as they were."""
    parameters = parameters_of(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 2.0]]))
    before = bits(parameters)
    clipper = GradClipper(parameters, chain(warmup(5, FixedNorm(9.0)), first, FixedNorm(1e9, 3.0), Broken()))
    state = clipper.state_dict()
    with pytest.raises(LookupError, match="a mistake"):
        clipper.clip()
    assert bits(parameters) == before
    assert clipper.state_dict() == state
