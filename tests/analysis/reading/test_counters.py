"""Rows are not steps, and a counter that begins again is no run that was resumed."""

from pathlib import Path
from typing import Any

import pytest

from analysis.reading.files import record, refusal, write_lines
from gradclip.analysis.reading import ReadError, read_series


def rows(*epochs: tuple[int, list[int]], **more: Any) -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "iter": step, "grad_norm": float(epoch * step + 1)} | more
        for epoch, steps in epochs
        for step in steps
    ]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("every", [1, 50])
def test_a_counter_of_every_epoch(tmp_path: Path, first: int, every: int) -> None:
    """The last epoch may be cut off; an epoch may have a row more."""
    counted = [first + every * i for i in range(20)]
    entries = rows((1, counted), (2, [*counted, first + every * 20]), (3, counted[:5]))
    series = read_series(write_lines(tmp_path / "run.jsonl", entries))
    assert series.steps.tolist() == [first + every * i for i in range(46)]
    assert any("begin again in every epoch" in remark for remark in series.remarks)


def test_a_resumed_run_within_epochs(tmp_path: Path) -> None:
    """It goes back within its epoch, and later rows count from there on."""
    entries = rows((1, [1, 2, 3, 4]), (2, [1, 2, 3])) + rows((2, [2, 3, 4]), (3, [1, 2]), again=True)
    series = read_series(write_lines(tmp_path / "run.jsonl", entries))
    assert series.steps.tolist() == list(range(1, 11))
    assert any("goes back" in remark for remark in series.remarks)


def test_without_epochs(tmp_path: Path) -> None:
    """As many steps each time: a counter. Once, or of other lengths: a run that was begun anew."""
    steps = [1, 2, 3, 4] * 3 + [1, 2]
    entries = [{"step": step, "grad_norm": 1.0} for step in steps]
    assert read_series(write_lines(tmp_path / "run.jsonl", entries)).steps.tolist() == list(range(1, 15))
    entries = [{"step": step, "grad_norm": 1.0} for step in [1, 2, 3, 4, 5, 6, 7, 1, 2, 1, 2, 3]]
    assert read_series(write_lines(tmp_path / "run.jsonl", entries)).steps.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("lrs", "steps"),
    [
        ([0.1, 0.2, 0.3] * 3, [1, 2, 3]),  # a schedule that begins again: the run was begun anew
        ([0.1 * i for i in range(9)], list(range(1, 10))),
        ([0.1] * 9, list(range(1, 10))),  # which tells nothing
        ([0.1, None, 0.3] * 3, list(range(1, 10))),
    ],
)
def test_a_schedule_tells_a_run_begun_anew_from_a_counter(
    tmp_path: Path, lrs: list[float | None], steps: list[int]
) -> None:
    entries = [{"step": 1 + i % 3, "grad_norm": 1.0, "lr": lr} for i, lr in enumerate(lrs)]
    assert read_series(write_lines(tmp_path / "run.jsonl", entries)).steps.tolist() == steps


def test_the_same_norms_again_are_no_epochs(tmp_path: Path) -> None:
    """As where the files of several ranks are put one below another."""
    rows = "".join(f"{rank},{step},{step}.5\n" for rank in range(3) for step in range(1, 9))
    (tmp_path / "run.csv").write_text(f"rank,step,grad_norm\n{rows}")
    assert read_series(tmp_path / "run.csv").norms.tolist() == [step + 0.5 for step in range(1, 9)]


def test_fractions_of_epochs_count_nothing(tmp_path: Path) -> None:
    entries = [{"step": step, "epoch": step / 3, "grad_norm": 1.0} for step in (1, 2, 3, 2, 3, 4)]
    assert read_series(write_lines(tmp_path / "run.jsonl", entries)).steps.tolist() == [1, 2, 3, 4]


def test_fractions_of_epochs_that_never_fall_count(tmp_path: Path) -> None:
    """No resumed run goes on in its epochs and back in its steps."""
    entries = [{"step": 1 + i % 4, "epoch": i / 4, "grad_norm": 1.0 + i} for i in range(12)]
    assert read_series(write_lines(tmp_path / "run.jsonl", entries)).steps.tolist() == list(range(1, 13))


