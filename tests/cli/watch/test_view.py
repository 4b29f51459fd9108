"""What `gradclip watch` shows: on a terminal of any kind, in a file, and of names that nobody should trust."""

import io
import math
import os
import re
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from gradclip import ClipRecord
from gradclip.analysis.reading import ReadError
from gradclip.cli import UserError
from gradclip.cli.watch.command import watch
from gradclip.cli.watch.session import Session
from gradclip.cli.watch.view import line, panel
from gradclip.records.line import line_of
from records.made import POLICY, record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def write(path: Path, *records: ClipRecord, end: bytes = b"") -> Path:
    with path.open("ab") as file:
        file.write(b"".join(map(line_of, records)) + end)
    return path


def drawn(session: Session, width: int = 80, encoding: str = "utf-8") -> str:
    """What the panel is on a terminal of so many columns, without colours."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=file, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    console.print(panel(session, console))
    file.flush()
    return raw.getvalue().decode(encoding)


def shown_once(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    watch(path, once=True)
    return capsys.readouterr().out.splitlines()


def test_once_prints_the_state_of_now(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok = {"status": "ok", "total_norm": 0.5, "total_norm_after": 0.5, "coefficient": 1.0}
    write(path, *(record(step, time=1.7e9 + step / 4, **ok) for step in range(1, 900)))
    write(path, *(record(step, time=1.7e9 + step / 4, worst=(("head", 0.75),)) for step in range(900, 1000)))
    bad = record(1000, time=1.7e9 + 250, status="skipped_nonfinite", total_norm=math.nan, nonfinite={"w": (3, 1)})
    write(path, bad, record(1001, time=1.7e9 + 250.25, loss=2.5, lr=0.125))
    os.utime(path, (time.time() - 300, time.time() - 300))
    lines = shown_once(path, capsys)
    assert lines[0] == str(path)
    assert lines[1] == "step       1,001, 4 steps/s, last line 5 min ago"
    assert lines[2] == "norm       4, loss 2.5, lr 0.125"
    assert set(lines[3].strip()) == {"▁", "█"}
    assert lines[4] == "           0.5 to 4 in the last 500 steps"
    assert lines[5] == f"threshold  1, coefficient 0.25, {POLICY}"
    assert lines[6] == "clipped    20 % of the last 500, 10 % of 1,001"
    assert lines[7] == "skipped    1, not finite 1"
    assert lines[8] == "           step 1,000 skipped: the norm is not finite, w (3 NaN, 1 infinite)"
    assert lines[9] == "worst      head 75 % of the squared norm at step 999"
    assert lines[10:] == ["alarms     none"]


def test_once_takes_a_last_line_without_an_end_where_it_is_whole(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(path, record(1), end=line_of(record(2)).rstrip())
    assert shown_once(path, capsys)[1].startswith("step       2")
    write(path, end=b'\n{"step": 3, "ti')
    lines = shown_once(path, capsys)
    assert lines[1].strip() == "Line 3 is torn, as where a writer is stopped, and left out"
    assert lines[2].startswith("step       2")


def test_alarms_are_named_with_the_step_at_which_they_began(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(path, *(record(step, total_norm_after=4e-6, coefficient=1e-6) for step in range(1, 502)))
    lines = shown_once(path, capsys)
    assert lines[-2:] == ["alarm      mostly clipped, since step 500", "alarm      tiny coefficient, since step 50"]
    session = Session(path)
    session.finish()
    assert line(session).endswith(", alarms: mostly clipped, tiny coefficient")
    assert "the threshold sets how far most steps go" in " ".join(re.sub("[│ ]+", " ", drawn(session)).split())


@pytest.mark.parametrize("name", ["[red]x[/red]", "[/]", "a\x1b[31mb", "a\nb", "a\rb\x07", "\u202eabc", "\u2603" * 400])
def test_names_from_a_file_are_shown_and_not_obeyed(name: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = record(2, status="skipped_nonfinite", total_norm=math.nan, nonfinite={name: (1, 0)}, policy=name)
    write(path, record(1, worst=((name, 0.5),), policy=name), bad)
    lines = shown_once(path, capsys)
    assert len(lines) == 11
    for text in ("\n".join(lines), *(drawn(session_of(path), encoding=encoding) for encoding in ("utf-8", "ascii"))):
        assert not set(text) & {"\x1b", "\r", "\x07", "\u202e"}
    if name.startswith("["):
        assert any(f"{name} 50 %" in shown for shown in lines)
        assert f"{name} 50 %" in drawn(session_of(path))


def session_of(path: Path) -> Session:
    session = Session(path)
    session.finish()
    return session


@pytest.mark.parametrize("width", [200, 100, 60, 40])
def test_fits_into_a_terminal(width: int, path: Path) -> None:
    write(path, *(record(step, worst=(("blocks.11.attention.weight", 0.5),)) for step in range(1, 600)))
    lines = drawn(session_of(path), width).splitlines()
    assert {len(shown) for shown in lines} == {min(width, 120)}
    assert sum("▅" in shown for shown in lines) == 1  # the curve is not broken


@pytest.mark.parametrize(("width", "height"), [(80, 16), (40, 15)])
def test_a_low_terminal_shows_every_row(width: int, height: int, path: Path) -> None:
    """What is wrong comes last, after steps that take many words, and may not be cut off for these."""
    broken = {f"blocks.{i}.attention.weight": (1 << 20, 0) for i in range(9)}
    steps = (record(step, status="skipped_nonfinite", total_norm=math.nan, nonfinite=broken) for step in range(2, 60))
    write(path, record(1), *steps)
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    shown = "".join(each.text for each in console.render(panel(session_of(path), console, "q quits", lines=height)))
    assert len(shown.splitlines()) <= height
    assert shown.count("…") >= 3
    assert all(word in shown for word in ("step 58 skipped", "step 59 skipped", "worst", "alarm", "q quits"))
    whole = "".join(each.text for each in console.render(panel(session_of(path), console, lines=99)))
    assert len(whole.splitlines()) > height


def test_a_terminal_without_blocks_gets_none(path: Path) -> None:
    write(path, record(1, total_norm=1.0), record(2, total_norm=100.0))
    shown = drawn(session_of(path), encoding="ascii")
    assert "_@" in shown and "?" not in shown


def test_says_what_happens_to_the_file(path: Path) -> None:
    session = Session(path)
    session.look()
    assert line(session) == f"{path}: waiting: there is no such file"
    write(path, record(1))
    session.look()
    assert line(session).startswith("step 1: norm 4, threshold 1, coefficient 0.25, clipped 100 % of 1 step")
    path.unlink()
    session.look()
    assert line(session).endswith(", the file is gone: waiting for it to come back")
    write(path, record(7, status="ok"))
    session.look()
    assert line(session).startswith("step 7: ") and line(session).endswith(", the file was replaced: started anew")
    assert "clipped 0 % of 1 step" in line(session)


def test_says_where_a_run_went_back(path: Path) -> None:
    write(path, *(record(step) for step in range(1, 11)), record(5, status="ok"))
    session = session_of(path)
    assert "clipped 80 % of 5 steps" in line(session)
    assert line(session).endswith(
        ", 6 of 11 rows are left out: the run goes back to step 5 (line 11), and later rows count from there on"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such file. Check the path."),
        ("", "the file is empty"),
        ('{"step": 1, "total_norm": -1.0}\n', "line 1: a norm must be >= 0"),
        ('{"step": 1, "total', "there is no whole record in it"),
        ('{"step": 1, "other": 1.0}\n', "no field looks like a gradient norm"),
    ],
)
def test_once_refuses_what_the_readers_refuse(text: str | None, words: str, path: Path) -> None:
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(UserError, match=re.escape(words)) as error:
        watch(path, once=True)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_once_shows_whatever_the_readers_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also what does not grow by lines, and cannot be followed."""
    state = tmp_path / "trainer_state.json"
    state.write_text('{"log_history": [{"step": 7, "grad_norm": 2.5, "loss": 1.5}]}', "utf-8")
    assert shown_once(state, capsys)[2:4] == ["step       7, last line 0 s ago", "norm       2.5, loss 1.5"]


