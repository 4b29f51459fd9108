"""A file that grows is read as the readers read it when it is whole, whatever happens to it."""

import json
import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradclip.analysis.reading import ReadError, read_series
from gradclip.analysis.series import Series
from gradclip.cli.watch import session
from gradclip.cli.watch.session import CUT, GONE, MISSING, REPLACED, Session
from gradclip.records.line import line_of
from records.made import record


def write(path: Path, data: bytes | str, mode: str = "ab") -> None:
    with path.open(mode) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def lines_of(*steps: int, **more: Any) -> bytes:
    return b"".join(line_of(record(step, total_norm=float(step), **more)) for step in steps)


def look(file: Session) -> list[int]:
    """The steps that are new, or all where those before are others."""
    run = file.run
    before = [] if run is None else run.steps.tolist()
    file.look()
    if file.run is None or file.run is run:
        return []
    steps = file.run.steps.tolist()
    return steps[len(before) :] if steps[: len(before)] == before and not file.anew else steps


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


@pytest.fixture
def file(path: Path) -> Session:
    return Session(path)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All that the readers were given."""
    given_to: list[bytes] = []

    def reading(path: Path, *, size: int, **asked: str | None) -> Series:
        given_to.append(path.read_bytes()[:size])
        return read_series(path, **asked, size=size)

    monkeypatch.setattr(session, "read_series", reading)
    return given_to


def assert_same(found: Series | None, expected: Series) -> None:
    assert found is not None
    for name in (field.name for field in fields(Series)):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True, msg=name)
        elif name in ("policy", "events"):
            assert ours == theirs, name


def test_it_is_read_where_there_are_new_lines_and_only_then(path: Path, file: Session, read: list[bytes]) -> None:
    assert (look(file), file.lacking) == ([], MISSING)
    write(path, lines_of(*range(1, 101)))
    assert look(file) == list(range(1, 101))
    assert (look(file), file.lacking) == ([], "")
    write(path, lines_of(101, 102) + b'{"step": 103')
    assert look(file) == [101, 102]
    assert look(file) == []
    write(path, b', "time": 1')
    assert look(file) == []
    assert read == [lines_of(*range(1, 101)), lines_of(*range(1, 103))]
    assert_same(file.run, read_series(path))


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("step,grad_norm,loss\n1,2.0,0.5\n2,2.5,0.25\n", "3,1.5,0.125\n"),
        (
            "loading\niter 1 | grad norm: 2.0 | loss: 0.5\niter 2 | grad norm: 2.5 |\n",
            "saved\niter 3 | grad norm: 1.5 |\n",
        ),
        ("{'grad_norm': '2.0', 'epoch': '0.1'}\n{'grad_norm': '2.5'}\n", "saved\n{'grad_norm': '1.5'}\n"),
    ],
    ids=["table", "printed", "printed without steps"],
)
def test_tables_and_printed_text_grow_as_well(first: str, later: str, path: Path, file: Session) -> None:
    write(path, first)
    assert look(file) == [1, 2]
    write(path, later)
    assert look(file) == [3]
    assert_same(file.run, read_series(path))


@pytest.mark.parametrize("step", ["step %d: ", ""], ids=["numbered", "counted"])
def test_steps_that_did_not_count_are_told_once_and_by_their_steps(step: str, path: Path, file: Session) -> None:
    """Also one on the first line, which is read with all later ones."""
    for i, norm in enumerate(("nan", "2.5", "inf", "3.5", "nan"), 1):
        write(path, (step % i if step else "") + f"grad_norm={norm} loss=1.0\n")
        look(file)
    assert_same(file.run, read_series(path))
    assert file.run is not None and [event.step for event in file.run.events] == [1, 3, 5]


def test_waits_for_the_first_norm_and_for_the_rest_of_a_line(path: Path, file: Session) -> None:
    for nothing in (b"\n", b" \r\n"):
        write(path, nothing)
        assert (look(file), file.lacking) == ([], "no record yet")
    write(path, "loading the model\nof 7 layers\n")
    assert (look(file), file.lacking) == ([], "no norm yet in 34 bytes")
    write(path, "step 4: grad_norm=2.5\nstep 5: grad_")
    assert look(file) == [4]
    write(path, "norm=3.")
    assert look(file) == []
    write(path, "5\n")
    assert look(file) == [5]
    assert file.run is not None and file.run.norms.tolist() == [2.5, 3.5]


@pytest.mark.parametrize("nothing", ["{}\n", '{"step": 1, "grad_norm": null}\n', '{"note": 1}\n'])
def test_waits_below_lines_without_a_norm(nothing: str, path: Path, file: Session) -> None:
    write(path, nothing)
    assert (look(file), file.lacking) == ([], f"no norm yet in {len(nothing)} bytes")
    write(path, '{"step": 2, "grad_norm": 1.5}\n')
    assert look(file) == [2]


def test_a_first_norm_far_into_a_file_is_found(path: Path, file: Session) -> None:
    write(path, b'{"note": "none yet"}\n' * 20_000 + lines_of(1))
    assert look(file) == [1]
    write(path, lines_of(2))
    assert look(file) == [2]
    assert_same(file.run, read_series(path))


def test_a_fragment_that_a_resumed_run_removes_is_no_new_file(path: Path, file: Session) -> None:
    write(path, lines_of(1) + b'{"step": 17, "tim')
    assert look(file) == [1]
    os.truncate(path, len(lines_of(1)))
    write(path, lines_of(2))
    assert (look(file), file.anew) == ([2], "")


@pytest.mark.parametrize("again", [[7], [7, 8, 9, 10]], ids=["less", "more"])
def test_begins_anew_where_the_file_is_emptied_and_written_again(again: list[int], path: Path, file: Session) -> None:
    """As `copytruncate` does: the file stays the same, and may be longer by the time we look."""
    write(path, lines_of(1, 2, 3))
    look(file)
    write(path, lines_of(*again), "r+b")
    os.truncate(path, len(lines_of(*again)))
    assert look(file) == again
    assert file.anew == (CUT if len(again) < 3 else REPLACED)


def test_begins_anew_where_the_file_is_moved_away(path: Path, file: Session) -> None:
    write(path, lines_of(1))
    look(file)
    path.rename(path.with_suffix(".1"))
    assert (look(file), file.lacking) == ([], GONE)
    assert (look(file), file.lacking) == ([], GONE)
    write(path, lines_of(1, 2))  # begins as the other did
    assert (look(file), file.anew) == ([1, 2], REPLACED)
    assert look(file) == []


def test_a_file_that_is_written_or_taken_away_while_it_is_read(
    path: Path, file: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes meanwhile is for the next look, and a file that has gone is waited for."""
    meanwhile: list[Callable[[], None]] = []

    def reading(path: Path, **asked: Any) -> Series:
        while meanwhile:
            meanwhile.pop()()
        return read_series(path, **asked)

    monkeypatch.setattr(session, "read_series", reading)
    write(path, lines_of(1, 2))
    meanwhile.append(lambda: write(path, lines_of(3) + b'{"step": 4'))
    assert look(file) == [1, 2]
    assert file.run is not None and not file.run.remarks
    assert look(file) == [3]
    write(path, b', "total_norm": 1.0}\n')
    meanwhile.append(path.unlink)
    assert (look(file), file.lacking) == ([], GONE)
    write(path, lines_of(5))
    assert (look(file), file.lacking, file.anew) == ([5], "", REPLACED)


