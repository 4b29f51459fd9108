"""A recorded run is replayed as its norms are, in pieces or all at once."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from gradclip.analysis import Replay, replay, series_replay
from gradclip.analysis.series import Series
from gradclip.analysis.series_replay import knows_each, replay_series
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
    chain,
)

INF, NAN = math.inf, math.nan


def recorded(steps: int = 300, **known: Any) -> Series:
    """Noise, a spike, and steps that are 0, infinite and NaN."""
    norms = torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).mul(0.4).exp()
    norms[[70, 90, 91, 150]] = torch.tensor([40.0, NAN, INF, 0.0], dtype=torch.float64)
    return Series("run", torch.arange(1, steps + 1), norms, **known)


def same(a: Tensor, b: Tensor, rtol: float) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=rtol, atol=0.0, equal_nan=True)


def agree(found: Replay, expected: Replay, rtol: float = 0.0) -> bool:
    """Whether two replays are the same: bit for bit, unless a tolerance is given."""
    names = ("norms", "norms_after", "thresholds", "clipped", "skipped")
    return all(same(getattr(found, name), getattr(expected, name), rtol) for name in names)


def nothing_left() -> FixedNorm:
    """A bound of 0, which is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return FixedNorm(0.0)


@pytest.mark.parametrize(
    "policy",
    [
        FixedNorm(1.0),
        nothing_left(),
        FixedNorm(INF),
        FixedNorm(1.3, eps=0.0),
        Normalize(),
        AutoClip(INF, window=50),
        MedianClip(9.0),
        ZClip(INF),
        SpikeSkip(INF, warmup=16, window=32),
        AdaGC(INF, warmup=20),
        FixedNorm(1.0, scope="parameter"),
        Normalize(scope="parameter"),
        chain(FixedNorm(2.0), ZClip(INF)),
        FixedValue(0.1),
    ],
    ids=repr,
)
def test_a_series_is_replayed_as_its_norms(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_replay, "PIECE", 100)  # a third of the steps: pieces that end where the run does
    series = recorded()
    assert agree(replay_series(policy, series), replay(policy, series.norms))


@pytest.mark.parametrize("kind", ["sqrt", "rational", "tanh"])
def test_smooth_bounds_differ_in_rounding_alone(kind: Any) -> None:
    """The square root and the tangent of a tensor are those of another library."""
    series, policy = recorded(), SmoothNorm(1.0, kind)
    assert agree(replay_series(policy, series), replay(policy, series.norms), rtol=1e-15)


@pytest.mark.parametrize("steps", [0, 1, 99, 100, 101, 200])
def test_pieces_lose_no_step(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_replay, "PIECE", 100)
    seen: list[int] = []
    series = Series("run", torch.arange(steps), torch.rand(steps, dtype=torch.float64))
    found = replay_series(ZClip(INF), series, watch=seen.append)
    assert len(found) == steps == sum(seen)
    assert agree(found, replay(ZClip(INF), series.norms))
    assert len(replay_series(FixedNorm(1.0), series)) == steps


def test_losses_are_those_of_the_run() -> None:
    losses = torch.full((300,), 2.0, dtype=torch.float64) + 0.1 * torch.arange(300).sin()
    losses[[100, 200]] = torch.tensor([NAN, 50.0], dtype=torch.float64)
    series = recorded(losses=losses)
    policy = SpikeSkip(INF, warmup=16, window=32)
    found = replay_series(policy, series)
    assert bool(found.skipped[200])
    assert not bool(replay_series(policy, recorded()).skipped[200])
    assert agree(found, replay(policy, series.norms, losses=losses.tolist()))


def test_norms_of_parameters_are_used_where_they_are_known_of_all_steps() -> None:
    generator = torch.Generator().manual_seed(4)
    rows = [
        {name: 0.1 + torch.rand((), generator=generator).item() for name in ("a", "b", "c")[: 3 - step % 2]}
        for step in range(300)
    ]
    each = tuple(enumerate(rows, start=1))
    policy = AdaGC(INF, warmup=20)
    whole, some = recorded(each=each), recorded(each=each[::2])
    assert knows_each(whole) and not knows_each(some)
    found = replay_series(policy, whole)
    assert found.thresholds.shape == (300, 3)
    assert agree(found, replay(policy, rows))
    assert agree(replay_series(policy, some), replay(policy, some.norms))


@pytest.mark.parametrize("policy", [AGC(), BlockRMS(0.1), FixedNorm(1.0, INF)], ids=repr)
def test_what_needs_more_than_norms_is_refused(policy: Policy) -> None:
    with pytest.raises(ValueError, match="must decide from norms"):
        replay_series(policy, recorded())
