"""Curves on their way into the page: exact where there is room, and no spike lost where there is not."""

import math
import sys

import pytest
import torch
from torch import Tensor

from cli.report.packed import floats, unpacked
from gradclip.analysis.series import Series
from gradclip.cli.report import columns
from gradclip.cli.report.columns import axis, column, columns_of
from gradclip.cli.report.pack import changed, differences, pack
from gradclip.cli.report.rate import rate_of, rates, window_of
from gradclip.cli.report.runs import Run

NAN, INF = math.nan, math.inf


def run_of(norms: Tensor, **more: Tensor | None) -> Run:
    return Run("run", Series("run", torch.arange(1, len(norms) + 1), norms, **more))


def test_numbers_come_back() -> None:
    values = torch.tensor([1.5, -2.25, 3.4e38, 1e-45, 0.0], dtype=torch.float32)
    assert floats(pack(values)) == values.tolist()
    steps = torch.tensor([10, 20, 30, 1_700_000_000_000])
    assert unpacked(pack(differences(steps)), "d") == [10.0, 10.0, 10.0, 1_699_999_999_970.0]
    assert floats(pack(torch.tensor([], dtype=torch.float32))) == []


def test_the_order_of_bytes_is_that_of_the_page_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a big-endian machine holds, read as it would be there."""
    values = torch.tensor([1.5, 3.25], dtype=torch.float32)
    swapped = values.view(torch.uint8).reshape(2, 4).flip(1).reshape(-1).view(torch.float32)
    monkeypatch.setattr(sys, "byteorder", "big")
    assert floats(pack(swapped)) == [1.5, 3.25]


def test_regular_steps_cost_nothing() -> None:
    assert len(axis(torch.arange(0, 10_000_000, 10), 1)["steps"]) < 20_000


def test_a_curve_like_another_is_the_difference_in_bits() -> None:
    norms = torch.tensor([0.5, 2.0, 0.25, NAN], dtype=torch.float64)
    after = torch.tensor([0.5, 1.0, 0.25, NAN], dtype=torch.float64)
    packed = column(after, 1, like=norms)
    bits = unpacked(packed["mid"], "i")
    assert [bit == 0 for bit in bits] == [True, False, True, True]
    again = torch.tensor(bits, dtype=torch.int32) ^ norms.float().view(torch.int32)
    assert again.view(torch.float32)[:3].tolist() == [0.5, 1.0, 0.25]
    assert changed(norms.float(), norms.float()).tolist() == [0, 0, 0, 0]


def test_a_step_is_kept_apart_and_gaps_stay() -> None:
    packed = column(torch.tensor([0.5, NAN, INF, 1e300, 7.0], dtype=torch.float64), 1)
    assert set(packed) == {"bucket", "mid"}
    found = floats(packed["mid"])
    assert found[0] == 0.5 and found[4] == 7.0
    assert math.isnan(found[1]) and math.isnan(found[2])
    assert found[3] == pytest.approx(3.4028235e38)  # as far as float32 goes


def test_several_steps_become_smallest_median_and_largest() -> None:
    values = torch.tensor([3.0, 1.0, 2.0, NAN, NAN, NAN, 9.0, INF, 5.0, 4.0], dtype=torch.float64)
    packed = column(values, 3)
    low, mid, high = (floats(packed[name]) for name in ("low", "mid", "high"))
    assert [low[0], mid[0], high[0]] == [1.0, 2.0, 3.0]
    assert all(math.isnan(x) for x in (low[1], mid[1], high[1]))
    assert [low[2], mid[2], high[2]] == [5.0, 5.0, 9.0]  # the median of two is the lower
    assert [low[3], mid[3], high[3]] == [4.0, 4.0, 4.0]


def test_what_does_not_fit_is_put_together_and_no_spike_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets grow until the size is right; the largest norm is in one of them."""
    norms = torch.rand(20_000, dtype=torch.float64) + 0.5
    norms[12_345] = 1e6
    clipped = run_of(norms, norms_after=norms.clamp(max=1.0), thresholds=torch.ones(20_000, dtype=torch.float64))
    (whole,) = columns_of([clipped])
    assert (whole["bucket"], whole["before"]["bucket"]) == (1, 1)
    (small,) = columns_of([clipped], most_bytes=30_000)
    bucket = small["bucket"]
    assert bucket in {16, 64}
    assert sum(len(small[part][name]) for part in ("before", "after") for name in ("low", "mid", "high")) < 30_000
    high = floats(small["before"]["high"])
    assert high[12_345 // bucket] == 1e6 == max(high)
    assert sum(unpacked(small["steps"], "d")[: 12_345 // bucket + 1]) == 1 + 12_345 // bucket * bucket
    monkeypatch.setattr(columns, "MOST_STEPS", 1000)
    assert columns_of([clipped])[0]["bucket"] == 64


def test_a_million_steps_are_small() -> None:
    """Norms without order, clipped to a constant: all of them, in 5 MB."""
    norms = torch.randn(1_000_000, dtype=torch.float64).mul(0.4).exp()
    bound = torch.full_like(norms, 1.5)
    (packed,) = columns_of([run_of(norms, norms_after=norms.minimum(bound), thresholds=bound)])
    sizes = {name: len(packed[name]["mid"]) for name in ("before", "after", "threshold")}
    assert packed["bucket"] == 1
    assert 3e6 < sizes["before"] < 5e6
    assert sizes["after"] < 1.4e6
    assert sizes["threshold"] < 20_000


def test_curves_that_are_not_recorded_are_left_out() -> None:
    norms = torch.ones(10, dtype=torch.float64)
    unknown = torch.full_like(norms, NAN)
    (packed,) = columns_of([run_of(norms, norms_after=unknown, thresholds=unknown, losses=unknown)])
    assert [name for name, part in packed.items() if isinstance(part, dict)] == ["before"]


def test_the_rate_is_that_of_the_last_steps() -> None:
    clipped = torch.tensor([True, False, True, True, False, False])
    assert rates(clipped, 3).tolist() == pytest.approx([NAN, NAN, 2 / 3, 2 / 3, 2 / 3, 1 / 3], nan_ok=True)
    assert rates(clipped, 6).tolist()[-1] == 0.5
    assert rates(clipped, 1).tolist() == clipped.double().tolist()


def test_the_window_fits_the_shortest_run() -> None:
    sizes = {5: 5, 30: 20, 1000: 50, 10_000: 500, 1_000_000: 500}
    assert {steps: window_of([run_of(torch.ones(steps))]) for steps in sizes} == sizes
    assert window_of([run_of(torch.ones(1000)), run_of(torch.ones(100_000))]) == 50


def test_the_rate_is_in_per_cent_and_none_where_clipping_is_unknown() -> None:
    assert rate_of(run_of(torch.ones(5)), 2) is None
    known = rate_of(run_of(torch.ones(4), clipped=torch.tensor([True, True, False, True])), 2)
    assert known is not None
    assert floats(known["rate"]["mid"])[1:] == [100.0, 50.0, 50.0]
    by_bound = run_of(torch.tensor([0.5, 2.0, NAN]), thresholds=torch.tensor([1.0, 1.0, 1.0]))
    assert by_bound.clipped is not None
    assert by_bound.clipped.tolist() == [False, True, False]
