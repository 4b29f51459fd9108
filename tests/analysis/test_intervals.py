"""Intervals of thresholds against the plain bootstrap."""

import math

import pytest
import torch

import reference_advice as oracle
from analysis.norms import lognormal
from gradclip.analysis import advise
from gradclip.analysis.advice import bootstrap
from gradclip.analysis.advice.thresholds import landmarks


@pytest.mark.parametrize("steps", [100, 333, 1000])
def test_resampled_thresholds_are_those_of_the_plain_bootstrap(steps: int) -> None:
    """As many bins as norms: matrices say what lists say, norm by norm."""
    norms = lognormal(steps, 0.5, memory=0.9)
    norms[1::7] = norms[::7][: len(norms[1::7])]  # ties
    length = 17
    starts = torch.randint(steps - length + 1, (25, steps // length), generator=torch.Generator().manual_seed(1))
    found = bootstrap.resampled(norms[:, None], starts, length)
    plain = [oracle.thresholds(oracle.put_together(norms.tolist(), row, length)) for row in starts.tolist()]
    assert torch.allclose(found, torch.tensor(plain, dtype=torch.float64), rtol=1e-12)


def test_bins_and_cells_of_a_long_series_change_next_to_nothing() -> None:
    """Blocks that begin at every seventh step, and 1024 bins for 7000 norms."""
    norms = lognormal(7000, 0.5, memory=0.9)
    starts = torch.randint(990, (20, 100), generator=torch.Generator().manual_seed(1))
    found = bootstrap.resampled(norms.reshape(1000, 7), starts, 10)
    plain = [oracle.thresholds(oracle.put_together(norms.tolist(), row, 70)) for row in (7 * starts).tolist()]
    errors = (found / torch.tensor(plain, dtype=torch.float64) - 1.0).abs()
    assert errors.mean() < 0.003 and errors.max() < 0.02
    assert found.std(0).div(found.mean(0)).min() > 0.01  # what another series of blocks makes of them is far more


@pytest.mark.parametrize(("steps", "recordings"), [(400, 40), (4000, 10)])
def test_intervals_are_as_wide_as_another_recording_asks_for(steps: int, recordings: int) -> None:
    """Of recordings without memory, about 95 % have the threshold of all others within their interval."""
    z90, z99 = 1.2815515655446004, 2.3263478740408408
    truth = [math.exp(0.3 * z90), min(math.exp(0.3 * z99), 2.0), math.exp(0.3 * 4.0)]
    hits, ratios = [0, 0, 0], []
    for seed in range(recordings):
        norms = lognormal(steps, 0.3, seed=seed)
        low, high = bootstrap.intervals(norms, seed)
        values = landmarks(norms).thresholds()
        hits = [
            hit + (a <= x <= b)
            for hit, a, x, b in zip(hits, (values * low).tolist(), truth, (values * high).tolist(), strict=True)
        ]
        ratios.append((high / low)[0].item())
    assert min(hits) >= 0.75 * recordings and hits[0] >= 0.85 * recordings
    density = math.exp(-(z90**2) / 2) / math.sqrt(2 * math.pi)
    expected = 2 * 1.96 * 0.3 * math.sqrt(0.09 / steps) / density  # of the logarithm of a quantile of normal numbers
    assert math.log(sum(ratios) / len(ratios)) == pytest.approx(expected, rel=0.15)


def test_an_interval_is_about_another_recording() -> None:
    """Which is further from this one than the truth is."""
    norms = lognormal(1000)
    low, high = bootstrap.intervals(norms, 0)
    tight = advise(norms, warmup=0).suggestions[0]
    threshold = landmarks(norms).p90.item()
    assert tight.low == pytest.approx(threshold * low[0].item() ** math.sqrt(2))
    assert tight.high == pytest.approx(threshold * high[0].item() ** math.sqrt(2))


@pytest.mark.parametrize("factor", [1.0, 30.0], ids=["steady", "drifting"])
def test_at_the_edge_of_the_sample_the_interval_is_not_the_estimate(factor: float) -> None:
    """No series that is put together from recorded norms has a larger one than the largest."""
    advice = advise(lognormal(120, 0.2) * factor ** torch.linspace(1.0, 0.0, 120, dtype=torch.float64))
    edge = [each for each in advice.suggestions if each.share_clipped * advice.usable < 10]
    assert advice.suggestions[-1] in edge
    for each in edge:
        assert each.low < 0.97 * each.max_norm
        assert each.high > 1.03 * each.max_norm
        assert each.high >= 0.999 * each.max_norm**2 / each.low


def test_a_wide_interval_has_its_remark_whichever_threshold_it_is_of() -> None:
    suggestions = advise(lognormal(120, 0.5)).suggestions
    wide = [each.name for each in suggestions if each.high > 1.5 * each.low]
    assert wide
    assert f"Wide intervals: {', '.join(wide)}. More steps would narrow them." in advise(lognormal(120, 0.5)).reasons


def test_what_one_norm_says_of_the_next_widens_the_interval() -> None:
    norms = lognormal(2000, memory=0.95)
    shuffled = norms[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    (low, high), (least, most) = bootstrap.intervals(norms, 0), bootstrap.intervals(shuffled, 0)
    assert (high / low).log()[0] > 2.0 * (most / least).log()[0]


def test_the_same_seed_gives_the_same_interval() -> None:
    norms = lognormal(500)
    assert advise(norms, seed=3) == advise(norms, seed=3)
    assert advise(norms, seed=3).suggestions[0].low != advise(norms, seed=4).suggestions[0].low
