"""Records as lines of a file: what is in them, whose they are, and what is wrong with a path."""

import copy
import errno
import json
import math
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradclip import ClipRecord, GradClipper
from gradclip.policies import FixedNorm
from gradclip.records import JSONLines
from gradclip.testing import RankPool
from processes import forked, printed
from records import made
from records.made import record


def read(path: Path | str) -> list[dict[str, Any]]:
    """Every line, by a parser that knows no NaN."""

    def refuse(word: str) -> float:
        raise AssertionError(word)

    text = Path(path).read_text(encoding="ascii")
    assert text == "" or text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_a_line_of_every_clip(tmp_path: Path) -> None:
    """With the fields of the record, at once."""
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    path = tmp_path / "runs" / "1" / "run.jsonl"  # folders that are not there yet
    records: list[ClipRecord] = []
    clipper = GradClipper([p], FixedNorm(10.0), norms_every=2, sinks=[JSONLines(path), records.append])
    for step in range(1, 4):
        clipper.clip(loss=0.5)
        assert len(read(path)) == step
    lines = read(path)
    assert lines == [json.loads(json.dumps(x.to_dict())) for x in records]
    assert lines[1]["norms"] == {"parameters[0]": 5.0} and lines[1]["worst"] == [["parameters[0]", 1.0]]
    assert (lines[2]["step"], lines[2]["status"], lines[2]["loss"], lines[2]["alarms"]) == (3, "ok", 0.5, [])


def nulled(value: Any) -> Any:
    """What strict JSON has in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: nulled(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [nulled(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


NAMES = st.text(max_size=8)
NUMBERS = st.floats()
FIELDS = st.fixed_dictionaries(
    {
        "total_norm": NUMBERS,
        "total_norm_after": NUMBERS,
        "threshold": st.none() | NUMBERS,
        "coefficient": NUMBERS,
        "policy": st.text(),
        "worst": st.lists(st.tuples(NAMES, NUMBERS), max_size=3).map(tuple),
        "group": st.none() | NAMES,
        "lr": st.none() | NUMBERS,
        "nonfinite": st.none() | st.dictionaries(NAMES, st.tuples(st.integers(0), st.integers(0)), max_size=3),
        "norms": st.none() | st.dictionaries(NAMES, NUMBERS, max_size=3),
        "alarms": st.lists(NAMES, max_size=2).map(tuple),
    }
)


@given(given_fields=st.lists(FIELDS, max_size=4))
def test_any_record_is_one_line_of_strict_json(
    given_fields: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every number comes back to the last bit; NaN and infinities are null, and names may be anything."""
    path = tmp_path_factory.mktemp("lines") / "run.jsonl"
    records = [record(i, **fields) for i, fields in enumerate(given_fields, 1)]
    sink = JSONLines(path)
    for each in records:
        sink(each)
    assert read(path) == [nulled(each.to_dict()) for each in records]


def test_a_second_opening_goes_on(tmp_path: Path) -> None:
    """At the end of what is there: nothing is ever overwritten."""
    path = tmp_path / "run.jsonl"
    first = JSONLines(path)
    first(record(1))
    second = JSONLines(path)
    second(record(2))
    first(record(3))
    first.close()
    first(record(4))
    assert [line["step"] for line in read(path)] == [1, 2, 3, 4]


def test_the_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever folder the program works in later."""
    monkeypatch.chdir(tmp_path)
    sink = JSONLines("run.jsonl")
    sink.close()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sink(record())
    assert sink.path == tmp_path / "run.jsonl" and len(read(sink.path)) == 1


def test_copies_write_to_the_same_file(tmp_path: Path) -> None:
    """Copied or pickled."""
    sink = JSONLines(tmp_path / "run.jsonl")
    copies = [copy.deepcopy(sink), pickle.loads(pickle.dumps(sink))]  # noqa: S301 -- our own
    for step, each in enumerate([sink, *copies], 1):
        each(record(step))
    assert [line["step"] for line in read(sink.path)] == [1, 2, 3]
    assert {repr(each) for each in (sink, *copies)} == {f"JSONLines({str(sink.path)!r})"}
    assert "ranks='all'" in repr(pickle.loads(pickle.dumps(JSONLines(tmp_path / "x", ranks="all"))))  # noqa: S301


def test_a_copy_makes_no_file_before_its_first_record(tmp_path: Path) -> None:
    """A process that is handed one, and takes no step, leaves nothing."""
    sink = JSONLines(tmp_path / "run.jsonl")
    sink.close()
    sink.path.unlink()
    handed = pickle.loads(pickle.dumps(sink))  # noqa: S301 -- our own
    assert not sink.path.exists()
    handed(record())
    assert len(read(sink.path)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="a file that is open cannot be deleted there")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_that_is_deleted_meanwhile_is_made_anew(what: str, tmp_path: Path) -> None:
    """Of records that go on into a file without a name, nobody would hear."""
    sink = JSONLines(tmp_path / "runs" / "run.jsonl")
    sink(record(1))
    sink.path.unlink()
    if what == "folder":
        sink.path.parent.rmdir()
    for step in (2, 3):
        sink(record(step))
    assert [line["step"] for line in read(sink.path)] == [2, 3]


# Paths that will not do.


def test_a_path_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(
        IsADirectoryError, match=r"`JSONLines\(path=\.\.\.\)` must be a file .* Name a file in it\."
    ) as e:
        JSONLines(tmp_path)
    assert repr(str(tmp_path)) in str(e.value)


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises((NotADirectoryError, FileExistsError), match="Name a file in a folder where you may write"):
        JSONLines(tmp_path / "runs" / "run.jsonl")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder in which this process may not write, root or not."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    yield folder
    if is_root:
        os.seteuid(0)
    folder.chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are others on this system")
def test_a_folder_without_permission(locked: Path) -> None:
    with pytest.raises(PermissionError, match="Permission denied.*Name a file in a folder where you may write"):
        JSONLines(locked / "run.jsonl")


@pytest.mark.parametrize("path", [3, None, ["run.jsonl"]], ids=repr)
def test_a_path_that_is_none(path: Any) -> None:
    """An open file's number is no path either."""
    with pytest.raises(TypeError, match="str"):
        JSONLines(path)


