"""Where the parts meet: orders, limits, parts of a model, memory."""

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gradclip import GradClipper
from gradclip.policies import (
    AGC,
    AutoClip,
    FixedNorm,
    FixedValue,
    Normalize,
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


def parameters_of(*gradients: Any, dtype: torch.dtype = torch.float32) -> list[tuple[str, nn.Parameter]]:
    """Return named parameters of zeros with these gradients."""
    named = []
    for i, gradient in enumerate(gradients):
        values = torch.tensor(gradient, dtype=dtype)
        p = nn.Parameter(torch.zeros_like(values))
        p.grad = values
        named.append((f"p{i}", p))
    return named


def left(named: list[tuple[str, nn.Parameter]]) -> list[Any]:
    """Return the gradients."""
    return [None if p.grad is None else p.grad.tolist() for _, p in named]


@pytest.mark.parametrize("scale", [1e5, 1e-5, 1e-40])
@pytest.mark.parametrize("every", [0, 1])
def test_powers_of_a_high_order_stay_in_range(scale: float, every: int) -> None:
    """Measured together or each by itself."""
    named = parameters_of([scale, scale], [2e-5 * scale], dtype=torch.float64)
    result = GradClipper(named, FixedNorm(scale / 2, norm_type=100.0, eps=0.0), norms_every=every).clip()
    assert result.status == "clipped"
    assert result.total_norm == pytest.approx(scale * 2 ** (1 / 100), rel=1e-12)
    assert result.total_norm_after == pytest.approx(scale / 2, rel=1e-12)


def test_what_is_only_counted_is_not_limited() -> None:
    """Nor where each unit has a coefficient of its own."""
    named = parameters_of([[3.0, 4.0]], [[5.0, 6.0]])
    policy = by_name({"p0": FixedValue(0.1)}, AGC())
    GradClipper(named, policy, counted_only=["p0"]).clip()
    assert left(named)[0] == [[3.0, 4.0]]
    assert left(named)[1] != [[5.0, 6.0]]


def test_a_limit_is_not_rounded() -> None:
    """A float64 gradient is limited to the float64 bound."""
    named = parameters_of([3.0], [3.0], dtype=torch.float64)
    GradClipper(named, FixedValue(0.1), counted_only=["p1"]).clip()
    assert left(named) == [[0.1], [3.0]]


@pytest.mark.parametrize(("clip_value", "kept"), [(4.0, 3 + 4j), (2.0, 2 + 2j)])
def test_a_limit_on_parts_says_little_of_moduli(clip_value: float, kept: complex) -> None:
    """Of an element of modulus 5 whose parts are within the bound, nothing is limited, and 4 is no norm after it."""
    named = parameters_of([3 + 4j], dtype=torch.complex64)
    result = GradClipper(named, FixedValue(clip_value)).clip()
    assert left(named) == [[kept]]
    assert (result.total_norm, repr(result.total_norm_after), result.threshold) == (5.0, "nan", math.inf)


def test_what_is_only_counted_is_held_against_the_bound() -> None:
    """The bound is that of the total norm all the same."""
    result = GradClipper(parameters_of([3.0], [4.0]), FixedNorm(1.0), counted_only=["p0"]).clip()
    assert (result.threshold, result.total_norm) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("gradients", "policy", "status"),
    [
        ([[0.5] * 25], chain(FixedNorm(100.0, math.inf), FixedValue(1.0)), "ok"),
        ([[0.1, 0.01]], chain(Normalize(norm_type=math.inf), FixedValue(0.5)), "clipped"),
        ([[0.1, 0.01]], chain(FixedNorm(0.01, math.inf), FixedValue(0.05)), "clipped"),
    ],
)
def test_a_limit_is_judged_after_the_coefficient(gradients: list[Any], policy: Policy, status: str) -> None:
    """What the elements are then, not before."""
    assert GradClipper(parameters_of(*gradients), policy).clip().status == status


def test_zeros_in_place_of_nan_are_a_change() -> None:
    """Gradients that were sanitized are not as they were."""
    named = parameters_of([math.nan, 3.0])
    result = GradClipper(named, FixedNorm(10.0), nonfinite="sanitize").clip()
    assert (result.status, left(named)) == ("clipped", [[0.0, 3.0]])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    "policy",
    [FixedNorm(math.inf), FixedValue(math.inf), *(SmoothNorm(math.inf, kind) for kind in ("sqrt", "rational", "tanh"))],
    ids=repr,
)
def test_an_infinite_bound_changes_nothing(policy: Policy, bad: float) -> None:
    """Whatever the norm is, even where it is computed with."""
    named = parameters_of([bad, 3.0])
    result = GradClipper(named, policy, nonfinite="propagate").clip()
    assert (repr(left(named)), result.status) == (repr([[bad, 3.0]]), "ok")


def test_the_others_stay_whatever_the_order() -> None:
    """Without a default, no order is asked for."""
    named = parameters_of([3.0, 4.0], [5.0, 6.0])
    GradClipper(named, by_name({"p0": FixedNorm(1.0, math.inf, eps=0.0)})).clip()
    assert left(named) == [[0.75, 1.0], [5.0, 6.0]]