def test_begins_anew_where_another_file_takes_the_name(path: Path, file: Session) -> None:
    write(path, lines_of(1))
    look(file)
    other = path.with_name("other")
    write(other, lines_of(1, 2))
    other.replace(path)
    assert (look(file), file.anew) == ([1, 2], REPLACED)


def test_a_run_that_goes_back_is_what_the_readers_say_it_is(path: Path, file: Session) -> None:
    write(path, lines_of(1, 2, 3, 4))
    look(file)
    write(path, lines_of(3, status="ok"))
    assert look(file) == [1, 2, 3]
    assert_same(file.run, read_series(path))
    assert file.run is not None and "the run goes back to step 3 (line 5)" in file.run.remarks[0]


def test_a_torn_line_among_the_new_ones_is_told(path: Path, file: Session) -> None:
    write(path, lines_of(1, 2))
    look(file)
    write(path, b'{"step": 3, "ti\n' + lines_of(4))
    look(file)
    assert_same(file.run, read_series(path))
    assert file.run is not None and file.run.remarks[0].startswith("Line 3 is torn")


def test_a_line_without_end_is_refused(path: Path, file: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LONGEST_LINE", 1000)
    write(path, lines_of(1))
    look(file)
    write(path, b"{" * 2000)
    with pytest.raises(ReadError, match="its last line is longer than 64 MiB"):
        look(file)


ONE = {"step": 1, "total_norm": 1.0, "status": "ok", "policy": "FixedNorm(max_norm=1.0)"}


@pytest.mark.parametrize(
    "bad",
    [
        "[1, 2]",
        "nonsense",
        json.dumps({**ONE, "step": 3, "total_norm": -1.0}),
        json.dumps({**ONE, "step": 3, "total_norm": "large"}),
        json.dumps({**ONE, "step": 1.5}),
        json.dumps({**ONE, "step": 2**70}),
        json.dumps({**ONE, "step": 3, "group": "b"}),
        json.dumps({**ONE, "policy": "ZClip()"}),
        '{"a":' * 100_000,
    ],
    ids=["list", "no JSON", "negative", "word", "half step", "huge step", "groups", "two runs", "deep"],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_what_the_readers_refuse_is_refused_in_their_words(bad: str, at_once: bool, path: Path, file: Session) -> None:
    """Also several runs in one file, as `gradclip advise` refuses them; live, or from the first line on."""
    good = "".join(json.dumps({**ONE, "step": step, "group": "a"}) + "\n" for step in (1, 2))
    write(path, good)
    if not at_once:
        look(file)
    write(path, bad + "\n")
    with pytest.raises(ReadError) as expected:
        read_series(path)
    with pytest.raises(ReadError) as found:
        look(file)
    assert str(found.value) == str(expected.value)


def test_several_runs_stacked_in_a_table_are_refused(path: Path, file: Session) -> None:
    write(path, "run,step,grad_norm\na,1,2.0\na,2,2.5\n")
    look(file)
    write(path, "b,1,1.5\nb,2,1.0\n")
    with pytest.raises(ReadError, match="the rows are of 2 runs"):
        look(file)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"log_history": []}\n', "it does not grow by lines. Use `gradclip report`"),
        (b"\x1f\x8b\x08\x00\n", "compressed"),
        (b"\xff\xfe{\x00\n\x00", "UTF-16"),
        (b"\x00\x01\x02\x03\n", "binary"),
        (b'{"step": 1, "other": 1.0}\n' * 20_000, "no field looks like a gradient norm"),
    ],
)
def test_other_files_are_refused(data: bytes, words: str, path: Path, file: Session) -> None:
    write(path, data)
    with pytest.raises(ReadError, match=words) as error:
        look(file)
    assert str(error.value).startswith(str(path))


