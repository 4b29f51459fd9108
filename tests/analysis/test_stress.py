"""What norms that are not normal do to each rule, and what the repairs of the published rules are worth."""

import dataclasses
import math
from functools import cache
from typing import Any, final

import pytest
import torch

from benchmark_modules import load
from gradclip.analysis import replay
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
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
    chain,
)

INF = math.inf
STRESS = load("stress")
Stress, stress = STRESS.Stress, STRESS.stress
PUBLISHED = {"patience": INF}

found = cache(stress)

BOUNDING = [
    ZClip(INF),
    ZClip(INF, **PUBLISHED),
    AdaGC(INF),
    AdaGC(INF, **PUBLISHED),
    MedianClip(INF),
    AutoClip(INF, percentile=90),
    AutoClip(INF, percentile=90, window=None),
    AutoClip(INF),
    AutoClip(INF, window=None),
    FixedNorm(1.5),
    SmoothNorm(1.5),
    Normalize(),
]


@pytest.mark.parametrize("policy", BOUNDING, ids=repr)
def test_a_spike_comes_out_as_a_normal_norm(policy: Policy) -> None:
    assert 0.5 < found(policy).spike < 3.0


@pytest.mark.parametrize("policy", BOUNDING, ids=repr)
def test_ten_spikes_in_a_row_teach_nothing(policy: Policy) -> None:
    assert 0.5 < found(policy).tenth_spike < 3.0


@pytest.mark.parametrize("policy", list(BOUNDING), ids=repr)
def test_ten_spikes_in_a_row_teach_nothing_in_noisy_training(policy: Policy) -> None:
    assert 0.3 < found(policy).tenth_spike_noisy < 3.0


@pytest.mark.parametrize("policy", [ZClip(INF), AdaGC(INF), MedianClip(INF)], ids=repr)
def test_a_rule_follows_a_slow_decay(policy: Policy) -> None:
    assert found(policy).late_spike < 0.3
    assert found(FixedNorm(1.5)).late_spike == 1.0


def test_rules_hold_as_many_normal_steps_as_they_say() -> None:
    assert found(FixedNorm(1.0)).held_calm == pytest.approx(0.5, abs=0.03)
    assert found(FixedNorm(1.0)).held_noisy == pytest.approx(0.5, abs=0.03)
    for percentile in (10.0, 90.0):
        for window in (1000, None):
            tight = found(AutoClip(INF, percentile=percentile, window=window))
            assert tight.held_calm == pytest.approx(1.0 - percentile / 100.0, abs=0.02)
            assert tight.held_noisy == pytest.approx(1.0 - percentile / 100.0, abs=0.02)
    assert found(ZClip(INF)).held_calm < 0.03
    assert found(ZClip(INF)).held_noisy < 0.08
    assert found(MedianClip(INF)).held_calm == 0.0
    assert found(MedianClip(INF)).held_noisy < 0.11
    assert found(SpikeSkip(INF)).held_calm == 0.0
    assert found(SpikeSkip(INF)).held_noisy < 0.005
    assert found(SmoothNorm(1.5)).held_calm == 1.0


def test_zclip_unlocks_where_the_published_rule_clips_for_ever() -> None:
    ours, published = found(ZClip(INF)), found(ZClip(INF, **PUBLISHED))
    assert published.held_after_rise > 0.95
    assert published.unlock_steps is None
    assert ours.held_after_rise < 0.2
    assert ours.unlock_steps is not None and 10 < ours.unlock_steps < 60
    assert (ours.held_calm, ours.held_noisy, ours.spike) == (published.held_calm, published.held_noisy, published.spike)


def test_adagc_unlocks_many_times_faster_than_the_published_rule() -> None:
    ours, published = found(AdaGC(INF)), found(AdaGC(INF, **PUBLISHED))
    assert ours.unlock_steps is not None and published.unlock_steps is not None
    assert ours.unlock_steps < 250
    assert published.unlock_steps > 750
    assert ours.held_after_rise < 0.6
    assert published.held_after_rise > 0.75
    slow = {"relative": 1.04, "beta": 0.99}
    assert found(AdaGC(INF, **slow, **PUBLISHED)).unlock_steps is None
    assert found(AdaGC(INF, **slow)).unlock_steps is not None


def test_adagc_clips_about_half_of_normal_steps() -> None:
    ours, published = found(AdaGC(INF)), found(AdaGC(INF, **PUBLISHED))
    assert 0.3 < ours.held_calm <= published.held_calm < 0.6
    assert ours.held_noisy < 0.75
    assert published.held_noisy > 0.8