@pytest.mark.parametrize("interval", [0.0, -1.0, math.nan, math.inf, 1e6])
def test_an_interval_must_be_one(interval: float, path: Path) -> None:
    with pytest.raises(UserError, match=r"--interval must be 0\.05 to 3600 seconds, got"):
        watch(path, interval=interval)


def test_a_field_of_another_name(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text('{"step": 3, "size": 2.5}\n', "utf-8")
    with pytest.raises(UserError, match="no field looks like a gradient norm"):
        watch(path, once=True)
    watch(path, once=True, column="size")
    assert "norm       2.5\n" in capsys.readouterr().out


def test_a_line_that_is_none_is_an_error_at_once(path: Path) -> None:
    write(path, record(1))
    session = Session(path)
    session.look()
    write(path, end=b"nonsense\n")
    with pytest.raises(ReadError, match="line 2: the line is not JSON"):
        session.look()


def test_says_what_the_keys_of_a_terminal_need(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blessed", None)
    monkeypatch.setattr(os, "isatty", lambda _: True)
    with pytest.raises(UserError, match="need blessed: pip install"):
        watch(path)


def test_once_needs_no_keys(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "blessed", None)
    monkeypatch.setattr(os, "isatty", lambda _: True)
    assert shown_once(write(path, record(1)), capsys)[1].startswith("step       1")


def test_a_long_name_is_cut_in_the_middle_whatever_the_terminal_can_show(path: Path) -> None:
    write(path, record(1, total_norm=1.0))
    session = session_of(path)
    session.name = "a" * 200 + "z" * 200
    assert "a ... z" in drawn(session, encoding="ascii")
    assert "a … z" in drawn(session, encoding="utf-8")
