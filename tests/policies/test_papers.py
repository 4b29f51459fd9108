"""The rules against their papers: plain loops in `reference_policies.py`, step by step."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import gradclip
import reference_policies as papers
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    BlockRMS,
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
    by_name,
    chain,
    warmup,
)
from policies.cases import LAYOUT, decide_all, numbers, series

SPIKES = (100, 101, 250, *range(400, 410))


def norms() -> list[float]:
    """600 norms around 2, a few of them a hundred times as large."""
    return [2.0 * n for n in series(600, spread=0.3, spikes=SPIKES)]


def assert_follows(policy: Policy, steps: list[papers.Step], totals: Sequence[float], rel: float) -> None:
    """The same coefficients and thresholds to a relative difference."""
    coefs, thresholds, _ = numbers(decide_all(policy, totals)[0])
    assert coefs[:, 0].tolist() == pytest.approx([step.coef for step in steps], rel=rel, abs=0.0)
    assert thresholds[:, 0].tolist() == pytest.approx([step.threshold for step in steps], rel=rel, abs=0.0)
    assert sum(step.coef < 1.0 for step in steps) >= 10


def clipped(policy: Policy, weights: list[list[float]], gradient: list[list[float]]) -> list[list[float]]:
    """What a clipper leaves of a gradient in float64."""
    parameter = Parameter(torch.tensor(weights, dtype=torch.float64))
    parameter.grad = torch.tensor(gradient, dtype=torch.float64)
    gradclip.GradClipper([parameter], policy).clip()
    return parameter.grad.tolist()


# Rules without a memory.


@pytest.mark.parametrize("norm", [1e-30, 0.5, 1.0, 1.0000005, 3.0, 1e30])
def test_closed_forms(norm: float) -> None:
    """The coefficient of each formula."""
    expected = {
        FixedNorm(1.0): papers.fixed_norm(norm, 1.0),
        FixedNorm(0.3, eps=0.1): papers.fixed_norm(norm, 0.3, 0.1),
        SmoothNorm(0.7, "rational"): papers.smooth_norm(norm, 0.7, "rational"),
        SmoothNorm(0.7, "sqrt"): papers.smooth_norm(norm, 0.7, "sqrt"),
        SmoothNorm(0.7, "tanh"): papers.smooth_norm(norm, 0.7, "tanh"),
        Normalize(0.02): papers.normalize(norm, 0.02),
    }
    for policy, coef in expected.items():
        decision, _ = policy.decide(Norms(LAYOUT, 2.0, norm), policy.init(LAYOUT))
        assert decision.coef == pytest.approx(coef, rel=1e-15, abs=0.0)


ROWS = [[3.0, -4.0, 0.0], [0.02, 0.0, -0.01], [0.0, 0.0, 0.0], [1e-4, 2e-4, -1e-4]]
WEIGHTS = [[1.0, 2.0, 2.0], [30.0, 40.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]


AGC_SHAPES = {
    "conv.weight": (4, 3, 2, 2),
    "conv.bias": (4,),
    "heads": (2, 3, 4),
    "fc.weight": (5, 3),
    "fc.bias": (5,),
    "fc.nothing": (0, 3),
    "gain": (),
}

AGC_WAYS: dict[str, dict[str, Any]] = {
    "as published": {},
    "columns": {"axis": 0},
    "pixels": {"axis": (-1, -2)},
    "all but the second": {"axis": (0, 2, 3)},
    "one norm": {"norm_type": 1.0},
    "inf norm": {"norm_type": math.inf, "axis": 0},
    "third norm": {"norm_type": 3.0},
    "no floor": {"eps": 0.0},
    "each parameter": {"per": "parameter"},
    "each parameter, inf": {"per": "parameter", "norm_type": math.inf},
    "each layer": {"per": "layer", "eps": 0.0},
    "all": {"per": "total", "norm_type": 1.5},
    "weights alone": {"min_ndim": 2},
    "weights alone, all": {"per": "total", "min_ndim": 2},
    "convolutions": {"per": "layer", "min_ndim": 4, "axis": 1},
}


@pytest.mark.parametrize("layout", ["contiguous", "permuted", "some missing"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", AGC_WAYS)
def test_agc_in_every_way(name: str, dtype: torch.dtype, layout: str) -> None:
    """Units along any dimensions, norms of any order, and larger groups, against loops over elements."""
    arguments = AGC_WAYS[name]
    draw = torch.Generator().manual_seed(0)
    weights = {key: torch.randn(shape, generator=draw).to(dtype) for key, shape in AGC_SHAPES.items()}
    weights["conv.bias"].zero_()
    found = {key: (torch.randn(shape, generator=draw) * 0.3).to(dtype) for key, shape in AGC_SHAPES.items()}
    if layout == "permuted":
        found = {key: x.mT.contiguous().mT if x.ndim > 1 else x for key, x in found.items()}
    if layout == "some missing":
        del found["fc.weight"], found["gain"]
    axis = arguments.get("axis")
    expected = papers.agc_of(
        {key: x.clone() for key, x in found.items()},
        weights,
        clip_factor=0.1,
        eps=arguments.get("eps", 1e-3),
        p=arguments.get("norm_type", 2.0),
        reduced=(axis,) if isinstance(axis, int) else axis,
        per=arguments.get("per", "unit"),
        min_ndim=arguments.get("min_ndim", 0),
    )
    parameters = {key: Parameter(x) for key, x in weights.items()}
    for key, x in found.items():
        parameters[key].grad = x
    result = gradclip.GradClipper(parameters.items(), AGC(0.1, **arguments)).clip()
    assert result.clipped
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-7, torch.bfloat16: 2**-8}[dtype]
    for key, x in expected.items():
        own = parameters[key].grad
        assert own is found[key]
        assert torch.allclose(own.double(), x, rtol=tolerance, atol=0.0, equal_nan=True), key


def test_agc_over_a_dimension_that_is_not_there() -> None:
    """Each element would be a unit of its own: refused as the clipper is made, by the name of the parameter."""
    parameters = [("fc", Parameter(torch.ones(2, 2))), ("bias", Parameter(torch.ones(2)))]
    with pytest.raises(ValueError, match=r"must take norms over a dimension .* axis \(3,\) for shape \(2, 2\) at fc"):
        gradclip.GradClipper(parameters, AGC(axis=3))
    with pytest.raises(ValueError, match=r"`ByName` must have policies of one `axis`, got \(0,\) and None"):
        gradclip.GradClipper(parameters, by_name({"fc": AGC(axis=0)}, AGC()))
    result = gradclip.GradClipper(parameters, chain(by_name({"fc": AGC(axis=0)}), by_name({"bias": AGC()}))).clip()
    assert result.status == "ok"


def test_agc_holds_each_row_against_its_weights() -> None:
    """A row that is far above, one below, one of zeros, and one whose weights are zero."""
    expected = papers.agc(ROWS, WEIGHTS, 0.01, 1e-3)
    got = clipped(AGC(), WEIGHTS, ROWS)
    assert [x for row in got for x in row] == pytest.approx([x for row in expected for x in row], rel=1e-15, abs=0.0)
    assert got[1:3] == ROWS[1:3]
    assert math.hypot(*got[0]) == pytest.approx(0.01 * 3.0)
    assert math.hypot(*got[3]) == pytest.approx(0.01 * 1e-3)


def test_a_bias_is_one_unit() -> None:
    """The whole of a vector is held against the whole of its weights."""
    parameter = Parameter(torch.tensor(WEIGHTS[0]))
    parameter.grad = torch.tensor(ROWS[0])
    gradclip.GradClipper([parameter], AGC()).clip()
    assert parameter.grad.tolist() == pytest.approx(papers.agc(ROWS[:1], WEIGHTS[:1])[0], rel=1e-6)


def test_block_rms_and_fixed_value() -> None:
    """Element by element."""
    flat = [x for row in ROWS for x in row]
    for policy, expected in (
        (BlockRMS(0.5), papers.block_rms(flat, 0.5)),
        (FixedValue(0.5), papers.fixed_value(flat, 0.5)),
    ):
        got = [x for row in clipped(policy, WEIGHTS, ROWS) for x in row]
        assert got == pytest.approx(expected, rel=1e-15, abs=0.0)
        assert got != flat


# Rules that learn.


def test_zclip() -> None:
    """As published, without a ceiling and without unlocking."""
    assert_follows(ZClip(math.inf, patience=math.inf), papers.zclip(norms()), norms(), 1e-14)
    other = ZClip(math.inf, z_threshold=1.5, alpha=0.9, warmup=7, eps=1e-3, patience=math.inf)
    steps = [
        papers.Step(step.threshold, min(1.0, step.threshold / (n + 1e-3)))
        for step, n in zip(papers.zclip(norms(), z_threshold=1.5, alpha=0.9, warmup=7, eps=1e-3), norms(), strict=True)
    ]
    assert_follows(other, steps, norms(), 1e-14)


def test_autoclip() -> None:
    """The percentile of the whole history with the current norm, and of a window without it."""
    assert_follows(AutoClip(math.inf, window=None), papers.autoclip(norms()), norms(), 1e-14)
    assert_follows(
        AutoClip(math.inf, percentile=90.0, window=50, include_current=False),
        papers.quantile_clip(norms(), window=50),
        norms(),
        1e-14,
    )


def test_median_clip() -> None:
    """Twice the median of the last norms."""
    assert_follows(MedianClip(math.inf), papers.median_clip(norms()), norms(), 1e-14)
    assert_follows(
        MedianClip(math.inf, scale=1.5, window=21, warmup=3),
        papers.median_clip(norms(), scale=1.5, window=21, warmup=3),
        norms(),
        1e-14,
    )


def test_spike_skip() -> None:
    """The rule of its source, where skipped steps stay in the window, from the first step that it judges."""
    policy = SpikeSkip(math.inf, warmup=63, learn_skipped=True, patience=math.inf)
    for first in (62, 63, 100):
        totals = series(300, spread=0.1, spikes=(first, *range(200, 210)))
        _, _, skips = numbers(decide_all(policy, totals)[0])
        assert skips == papers.spike_skip(totals)
        assert skips[first] == (first >= 63)
        assert skips[200] and not skips[209]  # the spikes of a burst hide its end


def test_spike_skip_by_the_loss() -> None:
    """A loss far above its mean skips the step too, however small the norm."""
    totals, losses = [1.0 + 0.1 * math.sin(t) for t in range(200)], series(200, spikes=(150, 151, 180))
    policy = SpikeSkip(math.inf, warmup=63, learn_skipped=True, patience=math.inf)
    state, skips = policy.init(LAYOUT), []
    for total, loss in zip(totals, losses, strict=True):
        decision, state = policy.decide(Norms(LAYOUT, 2.0, total, loss=loss), state)
        skips.append(decision.skip)
    assert skips == papers.spike_skip(totals, losses)
    assert skips.index(True) == 150


def test_adagc() -> None:
    """As published, each parameter by itself."""
    layout = Layout(("a", "b", "c"), (1, 1, 1), (1, 1, 1))
    rows = [list(row) for row in zip(*(series(n, spread=0.3, spikes=SPIKES) for n in (600, 601, 602)), strict=False)]
    policy = chain(warmup(100, FixedNorm(1.0, eps=1e-8)), AdaGC(math.inf, patience=math.inf))
    state, coefs = policy.init(layout), []
    for row in rows:
        each = torch.tensor(row, dtype=torch.float64)
        decision, state = policy.decide(Norms(layout, 2.0, math.sqrt(math.fsum(n * n for n in row)), each), state)
        coefs.append(torch.as_tensor(decision.coef, dtype=torch.float64).expand(3).tolist())
    expected = papers.adagc(rows)
    assert [x for row in coefs for x in row] == pytest.approx([x for row in expected for x in row], rel=1e-13, abs=0.0)
    assert min(sum(row[i] < 1.0 for row in expected[100:]) for i in range(3)) >= 100
