"""`gradclip watch` where there is no terminal: a line now and then, until its input ends or Ctrl-C."""

import signal
import sys
from pathlib import Path

import pytest

from cli.watch.running import Piped
from gradclip.records import JSONLines
from records.made import record

if sys.platform == "win32":
    pytest.skip("pipes cannot be waited for there, and it has no signals for one process", allow_module_level=True)


def test_prints_plain_lines_until_its_input_ends(tmp_path: Path) -> None:
    run = tmp_path / "run.jsonl"
    process = Piped(tmp_path, run, "--interval", "0.1")
    assert process.stdout.readline() == f"{run}: waiting: there is no such file\n"
    JSONLines(run)(record(1))
    while (line := process.stdout.readline()).startswith(str(run)):
        assert "waiting" in line
    assert line.startswith("step 1: norm 4, threshold 1, coefficient 0.25, clipped 100 % of 1 step, skipped 0, ")
    rest, errors = process.rest()
    assert (process.ended(), errors) == (0, "")
    assert all(each.startswith("step 1: ") for each in rest.splitlines())
    assert "\x1b" not in rest


def test_goes_on_without_any_input_until_a_signal(tmp_path: Path) -> None:
    """As a background job of a script does, whose input is `/dev/null`."""
    run = tmp_path / "run.jsonl"
    JSONLines(run)(record(1))
    process = Piped(tmp_path, run, "--interval", "0.05", is_fed=False)
    for _ in range(5):
        assert process.stdout.readline().startswith("step 1: ")
    process.process.send_signal(signal.SIGINT)
    _, errors = process.rest()
    assert (process.ended(), errors) == (130, "")


def test_a_reader_that_goes_away_ends_it_without_a_word(tmp_path: Path) -> None:
    run = tmp_path / "run.jsonl"
    JSONLines(run)(record(1))
    process = Piped(tmp_path, run, "--interval", "0.05", is_fed=False)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.ended() in (0, 1)


@pytest.mark.parametrize("once", [[], ["--once"]])
def test_standard_input_is_watched_until_it_ends(once: list[str], tmp_path: Path) -> None:
    """What a trainer prints: `python train.py | tee log | gradclip watch -`."""
    process = Piped(tmp_path, "-", "--interval", "0.1", *once)
    assert process.stdin is not None
    process.stdin.write("loading\n{'loss': '0.5', 'grad_norm': '2.5'}\n")
    process.stdin.flush()
    while not once and not process.stdout.readline().startswith("step 1: norm 2.5, "):
        pass
    rest, errors = process.rest("{'grad_norm': '3.5'}\n")
    assert (process.ended(), errors) == (0, "")
    lines = rest.splitlines()
    assert (
        lines[1 if once else -1].strip().startswith("There are no numbers of steps" if once else "step 2: norm 3.5, ")
    )
    assert not once or (lines[0], lines[2][:12]) == ("standard input", "step       2")


def test_standard_input_without_a_norm_is_refused(tmp_path: Path) -> None:
    process = Piped(tmp_path, "-", "--once")
    _, errors = process.rest("nothing of the kind\n")
    assert process.ended() == 2
    assert errors.startswith("gradclip: standard input: no column looks like a gradient norm")


def test_a_signal_leaves_nothing_of_standard_input_behind(tmp_path: Path) -> None:
    process = Piped(tmp_path, "-", "--interval", "0.1", TMPDIR=str(tmp_path))
    assert process.stdout.readline().startswith("standard input: waiting: ")
    assert list(tmp_path.glob("gradclip-*"))
    process.process.send_signal(signal.SIGTERM)
    process.rest()
    assert process.ended() == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("gradclip-*"))
