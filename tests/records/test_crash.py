"""What a process that is killed leaves behind, and what the next one makes of it."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from gradclip.records import JSONLines
from processes import printed
from records.made import record, wide

KILLED = """
import os, signal, sys, time
from records.made import write_for_ever

folder, width, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for run in range(runs):
    path = f"{folder}/{run}.jsonl"
    child = os.fork()
    if child == 0:
        write_for_ever(path, width)
    while not os.path.exists(path) or os.path.getsize(path) < 200 * width:
        time.sleep(0.001)
    time.sleep(0.003 * run)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""

TOGETHER = """
import os, sys
from records.made import write_some

path, count = sys.argv[1], int(sys.argv[2])
children = []
for group in ("one", "other"):
    child = os.fork()
    if child == 0:
        write_some(path, group, count)
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""

needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="this system kills and starts processes otherwise")


def lines_of(path: Path) -> tuple[list[dict[str, Any]], bytes]:
    """Every line that has an end, parsed, and what comes after these."""
    *whole, rest = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in whole], rest


@needs_fork
@pytest.mark.parametrize(("width", "runs"), [(3, 5), (3000, 5)])
def test_a_writer_that_is_killed(width: int, runs: int, tmp_path: Path) -> None:
    """Every line but the last is whole, and the next run goes on where only whole ones are."""
    printed(KILLED, tmp_path, width, runs)
    assert len(list(tmp_path.iterdir())) == runs
    for path in tmp_path.iterdir():
        lines, _ = lines_of(path)
        assert len(lines) > 2 and [line["step"] for line in lines] == list(range(1, len(lines) + 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whether the kill tore a line is up to chance
            JSONLines(path)(record(len(lines) + 1))
        resumed, rest = lines_of(path)
        assert resumed[: len(lines)] == lines and len(resumed) in {len(lines) + 1, len(lines) + 2} and rest == b""


@needs_fork
def test_two_writers_of_one_file(tmp_path: Path) -> None:
    """No line is lost, mixed with another, or out of order."""
    path = tmp_path / "run.jsonl"
    printed(TOGETHER, path, 500)
    lines, rest = lines_of(path)
    assert rest == b"" and len(lines) == 1000
    for group in ("one", "other"):
        assert [line["step"] for line in lines if line["group"] == group] == list(range(1, 501))


def written(path: Path, count: int) -> bytes:
    """Some whole lines."""
    sink = JSONLines(path)
    for step in range(1, count + 1):
        sink(wide(step, 5))
    sink.close()
    return path.read_bytes()


@pytest.mark.parametrize("whole", [0, 1, 3])
@pytest.mark.parametrize("kept", [1, 5, 8, 9, 200, -2])
def test_a_torn_last_line_is_removed(whole: int, kept: int, tmp_path: Path) -> None:
    """With a warning that shows its beginning; all before it stays byte for byte."""
    path = tmp_path / "run.jsonl"
    before = written(path, whole)
    fragment = written(tmp_path / "other.jsonl", 1)[:kept]
    path.write_bytes(before + fragment)
    with pytest.warns(UserWarning, match=r"run\.jsonl ends in the middle of a line, .*The (\d+) bytes") as caught:
        sink = JSONLines(path)
    assert f"The {len(fragment)} bytes of that line are removed: '{fragment[:60].decode()}'" in str(caught[0].message)
    assert caught[0].filename == __file__
    sink(record(whole + 1))
    assert path.read_bytes()[: len(before)] == before
    lines, rest = lines_of(path)
    assert [line["step"] for line in lines] == list(range(1, whole + 2)) and rest == b""


def test_a_line_that_lacks_but_its_end_is_kept(tmp_path: Path) -> None:
    """Nothing of it is lost."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(written(path, 2)[:-1])
    with pytest.warns(UserWarning, match="A line break is added"):
        JSONLines(path)(record(3))
    assert [line["step"] for line in lines_of(path)[0]] == [1, 2, 3]


@pytest.mark.parametrize("text", ["my notes: buy milk", '{"name": "tor', '{"step', "\0\0\0"])
def test_what_others_wrote_is_not_removed(text: str, tmp_path: Path) -> None:
    """A file that was named by mistake keeps its last line, unless it looks like one of ours."""
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.warns(UserWarning, match="ends in the middle of a line"):
        JSONLines(path)(record(1))
    first, *_ = path.read_text().splitlines()
    assert (first == text) == (text != '{"step')


def test_the_end_of_a_long_last_line_is_found(tmp_path: Path) -> None:
    """However many blocks before the end it begins."""
    path = tmp_path / "run.jsonl"
    before = written(path, 2)
    sink = JSONLines(tmp_path / "other.jsonl")
    sink(wide(3, 20_000))
    fragment = sink.path.read_bytes()[:-10]
    assert len(fragment) > 5 * 65536
    path.write_bytes(before + fragment)
    with pytest.warns(UserWarning, match=f"The {len(fragment)} bytes"):
        JSONLines(path)
    assert path.read_bytes() == before


def test_a_whole_file_gives_no_warning(tmp_path: Path) -> None:
    """Warnings are errors in these tests."""
    before = written(tmp_path / "run.jsonl", 3)
    JSONLines(tmp_path / "run.jsonl")
    assert (tmp_path / "run.jsonl").read_bytes() == before


def test_a_line_that_another_process_is_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left to it."""
    path = tmp_path / "run.jsonl"
    line = written(path, 1)
    path.write_bytes(line + line[:50])

    def meanwhile(seconds: float) -> None:
        with path.open("ab") as file:
            file.write(line[50:])

    monkeypatch.setattr("time.sleep", meanwhile)
    JSONLines(path)(record(2))
    assert [x["step"] for x in lines_of(path)[0]] == [1, 1, 2]


def test_a_sink_that_failed_puts_its_own_line_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is used again: the disk was full in the middle of a line, and is not any more."""
    import os

    sink = JSONLines(tmp_path / "run.jsonl")
    sink(record(1))
    write, written_so_far = os.write, []

    def full(file: int, line: bytes) -> int:
        if written_so_far:
            raise OSError(28, "No space left on device")
        written_so_far.append(1)
        return write(file, line[:40])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            sink(record(2))
    with pytest.warns(UserWarning, match="The 40 bytes of that line are removed"):
        sink(record(3))
    assert [line["step"] for line in lines_of(sink.path)[0]] == [1, 3]