@pytest.mark.parametrize("known", [{}, {"epoch"}])
def test_a_counter_of_every_epoch_that_several_ranks_wrote(tmp_path: Path, known: set[str]) -> None:
    entries = [
        {"step": step, "grad_norm": epoch + step / 8, **({"epoch": epoch} if known else {})}
        for epoch in range(3)
        for step in (1, 2, 3, 4)
        for _ in range(2)
    ]
    series = read_series(write_lines(tmp_path / "run.jsonl", entries))
    assert series.steps.tolist() == list(range(1, 13))
    assert series.norms.tolist() == [epoch + step / 8 for epoch in range(3) for step in (1, 2, 3, 4)]


@pytest.mark.parametrize("name", ["run", "seed", "split"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_runs_in_one_table(tmp_path: Path, name: str, form: str) -> None:
    """One is read, and several are named; rows without a norm, as of an evaluation, are of no run."""

    def written(values: list[int]) -> Path:
        if form == "jsonl":
            entries = [
                {"step": i, "grad_norm": value + i / 2 - 0.5, name: value} for value in values for i in (1, 2, 3)
            ]
            return write_lines(tmp_path / "run.jsonl", [*entries, {"step": 9, name: 5}])
        lines = [f"{i},{value + i / 2 - 0.5},{value}" for value in values for i in (1, 2, 3)]
        (tmp_path / "run.csv").write_text("\n".join([f"step,grad_norm,{name}", *lines, "9,,5"]) + "\n")
        return tmp_path / "run.csv"

    assert len(read_series(written([7]))) == 3
    way_out = "Name one with run= (`gradclip advise --run NAME`), or write each to a file of its own."
    assert refusal(written([7, 8])) == f"the rows are of 2 runs: '7', '8'. {way_out}"
    series = read_series(written([7, 8]), run="8")
    assert series.steps.tolist() == [1, 2, 3]
    assert series.norms.tolist() == [8.0, 8.5, 9.0]
    assert series.remarks == ()
    with pytest.raises(ReadError, match="there is no run '5'; there are: '7', '8'."):
        read_series(written([7, 8]), run="5")


def test_a_run_of_a_table_without_names_of_runs(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "run.jsonl", [record(1)])
    with pytest.raises(ReadError, match="there is no run 'a'; no column says of which run a row is."):
        read_series(path, run="a")


def test_a_run_of_which_some_steps_are_recorded(tmp_path: Path) -> None:
    every_50th = [{"step": 50 * i, "grad_norm": 1.0} for i in range(1, 101)]
    remarks = read_series(write_lines(tmp_path / "run.jsonl", every_50th)).remarks
    assert remarks[-1].startswith("100 norms of 5,000 steps: one every 50 steps.")
    assert "averages" in remarks[-1]
    whole = write_lines(tmp_path / "run.jsonl", [record(step) for step in range(1, 101)])
    assert read_series(whole).remarks == ()


def test_the_table_that_tensorboard_offers(tmp_path: Path) -> None:
    (tmp_path / "run-.-tag-train_grad_norm.csv").write_text("Wall time,Step,Value\n1.7e9,10,0.5\n1.7e9,20,1.5\n")
    series = read_series(tmp_path / "run-.-tag-train_grad_norm.csv")
    assert (series.steps.tolist(), series.norms.tolist()) == ([10, 20], [0.5, 1.5])


def test_a_bound_that_the_file_does_not_say(tmp_path: Path) -> None:
    series = read_series(write_lines(tmp_path / "run.jsonl", [{"grad_norm": 0.5}, {"grad_norm": 4.0}])).clipped_at(2.0)
    assert series.clipped is not None and series.clipped.tolist() == [False, True]
    assert series.norms_after is not None and series.norms_after.tolist() == [0.5, 2.0]
    assert series.thresholds is not None and series.thresholds.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_no_run_was_clipped_at_such_a_bound(tmp_path: Path, bound: float) -> None:
    series = read_series(write_lines(tmp_path / "run.jsonl", [{"grad_norm": 0.5}]))
    with pytest.raises(ValueError, match=r"`Series.clipped_at\(max_norm=...\)` must be > 0, got .* as it is where"):
        series.clipped_at(bound)
