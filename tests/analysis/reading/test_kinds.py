"""What is no run at all, and how runs are told apart."""

import gzip
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.reading.files import refusal
from gradclip.analysis.reading import ReadError, read_series
from gradclip.analysis.reading.kinds import files_of

LINE = b'{"step": 1, "grad_norm": 1.5}\n'
TABLE = b"step,grad_norm\n1,1.5\n"
STATE = b'{\n  "log_history": [{"step": 1, "grad_norm": 1.5}]\n}\n'


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("run.jsonl", LINE, "jsonl"),
        ("run.log", LINE, "jsonl"),
        ("run.csv", b"\n  \n" + LINE, "jsonl"),
        ("run.json", LINE, "jsonl"),
        ("run.jsonl", b'{"step": 1, "norms": {"a' + b"a" * 10_000, "jsonl"),
        ("run.jsonl", b'{"step": 1, "tor\n' + LINE, "jsonl"),
        ("run.log", b'{"step": 1, "tor ', "jsonl"),
        ("run.log", b'{\n  "lr": 0.1\n}\nloading', "printed"),
        ("run.csv", TABLE, "table"),
        ("run", TABLE, "table"),
        ("run.json", TABLE, "table"),
        ("trainer_state.json", STATE, "trainer_state"),
        ("state", STATE, "trainer_state"),
        ("state", b"".join(STATE.split(b"\n")), "trainer_state"),
        ("list.json", b"[\n]", "trainer_state"),
        ("points.json", b"[[1.7e9, 1, 1.5], [", "trainer_state"),
        ("text.log", b"[[1] grad_norm: 1.5\n", "printed"),
        ("history.json", b'{"loss": [2.5, 2.25], "grad_norm": [1.5, 1.25]}', "trainer_state"),
        ("history.json", b'{"loss": [2.5, 2.25], "grad_norm": [1.5, 1.2', "trainer_state"),
        ("history.json", b'{"loss": [2.5, 2.25], "grad', "trainer_state"),
        ("run.jsonl", b'{"betas": [0.9, 0.99], "grad_norm": 1.5}', "jsonl"),
        ("run.jsonl", b'{"betas": [0.9, 0.99]}\n' + LINE, "jsonl"),
        ("events.out.tfevents.1700000000.host", b"", "events"),
        ("run.csv", b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22\x09\0\0\xc0\x9d\x1a\xb1\xda\x41\x1a\rbrain.Event:2", "events"),
    ],
)
def test_a_kind_is_told_by_what_is_in_the_file(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert files_of(path) == (kind, [path], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty. Wait for the first record, or name another file."),
        (gzip.compress(LINE, mtime=0), "the file is compressed. Unpack it first."),
        (b"PK\x03\x04" + b"\0" * 50, "the file is compressed. Unpack it first."),
        (LINE.decode().encode("utf-16"), "the file is UTF-16. Save it as UTF-8."),
        (b":W&B\x00\x00\x01" + b"\0" * 50, "it is a run as Weights & Biases keeps it. Upload it by `wandb sync`"),
        (b"SQLite format 3\0" + b"\0" * 50, "it is a database, as MLflow keeps runs in. Export the metrics"),
        (b"PAR1\x15\x04" + b"\0" * 50, "it is a Parquet file. Save it as CSV."),
        (b"\x7fELF\x02\x01\x01" + bytes(range(256)), "the file is binary. JSON Lines, tables (CSV), "),
        (b"\xff" * 100, "no column looks like a gradient norm"),
        (b" \n\n", "the file is empty. Wait for the first record, or name another file."),
        (b"\n" * 5000, "no column looks like a gradient norm; there are: none."),
        (b"{}", "there is no whole record in it"),
        (b"{", "there is no whole record in it"),
        (
            b"Dear diary,\ntoday the loss went up.\n",
            "no column looks like a gradient norm; there are: 'Dear diary', ''.",
        ),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run"
    path.write_bytes(content)
    assert refusal(path).startswith(message)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "run.jsonl") == "there is no such file. Check the path."
    with pytest.raises(ReadError, match="there is no such file"):
        read_series("a\0b")


def test_a_file_under_another_file(tmp_path: Path) -> None:
    (tmp_path / "run.csv").write_bytes(TABLE)
    assert refusal(tmp_path / "run.csv" / "x").startswith("it cannot be read (Not a directory).")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert refusal(tmp_path / ("x" * 300)).startswith("it cannot be read (File name too long).")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.csv"
    path.write_bytes(TABLE)
    if os.geteuid() == 0:  # who may read everything

        def refuse(self: Path, mode: str = "r") -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
    else:
        path.chmod(0)
    assert refusal(path) == "it may not be read. Ask for the permission, or copy it."


def test_folders_that_may_not_be_read_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search passes over them: what it finds elsewhere may not be all, and what it does not find may be there."""
    for name in ("open", "shut", "open/shut too"):
        (tmp_path / name).mkdir()
    scandir = os.scandir

    def refuse(path: Any = ".") -> Any:
        if "shut" in Path(path).name:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # whoever is root may read everything
    assert refusal(tmp_path) == (
        "there is no event file and no trainer_state.json in the folder, and these below it cannot be read: 'shut', "
        "'open/shut too'. Name a file."
    )
    (tmp_path / "open" / "trainer_state.json").write_bytes(STATE)
    words = "Folders below could not be read, and are left out: 'shut', 'open/shut too'."
    assert read_series(tmp_path).remarks[0] == words
    assert not any("Folders" in remark for remark in read_series(tmp_path / "open").remarks)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == "it is neither a file nor a folder. Write the run to a file and name that."


def test_folders_without_a_run_and_with_several(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "there is no event file and no trainer_state.json in the folder. Name a file."
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_bytes(STATE)
        if name == "first":
            assert len(read_series(tmp_path)) == 1
    assert refusal(tmp_path) == "there are 2 runs in the folder: 'first', 'second'. Name one of them."


def test_checkpoints_are_one_run(tmp_path: Path) -> None:
    """The last holds all steps; of two runs with checkpoints, one has to be named."""
    for name in ("checkpoint-20", "checkpoint-100", "checkpoint-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_bytes(STATE)
    assert files_of(tmp_path) == ("trainer_state", [tmp_path / "checkpoint-100" / "trainer_state.json"], [])
    other = tmp_path / "again" / "checkpoint-1"
    other.mkdir(parents=True)
    (other / "trainer_state.json").write_bytes(STATE)
    assert "there are 4 runs" in refusal(tmp_path)


def test_a_pointer_of_git_lfs(tmp_path: Path) -> None:
    for name in ("events.out.tfevents.1.host.1.0", "run.csv"):
        (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 55559\n")
        assert "pointer of Git LFS" in refusal(tmp_path / name)


@pytest.mark.parametrize(("name", "content"), [("run.jsonl", LINE), ("run.csv", TABLE)])
@pytest.mark.parametrize("package", ["polars", "numpy"])
def test_without_what_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, content: bytes
) -> None:
    """Without NumPy, which torch does without too, polars panics."""
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name) == f'reading it needs {package}: pip install ".[report]" in a clone of gradclip'


def test_a_message_is_one_line_whatever_a_file_is_called(tmp_path: Path) -> None:
    with pytest.raises(ReadError) as caught:
        read_series(tmp_path / "a\nb\x1b[31m\udcff.csv")
    assert str(caught.value) == f"{tmp_path}/a b?[31m?.csv: there is no such file. Check the path."
