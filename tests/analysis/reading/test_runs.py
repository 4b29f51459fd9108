"""Steps that come again: resumed runs, second runs, and records of several clippers in one file."""

import json
import math
from pathlib import Path

import pytest

from analysis.reading.files import record, refusal, write_lines
from gradclip.analysis.reading import ReadError, details, gather, read_series


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def test_a_resumed_run_replaces_what_it_does_again(path: Path) -> None:
    first = [record(step, 1.0) for step in range(1, 11)]
    again = [record(step, 2.0) for step in range(6, 9)]
    series = read_series(write_lines(path, [*first, *again]))
    assert series.steps.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert series.norms.tolist() == [1.0] * 5 + [2.0] * 3
    assert series.remarks == (
        "5 of 13 rows are left out: the run goes back to step 6 (line 11), and later rows count from there on.",
    )


def test_rows_without_a_norm_are_counted_among_all(path: Path) -> None:
    lines = [{"step": s, "grad_norm": x} for s, x in ((1, 1.0), (2, 1.0), (3, 1.0), (2, None), (2, 2.0))]
    remarks = read_series(write_lines(path, lines)).remarks
    assert remarks[0] == "1 of 5 rows have no norm and are left out."
    assert remarks[1].startswith("2 of 4 rows are left out: the run goes back to step 2 (line 5)")


def test_a_run_that_goes_on_where_it_was_needs_no_remark(path: Path) -> None:
    series = read_series(write_lines(path, [record(step) for step in (1, 2, 5, 6)]))
    assert (series.steps.tolist(), series.remarks) == ([1, 2, 5, 6], ())


def test_norms_and_events_of_replaced_lines_are_left_out(path: Path) -> None:
    first = [record(s, None, "skipped_nonfinite", nonfinite={"a": [1, 0]}, norms={"a": 1.0}) for s in (1, 2, 3)]
    again = [record(2), record(3, None, "skipped_nonfinite", nonfinite={"b": [0, 1]}, norms={"b": 2.0})]
    series = read_series(write_lines(path, [*first, *again]))
    assert series.each == ((1, {"a": 1.0}), (3, {"b": 2.0}))
    assert [(event.step, event.nonfinite) for event in series.events] == [(1, {"a": (1, 0)}), (3, {"b": (0, 1)})]


def test_the_same_run_started_anew_counts_as_it_went_last(path: Path) -> None:
    series = read_series(write_lines(path, [*map(record, range(1, 9)), *(record(s, 2.0) for s in (1, 2, 3))]))
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 3], [2.0] * 3)


def test_many_returns_are_counted(path: Path) -> None:
    steps = [1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5, 6, 5, 6, 7]
    series = read_series(write_lines(path, map(record, steps)))
    assert series.steps.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert "goes back to step 2 (line 4), 3 (line 7), 4 (line 10) and 1 more" in series.remarks[0]


RANKS = "if they are of several ranks, or means stand among them, keep one kind."


def test_ranks_that_write_the_same_step_count_once(path: Path) -> None:
    series = read_series(write_lines(path, [record(s, float(10 * s + rank)) for s in (1, 2, 3) for rank in range(4)]))
    assert series.norms.tolist() == [13.0, 23.0, 33.0]
    left_out = "9 of 12 rows are left out: the next is of the same step, and counts."
    assert series.remarks == (f"{left_out} Their norms differ: {RANKS}",)
    series = read_series(write_lines(path, [record(s) for s in (1, 2, 3) for _ in range(4)]))
    assert series.remarks == (left_out,)
    remarks = read_series(write_lines(path, [record(7)] * 3)).remarks
    assert remarks[0].startswith(
        "2 of 3 rows are left out: the run goes back to step 7 (line 2), 7 (line 3), and later"
    )


def test_a_second_run_with_another_policy_is_refused(path: Path) -> None:
    lines = [*map(record, range(1, 5)), *(record(s, policy="ZClip()") for s in (1, 2))]
    assert refusal(write_lines(path, lines)) == (
        "line 5: another run begins here, at step 1 again and with 'ZClip()' after 'FixedNorm(1.0)'. "
        "Split the file here: one run a file."
    )


def test_a_policy_that_changes_on_the_way_is_remarked_on(path: Path) -> None:
    lines = [*map(record, range(1, 5)), *(record(s, policy="ZClip()") for s in (3, 4, 5))]
    series = read_series(write_lines(path, lines))
    assert series.steps.tolist() == [1, 2, 3, 4, 5]
    assert series.policy == "ZClip()"
    assert "The policy changes: 'FixedNorm(1.0)', 'ZClip()'." in series.remarks


def test_records_of_several_groups_are_refused(path: Path) -> None:
    lines = [record(1, group="critic"), record(1, group="actor"), record(2)]
    assert refusal(write_lines(path, lines)) == (
        "the records are of several groups: 'actor', 'all parameters', 'critic'. Name one with run= (`gradclip advise "
        "--run NAME`), or write each to a file of its own."
    )