@pytest.mark.parametrize("ranks", [1, "0", "none", None, [0]], ids=repr)
def test_ranks_that_are_none(ranks: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`JSONLines\(ranks=\.\.\.\)` must be 0 or 'all', got .*Pass 'all' for a file"
    ):
        JSONLines(tmp_path / "run.jsonl", ranks=ranks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is full")
def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops the sink, not the training; and what is written before the end of the space is whole."""
    full, write = tmp_path / "full.jsonl", os.write

    def writes(file: int, line: bytes) -> int:
        if full.exists() and os.fstat(file).st_ino == full.stat().st_ino:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, line)

    monkeypatch.setattr(os, "write", writes)
    sink = JSONLines(full)
    with pytest.raises(OSError, match="No space left"):
        sink(record())
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    clipper = GradClipper([p], sinks=[JSONLines(full), JSONLines(tmp_path / "run.jsonl")])
    with pytest.warns(UserWarning, match=r"The sink JSONLines\('.*full.jsonl'\) failed at step 1 and is dropped"):
        clipper.clip()
    clipper.clip()
    assert len(read(tmp_path / "run.jsonl")) == 2


def test_a_write_that_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of the line follows."""
    sink = JSONLines(tmp_path / "run.jsonl")
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, line: write(file, line[:100]))
    sink(record(1))
    sink(record(2))
    assert [line["step"] for line in read(sink.path)] == [1, 2]


# Ranks.


def test_the_rank_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch knows of none: rank 0 writes; and another meaning of the variable is no rank."""
    for rank, files in (("1", []), ("0", ["0.jsonl"]), ("gold", ["0.jsonl", "gold.jsonl"])):
        monkeypatch.setenv("RANK", rank)
        JSONLines(tmp_path / f"{rank}.jsonl")(record())
        assert sorted(x.name for x in tmp_path.iterdir()) == files
    monkeypatch.setenv("RANK", "2")
    sink = JSONLines(tmp_path / "run.jsonl", ranks="all")
    sink(record())
    assert sink.path == tmp_path / "run.rank2.jsonl" and len(read(sink.path)) == 1


def test_a_rank_that_is_known_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts if it is by the first record: a sink may be made before the process group."""
    monkeypatch.delenv("RANK", raising=False)
    silent, every = JSONLines(tmp_path / "a.jsonl"), JSONLines(tmp_path / "b.jsonl", ranks="all")
    monkeypatch.setenv("RANK", "3")
    silent(record())
    every(record())
    assert read(tmp_path / "a.jsonl") == [] and len(read(tmp_path / "b.rank3.jsonl")) == 1


FORKED = """
import os, sys
from gradclip.records import JSONLines
from records.made import record

sink = JSONLines(sys.argv[1])
sink(record(1))
child = os.fork()
if child == 0:
    os.environ["RANK"] = "1"
    sink(record(2))
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
sink(record(3))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system starts processes otherwise")
def test_a_process_that_is_forked_may_be_another_rank(tmp_path: Path) -> None:
    """Though the first has written already."""
    printed(FORKED, tmp_path / "run.jsonl")
    assert [line["step"] for line in read(tmp_path / "run.jsonl")] == [1, 3]


def test_ranks_of_a_process_group(tmp_path: Path) -> None:
    """Rank 0 alone writes the file, or each its own."""
    with forked(RankPool(2)) as pool:
        pool.run(made.write_on_rank, str(tmp_path / "one.jsonl"), 0)
        every = pool.run(made.write_on_rank, str(tmp_path / "all.jsonl"), "all")
    assert [path for path, _ in every] == [str(tmp_path / f"all.rank{i}.jsonl") for i in range(2)]
    assert sorted(x.name for x in tmp_path.iterdir()) == ["all.rank0.jsonl", "all.rank1.jsonl", "one.jsonl"]
    assert [len(read(x)) for x in sorted(tmp_path.iterdir())] == [2, 2, 2]
