"""Policies in a word of the command line."""

import math
from dataclasses import fields

import pytest

from gradclip.cli import UserError
from gradclip.cli.presets import BY_NAME, PRESETS
from gradclip.cli.specs import MAIN, explanation, parse
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
)

INF = math.inf


ARGUMENTS = "max_norm, z_threshold, alpha, warmup, eps, patience, mode, clip_option, clip_factor, skip_update_on_spike"


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ("fixed", FixedNorm(1.0)),
        ("fixed:0.77", FixedNorm(0.77)),
        ("fixed:inf", FixedNorm(INF)),
        ("fixed:2,norm_type=inf", FixedNorm(2.0, INF)),
        ("fixed:scope=parameter,max_norm=3", FixedNorm(3.0, scope="parameter")),
        ("smooth", SmoothNorm(1.0)),
        ("smooth:2,kind=tanh", SmoothNorm(2.0, "tanh")),
        ("value:0.5", FixedValue(0.5)),
        ("block-rms:2", BlockRMS(2.0)),
        ("agc:0.05,eps=0.1", AGC(0.05, eps=0.1)),
        ("autoclip:10", AutoClip(INF, percentile=10.0)),
        (
            "autoclip:90,window=none,include-current=false",
            AutoClip(INF, percentile=90.0, window=None, include_current=False),
        ),
        ("median:3,window=50", MedianClip(INF, scale=3.0, window=50)),
        ("zclip", ZClip(INF)),
        ("zclip:max_norm=1.0,z=2.5", ZClip(1.0, z_threshold=2.5)),
        (" zclip:3 , max=1e2 ", ZClip(100.0, z_threshold=3.0)),
        ("zclip:patience=inf", ZClip(INF, patience=INF)),
        ("adagc:1.03,beta=0.99", AdaGC(INF, relative=1.03, beta=0.99)),
        ("spike-skip:4,learn=true", SpikeSkip(INF, sigmas=4.0, learn_skipped=True)),
        ("normalize:0.1", Normalize(0.1)),
        ("zclip-published", ZClip(INF, patience=INF)),
        ("ZClip:max_norm=1.0", ZClip(1.0)),
        ("FixedNorm:2", FixedNorm(2.0)),
        ("Spike_Skip:4", SpikeSkip(INF, sigmas=4.0)),
    ],
)
def test_a_word_stands_for_a_policy(spec: str, policy: Policy) -> None:
    named = parse(spec)
    assert named.policy == policy
    assert named.name == spec.strip()


@pytest.mark.parametrize("name", BY_NAME)
def test_every_preset_has_a_word(name: str) -> None:
    assert type(parse(name).policy) is type(BY_NAME[name].policy(1.0))
    assert any(line.startswith(f"{name} ") for line in explanation())


@pytest.mark.parametrize("policy", [preset.policy(1.0) for preset in PRESETS], ids=repr)
def test_the_number_is_for_an_argument_that_there_is(policy: Policy) -> None:
    names = [field.name for field in fields(policy)]  # pyrefly: ignore -- all are dataclasses
    assert MAIN.get(type(policy), names[0]) in names


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "must be one of fixed, value, "),
        ("clip", "--policy clip must be one of fixed, value, "),
        ("zclip:zz=1", f"must name one of {ARGUMENTS}, got 'zz'"),
        ("zclip:=1", f"must name one of {ARGUMENTS}, got ''"),
        ("autoclip:m=1,p", "must give one number, and each of max_norm, percentile, "),
        ("fixed:1,2", "must give one number, and each of max_norm, norm_type, eps, scope once"),
        ("fixed:1,max_norm=2", "must give one number, and each of"),
        ("zclip:3,", "must give one number, and each of"),
        ("fixed:", None),
        ("fixed:one", "must give a number for max_norm, got 'one'"),
        ("fixed:-1", "does not go: `FixedNorm(max_norm=...)` must be >= 0, got -1.0. To switch clipping off"),
        ("fixed:none", "does not go: `FixedNorm(max_norm=...)` must be a number, got None"),
        (
            "smooth:1,kind=cubic",
            "does not go: `SmoothNorm(kind=...)` must be one of 'sqrt', 'rational', 'tanh', got 'cubic'",
        ),
        ("median:window=2.5", "does not go: `MedianClip(window=...)` must be an integer"),
        ("autoclip:include_current=maybe", "must give true or false for include_current, got 'maybe'"),
        ("adagc-published:3", "takes no arguments. Write adagc-published alone."),
    ],
)
def test_what_stands_for_no_policy_is_explained(spec: str, words: str | None) -> None:
    if words is None:
        assert parse(spec).policy == FixedNorm(1.0)
        return
    with pytest.raises(UserError) as caught:
        parse(spec)
    assert words in str(caught.value)
    assert str(caught.value).endswith(".")
    assert not str(caught.value).endswith("..")


@pytest.mark.parametrize(
    ("spec", "lacks"),
    [
        ("zclip", True),
        ("ZClip:2.5", True),
        ("autoclip:90,window=none", True),
        ("zclip:max_norm=inf", False),
        ("zclip:max=1", False),
        ("fixed:inf", False),
        ("ZClip-Published", False),
        ("agc", False),
    ],
)
def test_a_ceiling_that_nobody_has_said(spec: str, lacks: bool) -> None:
    assert parse(spec).lacks_ceiling is lacks