def test_one_group_is_read(path: Path) -> None:
    assert len(read_series(write_lines(path, [record(s, group="critic") for s in (1, 2)]))) == 2


@pytest.mark.parametrize("form", ["lines", "history", "printed"])
def test_norms_of_parameters_are_read_in_any_format_that_has_objects(path: Path, form: str) -> None:
    entries = [record(1, norms={"a": 1.0}), record(2, None, "skipped_nonfinite", nonfinite={"b": [0, 1]})]
    written = {"history": [json.dumps({"log_history": entries})], "printed": [f"INFO {entry}" for entry in entries]}
    series = read_series(write_lines(path, written.get(form, entries)))
    assert series.each == ((1, {"a": 1.0}),)
    assert [(event.step, event.nonfinite) for event in series.events] == [(2, {"b": (0, 1)})]


@pytest.mark.parametrize("form", ["jsonl", "printed", "trainer_state"])
@pytest.mark.parametrize("nothing", [None, {}], ids=str)
def test_norms_of_parameters_are_thinned_evenly(
    path: Path, monkeypatch: pytest.MonkeyPatch, nothing: dict[str, float] | None, form: str
) -> None:
    monkeypatch.setattr(details, "MOST_NORMS", 25)
    lines = [record(s, norms={f"p{i}": float(s) for i in range(5)} if s % 2 == 0 else nothing) for s in range(1, 41)]
    written = {"trainer_state": [json.dumps({"log_history": lines})], "printed": [f"INFO {line}" for line in lines]}
    series = read_series(write_lines(path, written.get(form, lines)))
    assert [step for step, _ in series.each] == [2, 10, 18, 26, 34]
    assert series.each[1][1] == {f"p{i}": 10.0 for i in range(5)}
    assert series.remarks == ("Of 20 lines with norms of parameters, one in 4 is kept.",)


def test_the_largest_norms_are_read_and_thinned_evenly(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that is not finite is NaN; lines without one, as most are, do not count."""
    lines = [record(s, worst=[["a", s / 100], ["b", None]] if s % 2 == 0 else []) for s in range(1, 41)]
    worst = read_series(write_lines(path, lines)).worst
    assert str(worst) == str(tuple((s, (("a", s / 100), ("b", math.nan))) for s in range(2, 41, 2)))
    monkeypatch.setattr(details, "MOST_SHARES", 10)
    assert [step for step, _ in read_series(path).worst] == [2, 10, 18, 26, 34]


@pytest.mark.parametrize("other", ["none", 0.5, {"a": 0.5}, ["a", "b"], [["a", 0.5, 1]], [["a", "much"]], [[1, 0.5]]])
def test_what_others_call_worst_is_passed_over(path: Path, other: object) -> None:
    lines = [{"step": 1, "grad_norm": 1.0, "worst": [["a", 0.5]]}, {"step": 2, "grad_norm": 2.0, "worst": other}]
    for order in (lines, lines[::-1]):
        path.write_text("".join(json.dumps({**line, "step": i}) + "\n" for i, line in enumerate(order, 1)))
        series = read_series(path)
        assert series.norms.tolist() == [line["grad_norm"] for line in order]
        assert all(found == (("a", 0.5),) for _, found in series.worst)


def test_events_without_end_are_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "MOST_EVENTS", 3)
    series = read_series(write_lines(path, [record(s, None, "skipped_nonfinite") for s in range(1, 9)]))
    assert [event.step for event in series.events] == [1, 2, 3]
    assert series.skipped is not None and series.skipped.all()
    assert series.remarks == ("Of 8 steps skipped or not finite, the first 3 are listed.",)


@pytest.mark.parametrize("runs", [2, 3, 4])
def test_records_of_runs_that_began_anew_are_no_epochs(path: Path, runs: int) -> None:
    """Ours count the steps of a run from its first to its last: later lines replace those before, however often."""
    series = read_series(write_lines(path, [record(step) for _ in range(runs) for step in range(1, 101)]))
    assert len(series) == 100 and series.steps[-1] == 100


@pytest.mark.parametrize(("name", "norm"), [("critic", 1.0), ("actor", 2.0), ("all parameters", 3.0)])
def test_one_of_several_groups_may_be_named(path: Path, name: str, norm: float) -> None:
    """As of the two networks of a GAN, whose records a run leaves in one file."""
    lines = [
        record(step, total_norm, **named)
        for step in range(1, 6)
        for total_norm, named in [(1.0, {"group": "critic"}), (2.0, {"group": "actor"}), (3.0, {})]
    ]
    series = read_series(write_lines(path, lines), run=name)
    assert series.steps.tolist() == [1, 2, 3, 4, 5]
    assert series.norms.tolist() == [norm] * 5
    assert not series.remarks


def test_a_group_that_is_not_there_is_refused_with_those_that_are(path: Path) -> None:
    with pytest.raises(ReadError, match=r"there is no run 'x'; there are: 'actor', 'all parameters'\."):
        read_series(write_lines(path, [record(1, group="actor"), record(1)]), run="x")
