"""Thresholds against an oracle in plain Python, and on streams whose shares are known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference_advice as oracle
from analysis.norms import INF, NAN, lognormal
from gradclip.analysis import advise
from gradclip.analysis.advice.signs import signs, tail_index
from gradclip.analysis.advice.suggestions import suggest
from gradclip.analysis.advice.thresholds import landmarks


@given(
    st.lists(st.floats(1e-30, 1e30), min_size=100, max_size=300),
    st.sampled_from([0, 1, 2, 10]),
)
def test_the_statistics_are_those_of_the_oracle(norms: list[float], aside: int) -> None:
    given = torch.tensor(norms, dtype=torch.float64)
    assert landmarks(given).thresholds().tolist() == pytest.approx(oracle.thresholds(norms), rel=1e-9)
    found = signs(given)
    assert found.growth == pytest.approx(oracle.growth(norms), rel=1e-12)
    assert found.drift == pytest.approx(oracle.drift(norms), rel=1e-9)
    assert found.spikes == oracle.spikes(norms)
    largest_first = given.sort(descending=True).values
    if largest_first[aside] > largest_first[math.ceil(len(norms) / 10)]:
        assert tail_index(largest_first, aside) == pytest.approx(oracle.tail_index(norms, aside), rel=1e-9)


@pytest.mark.parametrize("steps", [123, 399, 400, 2000])
def test_the_advice_is_that_of_the_oracle(steps: int) -> None:
    norms = lognormal(steps, 0.4, seed=steps)
    norms[[105, 110]] = torch.tensor([NAN, INF], dtype=torch.float64)
    norms[115] = 0.0
    kept, warmup, nonfinite, zero = oracle.usable(norms.tolist())
    advice = advise(norms)
    assert (advice.usable, advice.warmup, advice.nonfinite, advice.zero) == (len(kept), warmup, nonfinite, zero)
    assert (advice.steps, nonfinite, zero) == (steps, 2, 1)
    assert [each.max_norm for each in advice.suggestions] == [float(f"{x:.3g}") for x in oracle.thresholds(kept)]
    for each in advice.suggestions:
        assert each.share_clipped == oracle.share_clipped(kept, each.max_norm)
        assert each.share_removed == pytest.approx(oracle.share_removed(kept, each.max_norm), rel=1e-9, abs=1e-15)
    assert advice.tail == pytest.approx(oracle.tail_index(kept), rel=1e-12)
    assert advice.verdict == "clip"
    assert advice.max_norm == advice.suggestions[1].max_norm


@pytest.mark.parametrize("sd", [0.1, 0.2, 0.29])
@pytest.mark.parametrize("steps", [2000, 50_000])
def test_a_lognormal_stream_recovers_the_share_to_be_clipped(sd: float, steps: int) -> None:
    """On steps that were not recorded: 10 %, 1 % and what four deviations leave, within 1 %."""
    tight, balanced, conservative = advise(lognormal(steps, sd, seed=1)).suggestions
    unseen = lognormal(100_000, sd, seed=2)
    shares = [(unseen > each.max_norm).double().mean().item() for each in (tight, balanced, conservative)]
    assert shares == pytest.approx([0.1, 0.01, 3.2e-5], abs=0.01)
    assert shares[2] < 0.001
    assert tight.max_norm < balanced.max_norm < conservative.max_norm


def test_norms_that_are_nearly_all_the_same_keep_thresholds_in_order() -> None:
    """The deviation of six norms in ten is next to nothing: four of it are below the 90th percentile."""
    norms = torch.where(torch.arange(1000) % 5 < 3, lognormal(1000, 1e-4), 2.0 * lognormal(1000, 0.1))
    tight, balanced, conservative = (each.max_norm for each in advise(norms).suggestions)
    assert tight == balanced == conservative == pytest.approx(2.0, rel=1e-3)


def test_a_drift_is_no_noise_that_a_spike_has_to_exceed() -> None:
    """Its deviations are those of the drift: no threshold goes by them."""
    norms = lognormal(1000, 0.1) * torch.linspace(math.log(30.0), 0.0, 1000, dtype=torch.float64).exp()
    advice = advise(norms)
    tight, balanced, conservative = (each.max_norm for each in advice.suggestions)
    assert advice.verdict == "drifting"
    assert tight <= balanced <= 2.0 * advice.median < conservative <= norms[50:].max()
    assert advice.code == f"FixedNorm(max_norm={balanced:.3g})"


@pytest.mark.parametrize("sd", [0.6, 1.0])
def test_where_norms_are_spread_wide_thresholds_stay_near_the_median(sd: float) -> None:
    """Their percentiles are far above all that is usual: runs with such bounds were lost where 1.0 trained."""
    advice = advise(lognormal(2000, sd, seed=1))
    tight, balanced, conservative = (each.max_norm for each in advice.suggestions)
    assert balanced == float(f"{2.0 * advice.median:.3g}")
    assert tight <= balanced < conservative


@pytest.mark.parametrize("sd", [1.0, 2.0, 4.0])
def test_the_conservative_threshold_is_never_far_above_what_was_seen(sd: float) -> None:
    """Four deviations of norms that are spread wide are above 60,000,000 medians."""
    norms = lognormal(1000, sd).clamp(max=20.0)
    norms[::13] *= 1.0 + torch.arange(77, dtype=torch.float64) / 100.0  # so that few are the same
    _, balanced, conservative = oracle.thresholds(norms.tolist())
    assert landmarks(norms).thresholds()[2].item() == pytest.approx(conservative, rel=1e-9)
    assert conservative <= min(2.0 * norms.max().item(), 3.0 * balanced)
    spiky = lognormal(1000, sd)
    spiky[500] = 1e9
    assert landmarks(spiky).thresholds()[2] <= 3.0 * landmarks(spiky).thresholds()[1]


def test_a_million_steps_take_seconds() -> None:
    """No loop over steps: a plain one would take minutes for the intervals alone."""
    norms = torch.randn(1_000_000, dtype=torch.float64).mul(0.3).exp()
    tight, balanced, _ = advise(norms).suggestions
    assert tight.max_norm == pytest.approx(math.exp(0.3 * 1.28155), rel=2e-3)
    assert balanced.max_norm == pytest.approx(2.0, rel=5e-3)  # the 99th percentile is 2.009
    assert tight.low < math.exp(0.3 * 1.28155) < tight.high < 1.01 * tight.low


def test_shares_are_those_of_the_bound_that_is_written() -> None:
    """With three digits: here, it clips all norms that are near the 90th percentile."""
    norms = lognormal(1000, 0.1) + 1.0
    norms[::5] = 3.141 + torch.rand(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.003
    tight = suggest(norms, 0, drifting=False)[0]
    assert (tight.max_norm, tight.share_clipped) == (3.14, 0.2)
    assert tight.share_removed == pytest.approx(oracle.share_removed(norms.tolist(), 3.14), rel=1e-9)
