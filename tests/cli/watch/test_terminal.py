"""`gradclip watch` in a real terminal: it follows, quits, and leaves the terminal as it was."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.watch.running import Terminal
from gradclip.records import JSONLines
from records.made import record

if sys.platform == "win32":
    pytest.skip("Windows has no pseudo-terminals of this kind", allow_module_level=True)


@pytest.fixture
def open_terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*arguments: object) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


def test_waits_for_the_file_follows_it_and_quits_on_q(open_terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    import termios

    run = tmp_path / "run.jsonl"
    terminal = open_terminal(run, "--interval", "0.1")
    place = terminal.until("waiting: there is no such file")
    settings = terminal.settings()
    assert not settings[3] & (termios.ICANON | termios.ECHO)
    assert settings[3] & termios.ISIG
    sink = JSONLines(run)
    for step in range(1, 8):
        sink(record(step, worst=(("head.weight", 0.75),)))
    place = terminal.until("100 % of 7 steps", after=place)
    place = terminal.until("head.weight 75 % of the squared norm at step 7", after=place)
    sink(record(8, status="ok", total_norm=0.5, total_norm_after=0.5, coefficient=1.0))
    terminal.until("88 % of 8 steps", after=place)
    sink.close()
    terminal.press("xq")
    assert terminal.ended() == 0
    assert terminal.settings() == terminal.before
    assert "Traceback" not in terminal.shown
    assert "\x1bP" not in terminal.shown  # a question that terminals may show, or answer into the shell


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_signals_restore_the_terminal(
    number: signal.Signals, code: int, open_terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    run = tmp_path / "run.jsonl"
    JSONLines(run)(record(5))
    terminal = open_terminal(run)
    terminal.until("100 % of 1 step")
    assert terminal.settings() != terminal.before
    time.sleep(0.3)  # into the wait
    terminal.process.send_signal(number)
    assert terminal.ended() == code
    assert terminal.settings() == terminal.before
    assert "Traceback" not in terminal.shown


def test_a_bad_line_ends_it_and_restores_the_terminal(open_terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    run = tmp_path / "run.jsonl"
    JSONLines(run)(record(5))
    terminal = open_terminal(run, "--interval", "0.1")
    terminal.until("100 % of 1 step")
    with run.open("a") as file:
        file.write("[1, 2]\n")
    assert terminal.ended() == 2
    terminal.until(f"{run.name}, line 2: the line is no JSON object.")
    assert terminal.settings() == terminal.before
