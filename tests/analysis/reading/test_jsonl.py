"""JSON Lines: ours in full, those of others by the names that people use, and what crashes leave of both."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gradclip
from analysis.reading.files import record, refusal, same, write_lines
from gradclip.analysis.reading import jsonl, pieces, read_series, source
from gradclip.analysis.series import Event
from gradclip.policies import FixedNorm
from gradclip.records import JSONLines, Memory

NAN = math.nan


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def test_a_run_reads_as_its_sink_wrote_it(path: Path) -> None:
    weight = nn.Parameter(torch.zeros(3))
    sinks = [JSONLines(path), memory := Memory()]
    clipper = gradclip.GradClipper([("weight", weight)], FixedNorm(1.0), sinks=sinks, norms_every=2)
    for norm in (0.5, 4.0, math.nan, 0.75):
        weight.grad = torch.tensor([norm, 0.0, 0.0])
        clipper.clip(loss=2.0 * norm)
    series = read_series(path)
    written = memory.records
    assert [r.status for r in written] == ["ok", "clipped", "skipped_nonfinite", "ok"]
    assert series.steps.tolist() == [1, 2, 3, 4]
    assert series.norms.tolist() == pytest.approx([0.5, 4.0, NAN, 0.75], nan_ok=True)
    assert series.norms_after is not None and series.norms_after.tolist() == pytest.approx(
        [r.total_norm_after for r in written], nan_ok=True
    )
    assert series.clipped is not None and series.clipped.tolist() == [False, True, False, False]
    assert series.skipped is not None and series.skipped.tolist() == [False, False, True, False]
    assert series.thresholds is not None and series.thresholds[1] == 1.0
    assert series.losses is not None and series.losses.tolist() == pytest.approx([1.0, 8.0, NAN, 1.5], nan_ok=True)
    assert series.lrs is None  # as of clips by hand
    assert series.times is not None and series.times.tolist() == [r.time for r in written]
    assert (series.policy, series.optimizer) == (written[0].policy, written[0].optimizer)
    assert [(step, norms) for step, norms in series.each if step != 3] == [
        (r.step, r.norms) for r in written if r.norms is not None and r.step != 3
    ]
    assert series.events == (Event(3, "skipped_nonfinite", written[2].nonfinite or {}),)
    assert series.remarks == ()


def test_null_is_a_norm_that_was_not_finite_where_a_status_says_so(path: Path) -> None:
    counts = {"head.weight": [2, 0], "head.bias": [0, 1], "odd": "three"}
    lines = [record(1), record(2, None, "skipped_nonfinite", nonfinite=counts), record(3, 3.0, "skipped_spike")]
    series = read_series(write_lines(path, lines))
    assert series.norms.isnan().tolist() == [False, True, False]
    assert series.events == (
        Event(2, "skipped_nonfinite", {"head.weight": (2, 0), "head.bias": (0, 1)}),
        Event(3, "skipped_spike"),
    )


def test_lines_of_others_without_a_norm_are_left_out(path: Path) -> None:
    lines = [{"step": 1, "grad_norm": 1.0}, {"step": 1, "eval_loss": 3.0}, {"step": 2, "grad_norm": None}, {}]
    series = read_series(write_lines(path, [*lines, {"step": 3, "grad_norm": 2}]))
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 3], [1.0, 2.0])
    assert series.clipped is None and series.skipped is None and series.policy is None and series.losses is None
    assert series.remarks == ("3 of 5 rows have no norm and are left out.",)


@pytest.mark.parametrize(
    ("written", "norm"),
    [
        ("NaN", NAN),
        ("Infinity", math.inf),
        ("1e999", math.inf),
        ('"nan"', NAN),
        ('"inf"', math.inf),
        ('" 2.5 "', 2.5),
        ("7", 7.0),
        ("-0.0", 0.0),
        ("123456789012345678901234567890", 123456789012345678901234567890.0),
        ("1" + 70 * "0", 1e70),
        ("1" + 400 * "0", math.inf),
        ("5e-324", 5e-324),
        ("0.1234567890123456789012345", 0.12345678901234568),
    ],
)
def test_numbers_as_people_write_them(path: Path, written: str, norm: float) -> None:
    write_lines(path, ['{"step": 1, "grad_norm": 1.5}', f'{{"step": 2, "grad_norm": {written}}}'])
    assert read_series(path).norms.tolist() == pytest.approx([1.5, norm], rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("written", ['"abc"', "true", "[1]", "{}", '"1_000"'])
def test_what_is_no_norm_is_refused_where_it_stands(path: Path, written: str) -> None:
    write_lines(path, ['{"step": 1, "grad_norm": 1.5}', "", f'{{"step": 2, "grad_norm": {written}}}'])
    assert refusal(path).startswith("line 3: 'grad_norm' must be a number, got ")


def test_a_negative_norm_is_refused(path: Path) -> None:
    write_lines(path, [{"step": 1, "log_norm": 1.5}, {"step": 2, "log_norm": -0.25}])
    assert refusal(path, "log_norm").startswith("line 2: a norm must be >= 0, got -0.25. Name the column")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("1.5", "'1.5'"),
        ("null", "nothing"),
        ('"two"', "'two'"),
        ("9223372036854775808", "'9.223372036854776e+18'"),
        ("1e300", "'1e+300'"),
        ("true", "'true'"),
        ("9" * 100, f"'{'9' * 59}..."),
        ("NaN", "'NaN'"),
        ("[2]", "'[2]'"),
    ],
)
def test_a_step_must_be_a_whole_number(path: Path, written: str, shown: str) -> None:
    write_lines(path, ['{"step": 1, "grad_norm": 1}', f'{{"step": {written}, "grad_norm": 1}}'])
    assert refusal(path).startswith(f"line 2: 'step' must be the whole number of a step, got {shown}. ")


@pytest.mark.parametrize(
    "steps", [[1.0, 2.0, 3.0], ["1", "2", "3.0"], [1, 2.0, 3], [2.0**62, 2.0**62 + 1024, 2.0**63 - 1024]]
)
def test_steps_as_floats_and_text(path: Path, steps: list[Any]) -> None:
    write_lines(path, [{"step": step, "grad_norm": 1.0} for step in steps])
    assert read_series(path).steps.tolist() == [int(float(step)) for step in steps]


def test_without_steps_rows_are_counted(path: Path) -> None:
    series = read_series(write_lines(path, [{"grad_norm": 1.0}, {"loss": 1.0}, {"grad_norm": 2.0}]))
    assert series.steps.tolist() == [1, 2]
    assert "There are no numbers of steps: the rows are counted from 1." in series.remarks


@pytest.mark.parametrize("cut", [1, 8, 30, 50, 120, 250])
def test_a_torn_last_line_is_left_out_and_remarked_on(path: Path, cut: int) -> None:
    whole = json.dumps(record(3, norms={"a": 1.0})) + "\n"
    write_lines(path, [record(1), record(2)])
    with path.open("a", encoding="utf-8") as file:
        file.write(whole[: -1 - cut])
    series = read_series(path)
    assert series.steps.tolist() == [1, 2]
    assert series.remarks == ("Line 3 is torn, as where a writer is stopped, and left out.",)


def test_a_whole_last_line_needs_no_end(path: Path) -> None:
    path.write_text(json.dumps(record(1)) + "\n" + json.dumps(record(2)))
    series = read_series(path)
    assert series.steps.tolist() == [1, 2]
    assert series.remarks == ()


def test_lines_torn_by_crashes_before_the_last_are_left_out(path: Path) -> None:
    torn = json.dumps(record(2, norms={"a": 1.0}))
    lines = [record(1), torn[:40], record(2), torn[: torn.index("}") + 1], "\0" * 100, "", record(3)]
    series = read_series(write_lines(path, lines))
    assert series.steps.tolist() == [1, 2, 3]
    assert series.remarks == ("Lines 2, 4 are torn, as where a writer is stopped, and left out.",)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"[1, 2]", "the line is no JSON object. Delete it, or name another file."),
        (b"3", "the line is no JSON object."),
        (b"null", "the line is no JSON object."),
        (b"step 2", "the line is not JSON. Delete or correct it."),
        (b'{"step": 2}{"step": 3}', "the line is not JSON."),
        (b'{"step": 2, "note": "\xff"}', "the line is not UTF-8. Delete or correct it."),
        (b'{"step": 2, "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "the line is nested too deeply. Delete it."),
        (b'{"step": ' + b"1" * 5000 + b"}", "the line is not JSON."),
        (b'{"step": 2, "grad_norm": -NaN}', "the line is not JSON."),
    ],
)
def test_what_is_no_record_is_refused_where_it_stands(path: Path, line: bytes, complaint: str) -> None:
    path.write_bytes(b'{"step": 1, "grad_norm": 1}\n' + line + b'\n{"step": 3, "grad_norm": 1}\n')
    assert refusal(path).startswith(f"line 2: {complaint}")


def test_the_line_is_right_in_any_piece(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SIZE", 1000)
    write_lines(path, [*(record(step) for step in range(1, 500)), record(500, -1.0), *map(record, range(501, 600))])
    assert refusal(path).startswith("line 500: a norm must be >= 0, got -1.")


@pytest.mark.parametrize("mark", [b"", pieces.MARK])
def test_the_first_lines_of_a_file_that_grows(path: Path, mark: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SIZE", 1000)
    lines = [json.dumps(record(step)).encode() + b"\n" for step in range(1, 21)]
    path.write_bytes(mark + b"".join(lines) + b'{"step": 21, "gra')
    for count in range(1, 21):
        series = read_series(path, size=len(mark) + sum(map(len, lines[:count])))
        assert (len(series), series.remarks) == (count, ())


def test_a_line_without_end_is_refused_and_not_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LONGEST_LINE", 10_000)
    monkeypatch.setattr(pieces, "SIZE", 1000)
    path.write_text('{"step": 1, "grad_norm": 1}\n{"step": 2, "note": "' + "x" * 50_000)
    assert refusal(path).startswith("line 2: the line is longer than 64 MiB.")


def test_a_byte_order_mark_and_windows_line_ends(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbf{"step": 1, "grad_norm": 1}\r\n{"step": 2, "grad_norm": 2}\r\n')
    assert read_series(path).norms.tolist() == [1.0, 2.0]


def test_polars_and_json_read_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = (torch.randn(3000, generator=torch.Generator().manual_seed(0)).double().exp() * 0.8).tolist()
    lines: list[object] = [record(s, x, "clipped" if x > 1 else "ok") for s, x in enumerate(norms, 1)]
    lines[700] = record(701, None, "skipped_nonfinite", nonfinite={"a": [1, 0]}, loss=None)
    lines[1500] = record(1501, 2.0, "skipped_spike", norms={"a": 1.5, "b": None})
    lines[2000:] = [record(s - 300, policy="ZClip()") for s in range(2001, 3001)]
    lines[2500] = '{"step": 2201, "total_norm": NaN, "status": "ok"}'
    write_lines(path, lines)
    quick = read_series(path)
    by_json: list[int] = []
    monkeypatch.setattr(jsonl, "_by_polars", lambda piece, source: by_json.append(piece.line))
    assert same(read_series(path), quick)
    assert by_json == [1]
    assert len(quick) == 2700
    assert quick.policy == "ZClip()"
    assert quick.each == ((1501, {"a": 1.5, "b": pytest.approx(NAN, nan_ok=True)}),)
    assert [event.step for event in quick.events] == [701, 1501, 2201]


@pytest.mark.parametrize("between", [":", ": ", ":  ", " : ", ":\t", "\t:"])
def test_what_is_said_of_parameters_whatever_blanks_stand_around_the_colon(path: Path, between: str) -> None:
    lines = [record(1, norms={"norms": 1.5, "b": 2.5}), record(2, norms={'a"norms': 2.5}, worst=[["worst", 0.75]])]
    lines += [record(3, None, "skipped_nonfinite", nonfinite={"nonfinite": [1, 2]})]
    text = [json.dumps(line, separators=(", ", between)) for line in lines]
    series = read_series(write_lines(path, [line.replace(f'"norms"{between}1.5', '"norms":1.5') for line in text]))
    assert series.each == ((1, {"norms": 1.5, "b": 2.5}), (2, {'a"norms': 2.5}))
    assert series.worst == ((2, (("worst", 0.75),)),)
    assert series.events == (Event(3, "skipped_nonfinite", {"nonfinite": (1, 2)}),)


def test_a_blank_line_costs_the_others_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[object] = [record(step) for step in range(1, 2001)]
    lines[777] = ""
    read_one_by_one: list[int] = []
    parse = json.loads
    monkeypatch.setattr(source, "ENOUGH", 1)
    monkeypatch.setattr(jsonl.json, "loads", lambda text: read_one_by_one.append(1) or parse(text))
    series = read_series(write_lines(path, lines))
    assert series.steps.tolist() == [*range(1, 778), *range(779, 2001)]
    assert len(read_one_by_one) == 1  # the sample


def test_norms_that_are_not_finite_are_read_by_polars_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "found_in", None)
    lines = [{"step": s, "grad_norm": [1.5, NAN, math.inf, "2.5"][s % 4], "note": "NaN or Infinity"} for s in range(99)]
    series = read_series(write_lines(path, [*lines, {"step": 99, "grad_norm": 1e-300, "x": [NAN, -math.inf]}]))
    assert series.norms.tolist() == pytest.approx([*([1.5, NAN, math.inf, 2.5] * 25)[:99], 1e-300], nan_ok=True)


def test_text_that_looks_like_such_a_norm_stays_as_it_is(path: Path) -> None:
    policies = ["NaN", "a, NaN ,b", "[ Infinity ]", '": NaN, "']
    lines = [record(step, None, policy=policy) for step, policy in enumerate(policies, 1)]
    series = read_series(
        write_lines(path, [*lines, '{"step": 5, "status": "ok", "total_norm": NaN, "policy": "last"}'])
    )
    assert series.remarks == ("The policy changes: 'NaN', 'a, NaN ,b', '[ Infinity ]', '\": NaN, \"' and 1 more.",)


def test_other_columns_may_hold_anything(path: Path) -> None:
    line = {"step": 1, "grad_norm": 1.0, "loss": "low", "lr": [0.1], "time": "2024-05-01", "status": "running"}
    series = read_series(write_lines(path, [line, line | {"step": 2, "policy": 7, "group": None}]))
    assert series.losses is None and series.lrs is None and series.times is None
    assert series.clipped is None and series.policy is None


def test_times_since_the_start_of_a_run_are_not_dates(path: Path) -> None:
    series = read_series(write_lines(path, [{"step": s, "grad_norm": 1.0, "time": 0.5 * s} for s in (1, 2)]))
    assert series.times is None


def test_names_that_cannot_be_written_are_put_right(path: Path) -> None:
    line = '{"step": 1, "status": "ok", "total_norm": 1.0, "policy": "\\ud800", "norms": {"\\udfff": 1.0}}'
    series = read_series(write_lines(path, [line, json.dumps(record(2, policy="?"))]))
    assert series.each == ((1, {"?": 1.0}),)
    assert series.policy == "?"


def test_what_is_in_an_object_within_the_object(tmp_path: Path) -> None:
    """As RLlib and others write it; lines of another kind among them are left out."""
    path = tmp_path / "result.json"
    lines = [
        {"training_iteration": i, "info": {"learner": {"p": {"grad_gnorm": i / 2, "cur_lr": 0.1}}}} for i in (1, 2)
    ]
    lines.insert(1, {"training_iteration": 1, "info": {"evaluation": {}}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    series = read_series(path)
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2], [0.5, 1.0])
    assert series.remarks == ("1 of 3 rows have no norm and are left out.",)
    path.write_text(json.dumps({"a": {"x": 1.5}, "b": {"x": 2.5}}) + "\n")
    assert read_series(path, column="b/x").norms.tolist() == [2.5]


def test_steps_and_losses_in_objects_beside_the_norm(path: Path) -> None:
    lines = [{"train": {"step": i, "loss": i / 4}, "grad_norm": i / 2} for i in (1, 2, 4)]
    series = read_series(write_lines(path, lines))
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 4], [0.5, 1.0, 2.0])
    assert series.losses is not None and series.losses.tolist() == [0.25, 0.5, 1.0]
