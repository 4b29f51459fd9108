"""Every bad hyper-parameter and composition is refused before anything is touched, with words that help."""

import math
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import gradclip
from gradclip import GradClipper
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    BlockRMS,
    FixedNorm,
    FixedValue,
    MedianClip,
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
from policies.cases import clipper_of, model

COMMON: dict[str, tuple[str, list[Any]]] = {
    "max_norm": (">= 0", [-1.0, math.nan, -math.inf]),
    "eps": ("finite and >= 0", [-1e-6, math.inf, math.nan]),
    "warmup": ("an integer and >= 1", [0, 1.5, -3, math.nan, math.inf]),
    "window": ("an integer and >= 1", [0, 2.5, math.inf]),
    "patience": (">= 1", [0.5, 0, -1.0, math.nan]),
    "norm_type": ("> 0", [0.0, -1.0, -math.inf]),
    "scope": ("one of 'total', 'parameter'", ["unit", None, "each"]),
    "alpha": (">= 0 and < 1", [1.0, -0.1, math.nan]),
    "positive": ("finite and > 0", [0.0, -1.0, math.inf, math.nan]),
}

FIELDS: list[tuple[Callable[..., Policy], dict[str, str]]] = [
    (FixedNorm, dict.fromkeys(("max_norm", "norm_type", "eps", "scope"), "")),
    (AGC, {"clip_factor": "positive", "eps": "", "norm_type": ""}),
    (Normalize, {"gamma": "positive", "norm_type": "", "scope": ""}),
    (ZClip, dict.fromkeys(("alpha", "warmup", "eps", "patience"), "") | {"z_threshold": "positive"}),
    (AdaGC, {"relative": "positive", "beta": "alpha", "warmup": "", "eps": "", "patience": ""}),
    (AutoClip, dict.fromkeys(("window", "eps", "scope"), "")),
    (MedianClip, {"scale": "positive", "window": "", "eps": ""}),
    (SpikeSkip, {"sigmas": "positive", "eps": "", "patience": ""}),
]

ROWS: list[tuple[Callable[..., Policy], str, str, Any]] = [
    (policy, argument, *row)
    for policy, fields in FIELDS
    for argument, kind in fields.items()
    for row in [(COMMON[kind or argument][0], value) for value in COMMON[kind or argument][1]]
] + [
    *((policy, "max_norm", ">= 0", -1.0) for policy in (ZClip, AdaGC, AutoClip, MedianClip, SpikeSkip)),
    *((policy, "max_norm", ">= 0", math.nan) for policy in (ZClip, AdaGC, AutoClip, MedianClip, SpikeSkip)),
    (FixedValue, "clip_value", ">= 0", -0.1),
    (FixedValue, "clip_value", ">= 0", math.nan),
    (BlockRMS, "threshold", "> 0", 0.0),
    (AGC, "norm_type", "<= 6 or `math.inf`", 7.0),
    (AGC, "axis", "a dimension, a tuple of some, or None", 0.5),
    (AGC, "axis", "a dimension, a tuple of some, or None", True),
    (AGC, "axis", "a dimension, a tuple of some, or None", ()),
    (AGC, "axis", "a dimension, a tuple of some, or None", "rows"),
    (AGC, "per", "one of 'unit', 'parameter', 'layer', 'total'", "row"),
    (AGC, "min_ndim", "an integer and >= 0", -1),
    (ZClip, "mode", "one of 'zscore', 'percentile'", "median"),
    (ZClip, "clip_option", "one of 'adaptive_scaling', 'mean'", "none"),
    (ZClip, "clip_factor", "> 0 and <= 1", 0.0),
    (ZClip, "clip_factor", "> 0 and <= 1", 1.5),
    (SmoothNorm, "max_norm", "> 0", 0.0),
    (SmoothNorm, "kind", "one of 'sqrt', 'rational', 'tanh'", "hard"),
    (SmoothNorm, "norm_type", "> 0", 0.0),
    (AutoClip, "percentile", ">= 0 and <= 100", 100.1),
    (AutoClip, "percentile", ">= 0 and <= 100", -1),
    (AutoClip, "percentile", ">= 0 and <= 100", math.nan),
    (MedianClip, "warmup", "an integer and >= 1 and <= 100", 101),
    (SpikeSkip, "warmup", "an integer and >= 2 and <= 128", 1),
    (SpikeSkip, "window", "an integer and >= 2", 1),
]

NEEDED = {ZClip: "max_norm", AdaGC: "max_norm", AutoClip: "max_norm", MedianClip: "max_norm", SpikeSkip: "max_norm"}
NEEDED |= {FixedValue: "clip_value", SmoothNorm: "max_norm"}


def arguments(policy: Any, argument: str, value: object) -> dict[str, Any]:
    needed = {NEEDED[policy]: 1.0} if policy in NEEDED else {}
    return needed | {argument: value}