def test_the_median_unlocks_in_half_a_window() -> None:
    assert 30 <= (found(MedianClip(INF)).unlock_steps or 0) <= 60
    assert found(MedianClip(INF)).held_after_rise < 0.1
    assert 10 <= (found(MedianClip(INF, window=40)).unlock_steps or 0) <= 30


def test_a_window_unlocks_a_quantile_sooner_than_all_of_history() -> None:
    ours = found(AutoClip(INF, percentile=90))
    published = found(AutoClip(INF, percentile=90, window=None))
    assert ours.unlock_steps is not None and published.unlock_steps is not None
    assert ours.unlock_steps < 0.6 * published.unlock_steps
    assert ours.held_after_rise < 0.6 * published.held_after_rise
    assert ours.late_spike < 0.5 < published.late_spike == 1.0


def test_spike_skip_skips_ten_spikes_where_its_source_takes_the_tenth() -> None:
    ours, published = found(SpikeSkip(INF)), found(SpikeSkip(INF, learn_skipped=True, **PUBLISHED))
    assert all(math.isnan(x) for x in (ours.spike, ours.tenth_spike, ours.tenth_spike_noisy, ours.late_spike))
    assert math.isnan(published.spike)
    assert published.tenth_spike == published.tenth_spike_noisy == 100.0
    assert ours.unlock_steps is not None and ours.unlock_steps <= 25
    assert ours.held_after_rise < 0.05
    assert found(SpikeSkip(INF, **PUBLISHED)).unlock_steps is None


def test_a_fixed_bound_never_unlocks() -> None:
    for policy in (FixedNorm(1.5), FixedNorm(1.5, INF), FixedNorm(1.5, scope="parameter"), FixedValue(1.5)):
        result = found(policy)
        assert result.held_calm < 0.001
        assert result.spike == result.tenth_spike == pytest.approx(1.5, rel=1e-6)
        assert result.held_after_rise > 0.99
        assert result.unlock_steps is None


def test_a_rule_that_is_never_locked_unlocks_at_once() -> None:
    result = found(FixedNorm(INF))
    assert result == Stress(0.0, 0.0, 100.0, 100.0, 100.0, 0.0, 0, 1.0)
    assert found(chain(FixedNorm(INF), FixedNorm(INF))) == result


def test_a_ceiling_is_kept_whatever_the_rule_has_learned() -> None:
    published = found(SpikeSkip(4.0, learn_skipped=True, **PUBLISHED))
    assert published.tenth_spike == pytest.approx(4.0, rel=1e-6)


def test_a_seed_draws_the_same_norms() -> None:
    before = torch.get_rng_state()
    assert stress(ZClip(INF), seed=5) == stress(ZClip(INF), seed=5) != stress(ZClip(INF), seed=6)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_steps_to_unlock_are_those_of_a_replay() -> None:
    """Counted by hand on norms of our own: calm, then three times as large."""
    generator = torch.Generator().manual_seed(9)
    calm = torch.randn(3500, dtype=torch.float64, generator=generator).mul(0.1).exp()
    norms = torch.cat([calm[:2000], 3.0 * calm[2000:]])
    clipped = replay(MedianClip(INF), norms).clipped[2000:].tolist()
    counted = next(i for i in range(1400) if not clipped[i] and sum(clipped[i : i + 100]) <= 50)
    assert abs(counted - (found(MedianClip(INF)).unlock_steps or 0)) <= 10


@final
@dataclasses.dataclass(frozen=True)
class Last(Policy):
    """Bound a norm by a multiple of the one before: what somebody may write."""

    scale: float

    @property
    def norm_type(self) -> float:
        return 2.0

    @property
    def scope(self) -> Any:
        return "total"

    def init(self, layout: Layout) -> tuple[float]:
        return (INF,)

    def decide(self, norms: Norms, state: tuple[float]) -> tuple[Decision, tuple[float]]:
        bound = self.scale * state[0]
        return Decision(min(1.0, bound / norms.total), bound), (norms.total,)


def test_a_policy_of_ones_own_is_put_to_the_test() -> None:
    result = stress(Last(2.0))
    assert result.held_calm < 0.001
    assert 0.1 < result.held_noisy < 0.25
    assert 1.5 < result.spike < 4.0
    assert result.tenth_spike == result.tenth_spike_noisy == 100.0
    assert result.unlock_steps == 1


@pytest.mark.parametrize(
    ("policy", "error", "complaint"),
    [(AGC(), ValueError, "needs those of units"), (ZClip, TypeError, "`stress()` must be given policies, got <class")],
)
def test_what_cannot_be_tested_is_refused(policy: Any, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match="must") as caught:
        stress(policy)
    assert complaint in str(caught.value)
