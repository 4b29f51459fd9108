"""A policy of its own for each part of a model."""

import math

import pytest
import torch
from torch import Tensor

import reference
import reference_policies as papers
from gradclip.policies import (
    AGC,
    FixedNorm,
    FixedValue,
    MedianClip,
    Policy,
    SpikeSkip,
    ZClip,
    by_group,
    by_name,
    chain,
)
from policies.cases import GROUPS, SHAPES, Gradients, clip, clipper_of, gradients, model

BODY = [name for name in SHAPES if name.startswith("body.")]
REST = [name for name in SHAPES if name not in BODY]


def clipped(policy: Policy, given: Gradients) -> Gradients:
    parameters = model()
    return clip(clipper_of(policy, parameters), parameters, given)[1]


def norm(left: Gradients, names: list[str]) -> float:
    return reference.norm([left[name] for name in names], 2.0)


def factors(left: Gradients, given: Gradients, names: list[str]) -> Tensor:
    return torch.cat([(left[name] / given[name]).flatten() for name in names])


def test_each_pattern_has_a_total_norm_of_its_own() -> None:
    """The parameters of a pattern are clipped together, and the others as they are told."""
    given = gradients(0, 10.0)
    left = clipped(by_name({"body.*": FixedNorm(1.0)}, default=FixedNorm(2.0)), given)
    assert (norm(left, BODY), norm(left, REST)) == pytest.approx((1.0, 2.0), rel=1e-6)
    for names in (BODY, REST):
        own = factors(left, given, names)
        assert float(own.max() / own.min()) < 1.0 + 1e-15


def test_the_first_pattern_wins() -> None:
    """A parameter that several patterns match belongs to the first of them."""
    left = clipped(by_name({"body.weight": FixedNorm(0.5), "body.*": FixedNorm(1.0)}), gradients(0, 10.0))
    assert norm(left, ["body.weight"]) == pytest.approx(0.5, rel=1e-6)
    assert norm(left, ["body.bias"]) == pytest.approx(1.0, rel=1e-6)


def test_without_a_default_the_others_stay() -> None:
    """Byte for byte."""
    given = gradients(0, 10.0)
    left = clipped(by_name({"gain": FixedNorm(1.0)}), given)
    assert all(torch.equal(left[name], given[name]) for name in SHAPES if name != "gain")
    assert norm(left, ["gain"]) == pytest.approx(1.0, rel=1e-6)


def test_scopes_mix() -> None:
    """Units, elements and totals side by side, each as by itself."""
    given, weights = gradients(0, 10.0), model()
    left = clipped(by_name({"body.weight": AGC(), "conv.*": FixedValue(0.5)}, default=FixedNorm(1.0)), given)
    rows = papers.agc(given["body.weight"].tolist(), weights["body.weight"].tolist())
    assert left["body.weight"].flatten().tolist() == pytest.approx([x for row in rows for x in row], rel=1e-14)
    assert torch.equal(left["conv.weight"], given["conv.weight"].clamp(-0.5, 0.5))
    assert norm(left, ["body.bias", "head.weight", "gain"]) == pytest.approx(1.0, rel=1e-6)


def test_one_policy_for_every_group() -> None:
    """Each parameter group of the optimizer has a norm of its own."""
    left = clipped(by_group(FixedNorm(1.0)), gradients(0, 10.0))
    for group in (0, 1):
        assert norm(left, [name for name in SHAPES if GROUPS[name] == group]) == pytest.approx(1.0, rel=1e-6)


def test_a_policy_for_each_group() -> None:
    """In the order of the groups."""
    left = clipped(by_group([FixedNorm(1.0), FixedNorm(2.0)]), gradients(0, 10.0))
    assert (norm(left, BODY), norm(left, REST)) == pytest.approx((1.0, 2.0), rel=1e-6)


def test_a_part_of_two_measurements_is_a_chain_of_parts() -> None:
    """What the message about it advises works."""
    parts = (by_name({"body.*": FixedValue(0.1)}), by_name({"body.*": FixedNorm(0.2)}))
    given = gradients(0, 10.0)
    left = clipped(chain(*parts), given)
    assert norm(left, BODY) == pytest.approx(0.2, rel=1e-5)
    assert all(torch.equal(left[name], given[name]) for name in REST)


@pytest.mark.parametrize("pattern", ["body.*", "[!b]*"])
def test_a_spike_of_one_part_skips_the_step(pattern: str) -> None:
    """A step happens for all parts or for none, whichever part it is."""
    parameters, parts = model(), {"body.*": FixedNorm(1.0), "[!b]*": FixedNorm(1.0)}
    clipper = clipper_of(by_name(parts | {pattern: SpikeSkip(math.inf, warmup=5)}), parameters)
    for step in range(10):
        clip(clipper, parameters, gradients(step))
    given = gradients(10)
    given["body.bias" if pattern == "body.*" else "gain"] *= 1e6
    result, left = clip(clipper, parameters, given)
    assert result.status == "skipped_spike"
    assert all(torch.equal(left[name], given[name]) for name in SHAPES)


def test_a_part_without_gradients_learns_nothing() -> None:
    """Parts that are trained in turns know the norms of their own turns, and no zeros."""
    policy = by_group([ZClip(math.inf, warmup=5), MedianClip(math.inf, warmup=5)])
    taking_turns, always = model(), model()
    one, other = clipper_of(policy, taking_turns), clipper_of(policy, always)
    for step in range(20):
        for name, parameter in taking_turns.items():
            parameter.grad = gradients(step)[name] if GROUPS[name] == step % 2 else None
        one.clip()
        if step % 2 == 0:
            clip(other, always, gradients(step))
    learned = [clipper.state_dict()["stages"][0]["state"]["group 0"] for clipper in (one, other)]
    assert learned[0] == learned[1]


def test_one_missing_gradient_is_no_zero() -> None:
    """The norm of a part is that of the gradients that are there."""
    given, parameters = gradients(0, 10.0), model()
    clipper = clipper_of(by_name({"body.*": FixedNorm(1.0)}), parameters)
    for name in ("body.weight", "gain"):
        parameters[name].grad = given[name].clone()
    result = clipper.clip()
    assert float(parameters["body.weight"].grad.norm()) == pytest.approx(1.0, rel=1e-6)
    assert parameters["body.bias"].grad is None
    assert result.norms().keys() == {"body.weight", "gain"}