@pytest.mark.parametrize("policy", [MedianClip, SpikeSkip])
def test_a_window_that_is_shorter_than_the_warmup(policy: Any) -> None:
    """Whoever gives a window alone is told what it has to do with the warm-up, of which nothing was said."""
    with pytest.raises(ValueError, match=r"\(warmup=...\)` must be .* <= 5, got \d+\. The `window` holds no more\.$"):
        policy(1.0, window=5)


@pytest.mark.parametrize(("policy", "argument", "requirement", "value"), ROWS, ids=str)
def test_a_number_out_of_range(policy: Any, argument: str, requirement: str, value: object) -> None:
    """The message names the policy and the argument, what is required, and what was given."""
    shown = f"{value:g}" if argument == "norm_type" else repr(value)
    message = f"`{policy.__name__}({argument}=...)` must be {requirement}, got {shown}."
    with pytest.raises(ValueError, match=re.escape(message)):
        policy(**arguments(policy, argument, value))


@pytest.mark.parametrize("value", [True, "1", None, [1.0], 1j])
@pytest.mark.parametrize(
    ("policy", "argument"),
    [(policy, argument) for policy, argument in NEEDED.items()]
    + [(FixedNorm, "eps"), (AGC, "clip_factor"), (ZClip, "warmup")],
)
def test_no_number_at_all(policy: Any, argument: str, value: object) -> None:
    """Truth values, words, None and lists are not taken for numbers."""
    with pytest.raises(TypeError, match=f"`{policy.__name__}\\({argument}=...\\)` must be a number, got "):
        policy(**arguments(policy, argument, value))


@pytest.mark.parametrize("policy", [ZClip, AdaGC, AutoClip, MedianClip, SpikeSkip])
def test_a_learning_rule_wants_its_ceiling(policy: Any) -> None:
    """An absolute bound is asked for, and the message about a bad one says how to do without."""
    with pytest.raises(TypeError, match="max_norm"):
        policy()
    with pytest.raises(ValueError, match="For no ceiling, pass `math.inf`."):
        policy(-1.0)
    assert policy(math.inf).max_norm == math.inf


def test_ways_out() -> None:
    """What to do is part of the message where a number alone does not say it."""
    with pytest.raises(ValueError, match="To switch clipping off, pass `math.inf`."):
        FixedNorm(-1.0)
    with pytest.raises(ValueError, match="For all norms, pass None."):
        AutoClip(1.0, window=0)
    with pytest.raises(ValueError, match="`gradclip.clip_grad_norm_` takes them"):
        FixedNorm(1.0, 0.0)


def test_numbers_of_other_types() -> None:
    """Whole numbers and tensors of one number become floats, and counts become int."""
    assert repr(FixedNorm(2, norm_type="inf")) == repr(FixedNorm(2.0, math.inf))
    assert ZClip(torch.tensor(1.5)).max_norm == 1.5
    assert isinstance(ZClip(1.0, warmup=10.0).warmup, int)


@pytest.mark.parametrize(
    ("function", "compose"),
    [
        ("GradClipper", lambda policy: gradclip.GradClipper(torch.nn.Linear(2, 1), policy)),
        ("chain", lambda policy: chain(FixedNorm(1.0), policy)),
        ("warmup", lambda policy: warmup(10, policy)),
        ("schedule", lambda policy: schedule(lambda _: policy)),
        ("by_name", lambda policy: by_name({"*": policy})),
        ("by_name", lambda policy: by_name({}, default=policy)),
        ("by_group", lambda policy: by_group([policy])),
    ],
)
def test_a_class_is_no_policy(function: str, compose: Callable[[Any], object]) -> None:
    """A policy that was not called, and a bare number, with what to write instead."""
    with pytest.raises(
        TypeError, match=rf"`{function}\(\)` must be given policies, got .*ZClip.*\. Write `ZClip\(\.\.\.\)`"
    ):
        compose(ZClip)
    with pytest.raises(
        TypeError, match=rf"`{function}\(\)` must be given policies, got 1\.0 \(float\)\. Write `FixedNorm\(1\.0\)`"
    ):
        compose(1.0)
    with pytest.raises(TypeError, match=r"got 'zclip' \(str\)\. Write one .* such as `ZClip\(max_norm=1\.0\)`"):
        compose("zclip")
    with pytest.raises(TypeError, match=r"got a list\. (Pass each policy by itself|Write `chain\(...\)` with)"):
        compose([FixedNorm(1.0)] * 9)


def test_nothing_to_compose() -> None:
    """A chain, and groups, of nothing."""
    with pytest.raises(TypeError, match=r"`chain\(\)` must be given one policy or more, got none."):
        chain()
    with pytest.raises(TypeError, match=r"`by_group\(\)` must be given one policy or more, got none."):
        by_group([])


