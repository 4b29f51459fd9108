"""Policies one after the other, or for a time."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from gradclip import GradClipper
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    BlockRMS,
    Decision,
    FixedNorm,
    FixedValue,
    Layout,
    MedianClip,
    Normalize,
    Norms,
    Policy,
    SmoothNorm,
    SpikeSkip,
    ZClip,
    by_group,
    by_name,
    chain,
    schedule,
    warmup,
)
from policies.cases import LAYOUT, SHAPES, clip, clipper_of, decide_all, gradients, model, norms_of, numbers, series


def coefs(policy: Policy, norms: list[float]) -> list[float]:
    """The total coefficient at each step."""
    return [float(torch.as_tensor(decision.coef)) for decision in decide_all(policy, norms)[0]]


def test_each_link_sees_what_the_ones_before_leave() -> None:
    """Per parameter first, then the total of what that leaves."""
    each = torch.tensor([3.0, 0.5, 4.0], dtype=torch.float64)
    norms = Norms(LAYOUT, 2.0, math.hypot(3.0, 0.5, 4.0), each)
    policy = chain(FixedNorm(1.0, scope="parameter", eps=0.0), FixedNorm(0.75, eps=0.0))
    decision, _ = policy.decide(norms, policy.init(LAYOUT))
    assert decision.scope == "parameter"
    assert (each * decision.coef).tolist() == pytest.approx([0.5, 0.25, 0.5])  # 1, 0.5, 1 has a norm of 1.5


LINKS = [FixedNorm(2.0), FixedNorm(1.0, scope="parameter"), AGC(), BlockRMS(0.2), FixedValue(0.3), SmoothNorm(1.0)]


@pytest.mark.parametrize("first", LINKS, ids=repr)
@pytest.mark.parametrize("second", LINKS, ids=repr)
def test_a_chain_is_one_after_the_other(first: Policy, second: Policy) -> None:
    """As two clippers would do it, measuring twice; in every order of scopes."""
    given, parameters = gradients(0, 10.0), model()
    result, left = clip(clipper_of(chain(first, second), parameters), parameters, given)
    _, between = clip(clipper_of(first, parameters), parameters, given)
    last, expected = clip(clipper_of(second, parameters), parameters, between)
    for name in SHAPES:
        torch.testing.assert_close(left[name], expected[name], rtol=1e-14, atol=0.0)
    if not (first.clamps or second.clamps):
        assert result.total_norm_after == pytest.approx(last.total_norm_after, rel=1e-14)


def test_one_measurement_serves_links_of_one_order() -> None:
    """A second one is taken after another order, and after a limit on elements."""
    fixed, value = FixedNorm(1.0), FixedValue(0.1)
    assert len(chain(fixed, ZClip(1.0), AdaGC(1.0)).stages) == 1
    assert len(chain(fixed, FixedNorm(1.0, 1.0)).stages) == 2
    assert len(chain(value, fixed).stages) == 2
    assert len(chain(fixed, value).stages) == 1
    assert len(chain(value, value, fixed).stages) == 3
    assert len(chain(chain(value, fixed), warmup(5, chain(value, fixed))).stages) == 3


def test_chains_of_chains_are_chains() -> None:
    """Nesting makes no difference, and a chain of one is that one."""
    a, b, c = FixedNorm(3.0), ZClip(2.0), FixedNorm(1.0, scope="parameter")
    assert chain(a) is a
    assert chain(chain(a, b), c) == chain(a, chain(b, c)) == chain(a, b, c)


def test_a_second_stage_measures_again() -> None:
    """Elements are limited first; the norm of what is left is bounded then, exactly."""
    given = gradients(0, 10.0)
    parameters = model()
    result, left = clip(clipper_of(chain(FixedValue(0.5), FixedNorm(1.0, eps=0.0)), parameters), parameters, given)
    limited = {name: x.clamp(-0.5, 0.5) for name, x in given.items()}
    total = math.sqrt(math.fsum(float(x.square().sum()) for x in limited.values()))
    for name in SHAPES:
        torch.testing.assert_close(left[name], limited[name] / total, rtol=1e-15, atol=0.0)
    assert result.total_norm_after == pytest.approx(1.0, rel=1e-15)


def test_the_threshold_of_a_chain_is_the_lowest() -> None:
    """Of those of its links."""
    for policy in (chain(FixedNorm(2.0), FixedNorm(3.0)), chain(FixedNorm(3.0), FixedNorm(2.0))):
        assert decide_all(policy, [1.0])[0][0].threshold == 2.0


def test_a_warm_up_keeps_what_is_learned_after_it_sane() -> None:
    """A rule after a fixed bound learns from norms within the bound."""
    policy = chain(warmup(25, FixedNorm(1.0, eps=0.0)), ZClip(math.inf))
    _, state = decide_all(policy, [1e6] * 25)
    assert state[1].mean == pytest.approx(1.0)
    coefficient = coefs(policy, [1e6] * 26)[-1]
    assert coefficient == pytest.approx(1e-6)


def test_a_warm_up_ends() -> None:
    """After exactly so many steps, and never begins for none."""
    assert coefs(warmup(3, FixedNorm(1.0, eps=0.0)), [2.0] * 5) == [0.5, 0.5, 0.5, 1.0, 1.0]
    assert coefs(warmup(0, FixedNorm(1.0)), [2.0]) == [1.0]


def test_skipped_steps_do_not_warm_up() -> None:
    """A step that is skipped for a norm that is not finite does not count."""
    parameters = model()
    clipper = clipper_of(warmup(2, FixedNorm(1.0)), parameters)
    statuses = [clip(clipper, parameters, gradients(t, s))[0].status for t, s in enumerate([1, math.nan, 1, 1])]
    assert statuses == ["clipped", "skipped_nonfinite", "clipped", "ok"]


def test_a_schedule_moves_the_bound() -> None:
    """By the number of steps before."""
    policy = schedule(lambda step: FixedNorm(1.0 + step, eps=0.0))
    assert coefs(policy, [4.0] * 5) == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_a_schedule_goes_on_learning() -> None:
    """What a rule has learned is that of the steps before, whatever the bound was."""
    moving = schedule(lambda step: ZClip(10.0 + step, patience=math.inf))
    norms = series(100, spikes=(60,))
    _, (taken, learned) = decide_all(moving, norms)
    _, expected = decide_all(ZClip(math.inf, patience=math.inf), norms)
    assert (taken, learned) == (100.0, expected)


@pytest.mark.parametrize(
    "learner", [ZClip(math.inf), AdaGC(math.inf, warmup=20), AutoClip(math.inf, scope="parameter")], ids=repr
)
def test_a_step_that_is_skipped_teaches_no_link(learner: Policy) -> None:
    """What comes after `SpikeSkip` decides on as if a skipped step had not been."""
    policy = chain(SpikeSkip(math.inf, warmup=20), learner)
    norms = series(100)
    expected = numbers(decide_all(policy, norms)[0])
    before, state = decide_all(policy, norms[:80])
    decision, state = policy.decide(norms_of(500.0), state)
    assert decision.skip
    later, _ = decide_all(policy, norms[80:], state)
    assert torch.equal(numbers([*before, *later])[0], expected[0])


def test_growing_is_passed_on() -> None:
    """A coefficient above 1 reaches the next link as a larger norm."""
    assert coefs(chain(Normalize(1e-9), FixedNorm(0.5, eps=0.0)), [0.01])[0] == pytest.approx(50.0)


@pytest.mark.parametrize("make", [lambda x: by_name({"*": x}), by_group, lambda x: chain(x, by_name({"*": x}))])
def test_a_schedule_moves_the_bounds_of_parts(make: Any) -> None:
    """Whatever the policies of each step are made of."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    clipper = GradClipper([{"params": [parameter]}], schedule(lambda step: make(FixedNorm(1.0 + step, eps=0.0))))
    for bound in (1.0, 2.0, 3.0):
        parameter.grad = torch.tensor([50.0])
        clipper.clip()
        assert parameter.grad.item() == pytest.approx(bound)


