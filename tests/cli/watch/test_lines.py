"""Lines as records: what is read, and that what cannot be is refused as the readers refuse it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradclip import ClipRecord
from gradclip.analysis.reading import ReadError, read_series
from gradclip.analysis.reading.pieces import Piece
from gradclip.cli.watch.lines import Lines
from gradclip.records.line import line_of
from records.made import record

RUN = Path("run.jsonl")


def records_of(data: bytes | str, lines: Lines | None = None) -> list[ClipRecord]:
    piece = Piece(1, data.encode() if isinstance(data, str) else data)
    return list((lines or Lines(RUN, None)).records(piece))


def jsonl(*entries: dict[str, Any]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def test_our_own_lines_come_back_as_they_were_written() -> None:
    written = [
        record(1, worst=(("a.weight", 0.75), ("b", 0.25)), lr=0.1, loss=2.5),
        record(2, status="ok", threshold=None, coefficient=1.0),
        record(3, status="skipped_spike", total_norm=1e30),
    ]
    assert records_of(b"".join(map(line_of, written))) == written


def test_a_norm_of_null_is_one_that_was_not_finite() -> None:
    bad = record(7, status="skipped_nonfinite", total_norm=math.nan, coefficient=math.nan, nonfinite={"w": (3, 0)})
    found = records_of(line_of(record(6)) + line_of(bad))[1]
    assert (found.step, found.status, found.nonfinite) == (7, "skipped_nonfinite", {"w": (3, 0)})
    assert math.isnan(found.total_norm)


def test_lines_of_others_are_read_by_their_usual_names() -> None:
    text = jsonl(
        {"_step": 10, "epoch": 1},
        {"_step": 20, "train/grad_norm": 2, "learning_rate": 0.5, "loss": "0.25"},
        {"_step": 30, "train/grad_norm": "NaN"},
    )
    found = records_of(text)
    assert [each.step for each in found] == [20, 30]
    assert (found[0].total_norm, found[0].lr, found[0].loss, found[0].status) == (2.0, 0.5, 0.25, "")
    assert math.isnan(found[1].total_norm)


def test_flags_stand_for_a_status() -> None:
    found = records_of(jsonl(*({"grad_norm": 2.0, "clipped": c, "skipped": s} for c, s in ((0, 0), (1, 0), (0, 1)))))
    assert [(each.step, each.status) for each in found] == [(1, "ok"), (2, "clipped"), (3, "skipped")]


def test_torn_lines_are_counted_and_left_out() -> None:
    lines = Lines(RUN, None)
    assert [
        each.step for each in records_of(line_of(record(1)) + b'{"step": 2, "ti\n' + line_of(record(3)), lines)
    ] == [1, 3]
    assert lines.torn == 1


ONE = {"step": 1, "total_norm": 1.0, "status": "ok", "policy": "FixedNorm(max_norm=1.0)"}


@pytest.mark.parametrize(
    "text",
    [
        jsonl(ONE) + "[1, 2]\n",
        jsonl(ONE) + "nonsense\n",
        jsonl(ONE, {**ONE, "total_norm": -1.0}),
        jsonl(ONE, {**ONE, "total_norm": "large"}),
        jsonl(ONE, {**ONE, "step": 1.5}),
        jsonl(ONE, {**ONE, "step": 2**70}),
        jsonl({**ONE, "group": "a"}, {**ONE, "step": 2, "group": "b"}),
        jsonl(ONE, {**ONE, "step": 2}, {**ONE, "policy": "ZClip()"}),
        jsonl(*[{"step": 1, "other": 2.0}] * 100),
        jsonl(ONE) + '{"a":' * 100_000 + "\n",
    ],
    ids=["list", "no JSON", "negative", "word", "half step", "huge step", "groups", "two runs", "no norm", "deep"],
)
def test_what_the_readers_refuse_is_refused_in_their_words(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(ReadError) as expected:
        read_series(path)
    with pytest.raises(ReadError) as found:
        records_of(text, Lines(path, None))
    assert str(found.value) == str(expected.value)


def test_a_run_may_change_its_policy_and_go_back() -> None:
    text = jsonl(
        ONE, {**ONE, "step": 2}, {**ONE, "step": 2, "policy": "ZClip()"}, {**ONE, "step": 3, "policy": "ZClip()"}
    )
    assert [each.policy for each in records_of(text)] == ["FixedNorm(max_norm=1.0)"] * 2 + ["ZClip()"] * 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries({}, optional=dict.fromkeys(record().to_dict(), VALUES))


@given(st.lists(FIELDS, max_size=4))
def test_whatever_is_in_a_line_the_outcome_is_records_or_one_line_of_error(entries: list[dict[str, Any]]) -> None:
    found, errors = [], []
    try:
        found = records_of(jsonl(ONE, *entries))
    except ReadError as error:
        errors.append(str(error))
    assert all(message.startswith("run.jsonl") and "\n" not in message for message in errors)
    assert len(errors) == 1 or len(found) >= 1
    assert len(found) <= 1 + len(entries)
    for each in found:
        assert type(each.step) is int
        assert type(each.total_norm) is float and not each.total_norm < 0.0