@pytest.mark.parametrize("steps", [-1, 2.5, math.nan, math.inf])
def test_a_warm_up_of_no_number_of_steps(steps: float) -> None:
    """It is counted."""
    with pytest.raises(ValueError, match="`(W|w)armup\\(steps=...\\)` must be an integer and >= 0, got "):
        warmup(steps, FixedNorm(1.0))


@pytest.mark.parametrize(
    ("function", "compose"),
    [
        ("schedule", lambda policy: schedule(lambda _: policy)),
        ("by_name", lambda policy: by_name({"*": policy})),
        ("by_group", by_group),
    ],
)
def test_a_part_takes_one_measurement(function: str, compose: Callable[[Policy], object]) -> None:
    """A chain that would have to measure again cannot be a part of something."""
    two = chain(FixedValue(0.1), FixedNorm(1.0))
    with pytest.raises(
        ValueError, match=rf"`{function}\(\)` must be given policies that take one measurement, got Chain"
    ):
        compose(two)
    with pytest.raises(ValueError, match=f"Write a `chain` of two `{function}` instead."):
        compose(two)
    compose(chain(FixedNorm(2.0), FixedNorm(1.0)))  # one measurement serves both


def test_a_pattern_that_matches_nothing() -> None:
    """A misspelt name is noticed when the clipper is made, and the message shows names."""
    for policy in (by_name({"bdy.*": FixedNorm(1.0)}), by_name({"body.*": FixedNorm(1.0), "body.bias": AGC()})):
        pattern = list(dict(policy.patterns))[-1]
        with pytest.raises(
            ValueError, match=rf"`by_name` must be given patterns that match a parameter, got '{pattern}'"
        ):
            clipper_of(policy, model())
        with pytest.raises(ValueError, match=r"The names are body.weight, body.bias, "):
            clipper_of(policy, model())


@pytest.mark.parametrize(
    "make",
    [
        lambda: by_name({"body.*": FixedNorm(1.0, 1.0)}, FixedNorm(1.0)),
        lambda: by_group([FixedNorm(1.0, 1.0), ZClip(1.0)]),
    ],
)
def test_parts_in_norms_of_two_orders(make: Callable[[], Policy]) -> None:
    """One pass over the gradients gives norms of one order."""
    with pytest.raises(ValueError, match=r"must have policies of one `norm_type`, got 1, 2. Make a `chain` of two."):
        clipper_of(make(), model())


def test_groups_that_are_not_there() -> None:
    """Without an optimizer there are none, and each needs a policy."""
    with pytest.raises(
        ValueError, match=r"`by_group` must know the parameter groups. .*`GradClipper\(optimizer, ...\)`"
    ):
        gradclip.GradClipper(torch.nn.Linear(2, 1), by_group(FixedNorm(1.0)))
    with pytest.raises(ValueError, match=r"one policy for each parameter group, or one for all, got 3 for 2."):
        clipper_of(by_group([FixedNorm(1.0)] * 3), model())


@pytest.mark.parametrize(
    ("saved", "loading"),
    [
        (ZClip(1.0), AdaGC(1.0)),
        (ZClip(1.0), chain(ZClip(1.0), FixedNorm(1.0))),
        (chain(ZClip(1.0), AdaGC(1.0)), chain(AdaGC(1.0), ZClip(1.0))),
        (by_name({"body.*": ZClip(1.0)}), by_name({"gain": ZClip(1.0)})),
        (by_group(ZClip(1.0)), by_group([ZClip(1.0), MedianClip(1.0)])),
        (AutoClip(1.0), AutoClip(1.0, scope="parameter")),
        (AutoClip(1.0, scope="parameter"), AutoClip(1.0)),
        (chain(FixedValue(1.0), FixedNorm(1.0)), FixedNorm(1.0)),
    ],
    ids=repr,
)
def test_a_state_of_another_policy(saved: Policy, loading: Policy) -> None:
    """It is refused, and what was learned so far stays."""
    parameters = model()
    old, new = clipper_of(saved, parameters), clipper_of(loading, parameters)
    for clipper in (old, new):
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        clipper.clip()
    before = new.state_dict()
    with pytest.raises(ValueError, match=r"`load_state_dict\(state_dict=...\)` must come from a clipper of the same"):
        new.load_state_dict(old.state_dict())
    assert new.state_dict() == before


def test_a_threshold_whose_square_leaves_the_range() -> None:
    """An infinite one is refused, so that the largest finite one is what says never: `**` raises there, in a step."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    clipper = GradClipper([parameter], ZClip(math.inf, z_threshold=sys.float_info.max, warmup=1))
    for norm in (1.0, 2.0, 1e30):
        parameter.grad = torch.full((1,), norm)
        assert clipper.clip().status == "ok"