@pytest.mark.parametrize(
    "at",
    [
        lambda step: chain(FixedNorm(9.0), FixedNorm(1.0, norm_type=2.0 + step)),
        lambda step: chain(FixedNorm(9.0), ZClip(1.0) if step else FixedNorm(1.0)),
        lambda step: chain(*[FixedNorm(9.0)] * (2 + step)),
        lambda step: by_name({"a": FixedNorm(1.0), "b" if step else "*": FixedNorm(1.0)}),
        lambda step: warmup(5, ZClip(1.0) if step else FixedNorm(1.0)),
        lambda step: MedianClip(9.0, window=10 + step, warmup=1),
    ],
)
def test_a_schedule_of_another_kind_is_refused(at: Any) -> None:
    """What was learned could not go on: not of links, parts, or a window of another length."""
    parameters = [("a", torch.nn.Parameter(torch.ones(1))), ("b", torch.nn.Parameter(torch.ones(1)))]
    clipper = GradClipper(parameters, schedule(at))
    for _, p in parameters:
        p.grad = torch.ones(1)
    clipper.clip()
    with pytest.raises(ValueError, match=r"`schedule\(policy_of=...\)` must give policies of one type"):
        clipper.clip()


@pytest.mark.parametrize("order", [lambda x, skip: (x, skip), lambda x, skip: (skip, x)], ids=["before", "after"])
def test_a_step_that_is_skipped_teaches_no_link_before_either(order: Any) -> None:
    """It is as if the step had not been, wherever the rule stands that skips, and no warm-up counts it."""
    skip, large = SpikeSkip(math.inf, window=16, warmup=8, sigmas=1000.0), 1e6
    for other in (MedianClip(1e9, window=10, warmup=2), warmup(14, FixedNorm(0.5))):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=0.0)
        clipper = GradClipper([parameter], chain(*order(other, skip))).attach(optimizer)
        found = []
        for norm, loss in [(0.5, 1.0), (1.5, 1.1)] * 5 + [(50.0, large)] * 8 + [(50.0, 1.0)]:
            parameter.grad = torch.tensor([norm])
            clipper.observe_loss(loss)
            optimizer.step()
            assert clipper.last is not None
            found.append(clipper.last)
        assert [x.status for x in found[10:18]] == ["skipped_spike"] * 8
        assert found[18].status == "clipped"
        assert found[18].total_norm_after == pytest.approx(2.0 if isinstance(other, MedianClip) else 0.5, rel=1e-5)


def test_a_limit_that_is_not_declared_is_refused() -> None:
    """What follows it would not know the norms, and multiply by NaN."""

    @dataclass(frozen=True)
    class Limit(Policy):
        def init(self, layout: Layout) -> tuple[()]:
            return ()

        def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
            return Decision(clamp=1.0), state

    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([5.0, 5.0])
    with pytest.raises(ValueError, match=r"Limit decided on a `clamp`, and its property `clamps` is False"):
        GradClipper([parameter], chain(Limit(), FixedNorm(1.0))).clip()
    assert parameter.grad.tolist() == [5.0, 5.0]