def test_settings_above_the_steps_are_waited_through(path: Path) -> None:
    """As scripts print them first, over lines, whatever part of them is written, and whatever a program says next."""
    file = Session(path.with_suffix(".log"), name="it")
    parts = [*json.dumps({"lr": 0.1, "model": {"rms_norm_eps": 1e-5}}, indent=2).splitlines(keepends=True), "\n"]
    for text in (*parts, "loading the data\n", *parts):
        write(path.with_suffix(".log"), text)
        assert look(file) == []
        assert file.lacking.startswith("no norm yet in")
    write(path.with_suffix(".log"), "step 1 grad_norm 1.5\nstep 2 grad_norm 2.5\n")
    assert look(file) == [1, 2]


def test_a_history_of_columns_is_refused(path: Path) -> None:
    write(path.with_suffix(".json"), json.dumps({"grad_norm": [1.5, 2.5], "name": "a"}, indent=2))
    with pytest.raises(ReadError, match="it does not grow by lines"):
        look(Session(path.with_suffix(".json"), name="it"))


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="is a folder. Name a file"):
        look(Session(tmp_path, name="a folder"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(path: Path, file: Session) -> None:
    os.mkfifo(path)
    with pytest.raises(ReadError, match="it is no file"):
        look(file)


STEPS = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@settings(max_examples=40)
@given(STEPS, st.lists(st.integers(0, 400), max_size=6))
def test_in_whatever_pieces_a_file_comes_the_run_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], cuts: list[int]
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "run.jsonl"
    statuses = ("ok", "clipped", "skipped_spike")
    data = b"".join(line_of(record(step, status=statuses[i % 3], loss=i / 2)) for i, step in enumerate(steps))
    file = Session(path)
    places = sorted(min(7 * cut, len(data)) for cut in cuts)
    for begin, end in zip([0, *places], [*places, len(data)], strict=True):
        write(path, data[begin:end])
        look(file)
    assert_same(file.run, read_series(path))