def test_a_name_with_brackets_means_itself() -> None:
    """As the names of parameters without names are."""
    unnamed = [p for _, p in parameters_of([3.0], [4.0])]
    assert GradClipper(unnamed, FixedNorm(9.0), ignored=["parameters[0]"]).clip().total_norm == 4.0
    optimizer = torch.optim.SGD(unnamed, lr=0.1)
    clipper = GradClipper(optimizer, by_name({"param_groups[0][1]": FixedNorm(1.0, eps=0.0)}))
    assert clipper.clip().total_norm_after == math.sqrt(10.0)


def test_groups_are_those_of_the_optimizer() -> None:
    """Also where all of the last one is ignored."""
    a, b = (p for _, p in parameters_of([3.0], [4.0]))
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=0.1)
    policy = by_group([FixedNorm(1.0, eps=0.0), FixedNorm(2.0)])
    assert GradClipper(optimizer, policy, ignored=["param_groups[1][0]"]).clip().total_norm_after == 1.0


def test_a_step_that_one_part_skips_teaches_the_others_nothing() -> None:
    """They have not seen it happen."""
    named = parameters_of([1.0], [1.0])
    policy = by_name({"p0": SpikeSkip(math.inf, window=4, warmup=2)}, AutoClip(math.inf))
    clipper = GradClipper(named, policy)
    for first in (1.0, 1.1, 1.0, 1e4):
        for _, p in named:
            p.grad = torch.full((1,), first)
        result = clipper.clip()
    assert result.skipped == "skipped_spike"
    (learned,) = clipper.state_dict()["stages"][0]["state"]["(default)"]["0"]
    assert max(learned) < 2.0


@pytest.mark.parametrize(
    ("policy_of", "first"),
    [
        (lambda step: FixedNorm(1.0, 2.0 if step == 0 else math.inf), "norm_type=2.0"),
        (lambda step: FixedNorm(1.0, scope="total" if step == 0 else "parameter"), "scope='total'"),
        (lambda step: ZClip(1.0) if step == 0 else AutoClip(1.0), "ZClip"),
        (lambda step: FixedNorm(1.0) if step == 0 else FixedValue(1.0), "FixedNorm"),
    ],
)
def test_a_schedule_moves_a_bound_not_the_rule(policy_of: Callable[[int], Policy], first: str) -> None:
    """Another rule could not go on from what the first has begun."""
    clipper = GradClipper(parameters_of([3.0], [4.0]), schedule(policy_of))
    clipper.clip()
    with pytest.raises(ValueError, match=rf"one type, norm_type and scope, got .* at step 1 and .*{first}.* at step 0"):
        clipper.clip()


def test_shares_of_nothing_and_of_much() -> None:
    """Zeros have no worst, and squares beyond float64 have shares all the same."""
    assert GradClipper(parameters_of([0.0], [0.0]), norms_every=1).clip().worst() == []
    huge = GradClipper(parameters_of([3e200], [4e200], dtype=torch.float64), FixedNorm(1.0, 1.0), norms_every=1).clip()
    assert huge.worst() == [("p1", pytest.approx(0.64)), ("p0", pytest.approx(0.36))]
    assert huge.worst(-1) == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedule(FixedNorm()), r"`schedule\(policy_of=...\)` must map a step to a policy, got FixedNorm"),
        (lambda: by_name(FixedNorm()), r"`by_name\(policies=...\)` must map patterns of names to policies"),
        (lambda: by_group(3), r"`by_group\(policies=...\)` must be a policy or a list of policies, got 3"),
    ],
)
def test_what_is_no_composition(make: Callable[[], Policy], words: str) -> None:
    """The error names the function, the argument and the value."""
    with pytest.raises(TypeError, match=words):
        make()
    with pytest.raises(ValueError, match=r"`warmup\(steps=...\)` must be an integer and >= 0, got 1.5"):
        warmup(1.5, FixedNorm())


@pytest.mark.parametrize("bad", ["x", [["x"]], {"p0": "x", "p1": 1.0}, None])
def test_a_state_that_holds_no_numbers(bad: Any) -> None:
    """Is refused, whatever is in its place, and nothing is changed."""
    clipper = GradClipper(parameters_of([3.0], [4.0]), AutoClip(1.0, scope="parameter"))
    clipper.clip()
    state = clipper.state_dict()
    broken = clipper.state_dict()
    broken["stages"][0]["state"] = {"0": bad}
    with pytest.raises(
        ValueError, match=r"must (come from a clipper of the same parameters and policy|have a list of numbers)"
    ):
        clipper.load_state_dict(broken)
    assert clipper.state_dict() == state


def train(model: nn.Linear, optimizer: torch.optim.Optimizer, clipper: GradClipper) -> list[Any]:
    """Return what is left of the outputs of three steps."""
    outputs: list[weakref.ref[torch.Tensor]] = []
    for _ in range(3):
        output = model(torch.ones(4, 3))
        outputs.append(weakref.ref(output))
        output.sum().backward()
        clipper.clip()
        optimizer.step()
        optimizer.zero_grad()
    del output
    return [reference() for reference in outputs]


def test_nothing_is_kept_alive() -> None:
    """Neither the tensors of the loop, nor the model once all have let go of it."""
    gc.collect()
    gc.disable()
    try:
        model = nn.Linear(3, 9)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        clipper = GradClipper(model)
        assert train(model, optimizer, clipper) == [None] * 3
        weight = weakref.ref(model.weight)
        clipper.attach(optimizer)
        del model, optimizer, clipper
        assert weight() is None
    finally:
        gc.enable()
