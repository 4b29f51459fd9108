"""Files that commands and sinks write: regular ones alone, links followed, whole or not at all."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.report.made import training, write
from gradclip.cli import UserError, main, target
from gradclip.records import JSONLines


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # whose length is limited


OTHERS: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to(os.devnull),
}


def kind_of(path: Path) -> int:
    return stat.S_IFMT(path.stat().st_mode)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run.jsonl", training(40))


COMMANDS: dict[str, list[str]] = {
    "report": ["report", "run.jsonl", "--out", "there", "--force"],
    "replay": ["replay", "run.jsonl", "--policy", "fixed", "--csv", "there", "--force"],
    "bench": ["bench", "--shapes", "mlp", "--seconds", "0.01", "--out", "there", "--force"],
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_regular_file_stays(
    command: str, kind: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even told to, does a command put a file in its place; it says so before it works, in a line."""
    monkeypatch.chdir(run.parent)
    OTHERS[kind](there := Path("there"))
    before = there.lstat(), kind_of(there)
    assert main(COMMANDS[command]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith(f" there is {kind}. Name a file.\n")
    assert printed.err.count("\n") == 1
    assert (there.lstat().st_ino, kind_of(there)) == (before[0].st_ino, before[1])


@pytest.mark.parametrize("file", ["steps.csv", "demo.png", "report.html", "with-clipping.jsonl"])
def test_the_demo_looks_before_it_trains(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / file)
    assert main(["demo", "--steps", "1", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(f"{file} is a named pipe. Name a file.\n")


@pytest.mark.parametrize("kind", OTHERS)
def test_a_sink_writes_into_regular_files(kind: str, tmp_path: Path) -> None:
    OTHERS[kind](tmp_path / "there")
    with pytest.raises(OSError, match=r"`JSONLines\(path=...\)` must be a file that can be written"):
        JSONLines(tmp_path / "there")


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(run: Path, tmp_path: Path, *, there: bool) -> None:
    """What it leads to is written, be it there yet or not; the link stays."""
    (tmp_path / "other").mkdir()
    real, link = tmp_path / "other" / "real.csv", tmp_path / "link.csv"
    link.symlink_to(real)
    if there:
        real.write_text("mine", "utf-8")
        with pytest.raises(UserError, match="exists"):
            target.check("--csv", link)
    assert main(["replay", str(run), "--policy", "fixed", "--csv", str(link), *["--force"] * there]) == 0
    assert link.is_symlink()
    assert real.read_text("utf-8").startswith("step,norm")
    assert [path.name for path in real.parent.iterdir()] == ["real.csv"]


def test_permissions_are_kept(tmp_path: Path) -> None:
    """Those of the file that was there, or else what the mask of the process leaves."""
    out = tmp_path / "out"
    before = os.umask(0o027)
    try:
        target.write("--out", out, b"one")
        assert stat.S_IMODE(out.stat().st_mode) == 0o640
        out.chmod(0o604)
        target.write("--out", out, b"two", force=True)
        assert stat.S_IMODE(out.stat().st_mode) == 0o604
        assert out.read_bytes() == b"two"
    finally:
        os.umask(before)


def test_a_file_that_appeared_meanwhile_is_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    target.check("--out", out)
    out.write_bytes(b"mine")
    with pytest.raises(UserError, match="exists. Pass --force"):
        target.write("--out", out, b"ours")
    assert out.read_bytes() == b"mine"


def test_links_that_lead_nowhere_are_one_line(tmp_path: Path) -> None:
    """In a circle, or below a file."""
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "file").touch()
    for path in (tmp_path / "one", tmp_path / "file" / "below", tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match=r"^--out .*Name a file that can be written\.$"):
            target.check("--out", path)
