"""Charts before they are drawn: exact where there is room, and no spike lost where there is not."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cli.report.packed import unpacked
from gradclip.analysis.series import Series
from gradclip.cli.page.build import figures_of
from gradclip.cli.page.figures import curves
from gradclip.cli.page.figures.curves import DENSE, MEDIANS, MOST_POINTS, curve, details_of, packed, picked, single
from gradclip.cli.page.figures.heat import MOST_COLUMNS, MOST_ROWS, heat, ticks_of
from gradclip.cli.page.figures.histogram import FEWEST, MOST, edges_of, histogram
from gradclip.cli.page.figures.over_steps import MOST_MARKS, norms
from gradclip.cli.page.run import Run, window_of

NAN, INF = math.nan, math.inf
STYLE: dict[str, Any] = {"name": "norm", "meta": {"show": ["before"], "detail": [0, 0]}, "line": {"color": "#000000"}}


def run_of(norms: Tensor, name: str = "run", **more: object) -> Run:
    return Run(Series(name, torch.arange(1, len(norms) + 1), norms.double(), **more))


def test_numbers_are_float32_and_gaps_stay() -> None:
    found = single(np.array([0.5, NAN, INF, 1e300, -INF]))
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([0.5, NAN, NAN, 3.4028235e38, NAN], nan_ok=True)


def test_every_point_is_picked_where_there_is_room() -> None:
    assert picked(np.ones(7), 7).tolist() == list(range(7))
    assert len(picked(np.random.default_rng(0).random(1001), 101)) <= 100


def test_no_spike_is_lost_and_what_is_not_finite_stays_a_gap() -> None:
    values = np.random.default_rng(0).random(100_000) + 0.5
    values[12_345], values[54_321] = 1e6, 1e-6
    values[70_000:90_000] = NAN
    (drawn,) = curve(np.arange(1, 100_001), values, **STYLE)
    points = dict(zip(drawn.x.tolist(), drawn.y.tolist(), strict=True))
    assert len(points) <= MOST_POINTS
    assert points[12_346] == 1e6 and points[54_322] == pytest.approx(1e-6)
    gap = [y for x, y in points.items() if 70_010 < x < 89_990]
    assert len(gap) > 100 and all(map(math.isnan, gap))
    assert all(math.isfinite(y) for x, y in points.items() if x < 69_990 or x > 90_010)


def test_a_dense_curve_has_its_medians_over_it() -> None:
    values = np.tile([1.0, 2.0, 9.0, NAN], 5 * DENSE)
    pale, over = curve(np.arange(len(values)), values, **STYLE, pale="#ffffff")
    assert (pale.line.color, over.line.color, over.name) == ("#ffffff", "#000000", "norm: median of 120 steps")
    assert over.y.tolist() == [2.0] * MEDIANS
    assert over.meta == {"show": ["before"]}
    assert len(curve(np.arange(len(values)), values, **STYLE)) == 1
    assert len(curve(np.arange(DENSE), values[:DENSE], **STYLE, pale="#ffffff")) == 1


def test_numbers_come_back() -> None:
    values = np.array([1.5, -2.25, 3.4e38, 1e-45, 0.0], dtype=np.float32)
    assert unpacked(packed(values), "f") == values.tolist()
    assert unpacked(packed(values.astype(">f4")), "f") == values.tolist()
    assert unpacked(packed(np.array([], dtype=np.float32)), "f") == []


def test_all_norms_of_a_long_run_are_kept_beside_its_chart() -> None:
    """The steps as distances; norms, thresholds, and what norms after clipping have beside the lesser of both."""
    norms = torch.rand(MOST_POINTS + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bound = torch.full_like(norms, 0.5)
    after = norms.minimum(bound)
    after[::7] *= 0.5
    found = details_of([run_of(norms[1:]), run_of(norms, norms_after=after, thresholds=bound)])[1]
    assert np.cumsum(unpacked(found["steps"], "d")).tolist() == list(range(1, len(norms) + 1))
    before, changed, threshold = np.array(unpacked(found["rows"], "I"), dtype=np.uint32).reshape(3, -1)
    assert before.view(np.float32).tolist() == norms.float().tolist()
    lesser = norms.float().clamp(max=0.5).numpy().view(np.uint32)
    assert (lesser ^ changed).view(np.float32).tolist() == after.float().tolist()
    assert np.flatnonzero(changed).tolist() == list(range(0, len(norms), 7))
    assert threshold.view(np.float32).tolist() == [0.5] * len(norms)
    assert details_of([run_of(norms[1:])]) == {}


def test_of_too_many_norms_the_smallest_and_the_largest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "MOST_STEPS", 1000)
    norms = torch.ones(MOST_POINTS + 1, dtype=torch.float64)
    norms[7777] = 1e6
    found = details_of([run_of(norms)])[0]
    before, same, unknown = np.array(unpacked(found["rows"], "I"), dtype=np.uint32).reshape(3, -1)
    steps = np.cumsum(unpacked(found["steps"], "d"))
    assert len(steps) <= 1000
    assert steps[before.view(np.float32).argmax()] == 7778
    assert not same.any() and np.isnan(unknown.view(np.float32)).all()


def test_a_million_steps_are_small() -> None:
    """Norms without order, clipped to a constant: all of them, in 5 MB."""
    norms = torch.randn(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(0.4).exp()
    bound = torch.full_like(norms, 1.5)
    found = details_of([run_of(norms, norms_after=norms.minimum(bound), thresholds=bound)])[0]
    assert len(found["steps"]) < 20_000
    assert 3e6 < len(found["rows"]) < 5e6


def test_so_many_marks_stand_for_all_steps_that_did_not_count() -> None:
    for steps, shown in ((10, 10), (10_000, 2500)):
        chart = norms([run_of(torch.full((steps,), NAN))])
        assert chart.data[-1].x == tuple(range(1, steps + 1, steps // shown)) and shown <= MOST_MARKS
        assert chart.data[-1].text[0] == "step 1 norm not finite"


def test_curves_that_are_not_recorded_are_left_out() -> None:
    unknown = torch.full((10,), NAN, dtype=torch.float64)
    run = run_of(torch.ones(10), norms_after=unknown, thresholds=unknown, losses=unknown)
    figures = figures_of([run])
    assert set(figures) == {"norms", "histogram", "policies"}
    assert [trace.name for trace in figures["norms"].data] == ["norm"]


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ([1.0, 2.0, 9.0], "linear"),
        ([1.0, 2.0, 50.0], "log"),
        ([0.0, 2.0, 50.0], "linear"),
        ([1.0, NAN, 50.0, 2.0], "log"),
    ],
)
def test_one_large_loss_does_not_hide_the_others(losses: list[float], scale: str) -> None:
    run = run_of(torch.ones(len(losses)), losses=torch.tensor(losses).double())
    assert figures_of([run, run_of(torch.ones(3))])["loss"].layout.yaxis.type == scale


def test_the_rate_is_that_of_the_last_steps() -> None:
    run = run_of(torch.ones(6), clipped=torch.tensor([True, False, True, True, False, False]))
    assert run.clipped is not None
    assert run.rates(3) == pytest.approx([NAN, NAN, 2 / 3, 2 / 3, 2 / 3, 1 / 3], nan_ok=True)
    assert run.rates(6)[-1] == 0.5
    assert run.rates(1).tolist() == run.clipped.double().tolist()
    assert run_of(torch.ones(5)).rates(2) is None


def test_steps_above_their_threshold_count_as_clipped() -> None:
    by_bound = run_of(torch.tensor([0.5, 2.0, NAN]), thresholds=torch.tensor([1.0, 1.0, 1.0]))
    assert by_bound.clipped is not None
    assert by_bound.clipped.tolist() == [False, True, False]


def test_the_window_fits_the_shortest_run() -> None:
    sizes = {5: 5, 30: 20, 1000: 50, 10_000: 500, 1_000_000: 500}
    assert {steps: window_of([run_of(torch.ones(steps))]) for steps in sizes} == sizes
    assert window_of([run_of(torch.ones(1000)), run_of(torch.ones(100_000))]) == 50


def test_the_histogram_has_every_positive_norm_of_every_run() -> None:
    runs = [run_of(torch.tensor([0.1, 1.0, 10.0, 0.0, NAN]), "a"), run_of(torch.tensor([100.0] * 5), "b")]
    found = histogram(runs)
    assert found is not None
    first, second = found.data
    assert first.x == second.x
    assert (first.x[0], first.x[-1]) == (pytest.approx(0.1), pytest.approx(100.0))
    assert [sum(trace.y) for trace in found.data] == [pytest.approx(100.0), pytest.approx(200.0)]  # the last bin twice
    assert second.y[-2] == 100.0
    assert second.text[-3] == f"norm {second.x[-3]:.4g} to 100: 5 of 5 steps"
    assert histogram([run_of(torch.tensor([0.0, NAN]))]) is None


def test_bins_show_the_shape() -> None:
    alike = edges_of(np.full(9, 0.3))
    assert len(alike) == FEWEST + 1 and alike[0] < 0.3 < alike[-1]
    assert len(edges_of(np.array([*np.linspace(0.0, 1.0, 1000), 300.0]))) == MOST + 1
    logs = np.random.default_rng(0).normal(size=2000)
    assert edges_of(logs) == pytest.approx(np.histogram_bin_edges(logs, "fd"))


def test_the_heat_map_has_the_largest_tensors_and_no_spike_is_lost() -> None:
    names = [f"layer.{i}" for i in range(50)]
    each = tuple((step, {name: 1.0 + i for i, name in enumerate(names)}) for step in range(5000))
    each[4321][1]["layer.30"] = 1e6
    found = heat([run_of(torch.ones(1), each=each)])
    assert found is not None
    (trace,) = found.data
    assert list(found.layout.yaxis.ticktext) == names[50 - MOST_ROWS :]  # in the order of the model
    assert trace.customdata.shape == (MOST_ROWS, 1000) and MOST_COLUMNS >= 1000
    row, column = np.unravel_index(trace.customdata.argmax(), trace.customdata.shape)
    assert (trace.customdata[row, column], trace.text[row][0]) == (1e6, "layer.30")
    assert trace.x[column] == 4320
    assert trace.z[row, column] == pytest.approx(6.0)
    assert np.sort(trace.customdata, axis=None)[-2] == 50.0


def test_a_norm_beyond_float32_is_the_largest_of_the_map() -> None:
    found = heat([run_of(torch.ones(1), each=((1, {"a": 1e300, "b": 1.0}),))])
    assert found is not None
    assert found.data[0].customdata[:, 0].tolist() == pytest.approx([3.4028235e38, 1.0])
    assert found.data[0].z[:, 0].tolist() == pytest.approx([300.0, 0.0])


def test_a_tensor_without_norms_is_an_empty_row() -> None:
    found = heat([run_of(torch.ones(1), each=((1, {"a": NAN, "b": 0.0}), (2, {"a": NAN, "b": INF})))])
    assert found is not None
    assert np.isnan(found.data[0].z).all()
    assert len(found.data[0].colorbar.tickvals) == 0


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.03, 30.0, [0.1, 1.0, 10.0]),
        (0.9, 10.0, [1.0, 2.0, 5.0, 10.0]),
        (1.1, 1.9, [1.1, 1.9]),
        (3.0, 3.0, [3.0, 3.0]),
        (1e-10, 1e10, [1e-10, 1e-7, 1e-4, 1e-1, 1e2, 1e5, 1e8]),
    ],
)
def test_the_scale_of_colours_has_a_few_round_numbers(low: float, high: float, shown: list[float]) -> None:
    assert (10.0 ** ticks_of(np.log10([low, high]))).tolist() == pytest.approx(shown)
