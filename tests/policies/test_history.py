"""The norms of past steps, on the host and as rows of another device."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import reference_policies as papers
from conftest import take_elsewhere
from gradclip.policies.history import History

NORMS = st.lists(st.floats(0.0, 1e30), min_size=1, max_size=30)
WINDOWS = st.none() | st.integers(1, 12)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes every tensor to be on another device, where nothing is read back."""
    take_elsewhere(monkeypatch)


def tensor(x: object) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def filled(norms: list[float], window: int | None, *, as_rows: bool = False) -> History:
    history = History.of(window)
    for x in norms:
        history = history.add(tensor(x) if as_rows else x)
    return history


@given(norms=NORMS, window=WINDOWS, q=st.floats(0.0, 1.0))
def test_quantiles_of_a_window(norms: list[float], window: int | None, q: float) -> None:
    """Those of the last norms, interpolated."""
    kept = norms if window is None else norms[-window:]
    history = filled(norms, window)
    assert history.quantile(q, 0.0) == pytest.approx(papers.quantile(kept, q), rel=1e-12)
    assert history.pack() == [kept]


@given(norms=NORMS, window=WINDOWS)
def test_mean_and_deviation_of_a_window(norms: list[float], window: int | None) -> None:
    """The sample deviation, infinite for one norm."""
    kept = norms if window is None else norms[-window:]
    mean, deviation = filled(norms, window).mean_and_deviation()
    assert mean == pytest.approx(statistics.fmean(kept), rel=1e-12)
    assert deviation == (pytest.approx(statistics.stdev(kept), rel=1e-9) if len(kept) > 1 else math.inf)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("window", [None, 1, 5, 50])
def test_rows_hold_what_columns_hold(window: int | None) -> None:
    """After every step, norms that are not finite among them."""
    columns, rows = History.of(window), History.of(window)
    for x in [3.0, math.nan, 1.0, 4.0, math.inf, 1.0, 5.0, 9.0, 2.0, -math.inf, 6.0, 5.0, 3.0, 5.0]:
        columns, rows = columns.add(x), rows.add(tensor(x))
        assert rows.rows is not None and columns.rows is None
        assert rows.pack() == columns.pack()
        for q in (0.0, 0.1, 0.5, 1.0):
            assert float(rows.quantile(q, tensor(1.0))) == pytest.approx(columns.quantile(q, 1.0), rel=1e-15)
        for got, expected in zip(rows.mean_and_deviation(), columns.mean_and_deviation(), strict=True):
            assert float(got) == pytest.approx(float(expected), rel=1e-14)


@pytest.mark.parametrize("window", [None, 2])
def test_each_parameter_has_a_column(window: int | None, request: pytest.FixtureRequest) -> None:
    """A norm that is missing in one of them leaves its column as it was, on the host and elsewhere."""
    steps = [[1.0, 10.0], [2.0, math.nan], [3.0, 30.0], [math.inf, 40.0]]
    expected = [[1.0, 2.0, 3.0], [10.0, 30.0, 40.0]] if window is None else [[2.0, 3.0], [30.0, 40.0]]
    for _ in range(2):
        history = History.of(window, 2)
        for step in steps:
            history = history.add(tensor(step))
        assert history.pack() == expected
        assert history.quantile(0.5, tensor(steps[0])).tolist() == [statistics.median(column) for column in expected]
        request.getfixturevalue("elsewhere")


def test_without_a_norm_nothing_is_bounded() -> None:
    """The quantile of nothing is infinite, and so is its deviation."""
    assert History.of(5).quantile(0.5, 1.0) == math.inf
    assert History.of(5).quantile(0.5, tensor(1.0)).item() == math.inf
    assert History.of(5, 2).quantile(0.5, tensor([1.0, 2.0])).tolist() == [math.inf, math.inf]
    assert filled([math.nan], 5).quantile(0.5, 1.0) == math.inf
    assert History.of(5).mean_and_deviation()[1] == math.inf
    assert filled([2.0], 5).mean_and_deviation() == (2.0, math.inf)


def test_adding_makes_a_new_history() -> None:
    """The one it was added to stays, so that a step can be decided twice."""
    before = filled([1.0, 2.0, 3.0], 3)
    for x in (10.0, 20.0):
        assert before.add(x).pack() == [[2.0, 3.0, x]]
    assert before.pack() == [[1.0, 2.0, 3.0]]
    assert before.quantile(1.0, 0.0) == 3.0


@pytest.mark.usefixtures("elsewhere")
def test_a_history_moves_between_host_and_device() -> None:
    """What was saved on a device is loaded on the host, and goes on elsewhere."""
    saved = filled([1.0, 2.0, 4.0], 4, as_rows=True)
    loaded = History.of(4).unpack(saved.pack())
    assert loaded.pack() == [[1.0, 2.0, 4.0]]
    assert float(loaded.quantile(0.5, tensor(1.0))) == 2.0
    moved = loaded.add(tensor(8.0)).add(tensor(16.0))
    assert moved.rows is not None
    assert moved.pack() == [[2.0, 4.0, 8.0, 16.0]]


def test_squares_may_leave_the_range() -> None:
    """Of norms of float64 gradients: nothing is raised, and nothing becomes NaN."""
    history = filled([1e200, 2e200, 3e200], None)
    mean, deviation = history.mean_and_deviation()
    assert mean == pytest.approx(2e200)
    assert deviation in (pytest.approx(1e200), math.inf)
    assert history.quantile(0.5, 0.0) == 2e200
    for numbers in ([1e308, 1.5e308], [-1e308] * 3, [1e154, -1e154] * 4):  # whose sum does, or that of squares
        mean, deviation = filled(numbers, None).mean_and_deviation()
        assert deviation == math.inf
        assert not math.isnan(mean)


@pytest.mark.usefixtures("elsewhere")
@given(norms=NORMS, window=WINDOWS, q=st.floats(0.0, 1.0))
def test_a_quantile_has_the_same_bits_elsewhere(norms: list[float], window: int | None, q: float) -> None:
    """The formula is that of the host."""
    here = filled(norms, window).quantile(q, 0.0)
    assert filled(norms, window, as_rows=True).quantile(q, tensor(0.0)).item() == here


@pytest.mark.parametrize("window", [None, 1, 1500, 3000])
def test_a_long_history(window: int | None) -> None:
    """Beyond one block too it holds what arrived, in order of size, as often as it is there; and shares the rest."""
    norms = [float(x) for x in torch.randint(0, 2000, (6000,), generator=torch.Generator().manual_seed(0))]
    history = filled(norms[:4000], window)
    kept = norms[:4000][-(window or 0) :]
    expected = [papers.quantile(kept, q) for q in (0.0, 0.1, 0.5, 0.999, 1.0)]
    longer = history
    for x in norms[4000:]:
        longer = longer.add(x)
    for q, quantile in zip((0.0, 0.1, 0.5, 0.999, 1.0), expected, strict=True):
        assert history.quantile(q, 0.0) == pytest.approx(quantile, rel=1e-12)
        assert longer.quantile(q, 0.0) == pytest.approx(papers.quantile(norms[-(window or 0) :], q), rel=1e-12)
    assert history.pack() == [kept] and longer.pack() == [norms[-(window or 0) :]]
    loaded = History.of(window).unpack(longer.pack())
    assert loaded.pack() == longer.pack() and loaded.mean_and_deviation() == longer.mean_and_deviation()
    assert loaded.add(-1.0).quantile(0.0, 0.0) == -1.0


def test_one_more_norm_copies_no_more_after_many() -> None:
    """All but a block or two of what was there is shared, so that a run without a window costs what its steps cost."""
    history = filled([float(i * 7919 % 10007) for i in range(10000)], None)
    before, after = history.columns[0], history.add(5.5).columns[0]
    for own, other in ((before.arrived, after.arrived), (before.ordered, after.ordered)):
        kept = {id(block) for block in own}
        assert sum(len(block) for block in other if id(block) not in kept) <= 1024
