"""Ctrl-C ends the training of the demo, and what there is then is shown and saved."""

import signal
import sys
import time
from itertools import count
from pathlib import Path

import pytest
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cli.demo.reading import CLIPPED, UNCLIPPED, last_lines, rows_of, shows
from gradclip.cli import main
from gradclip.cli.demo import training
from gradclip.cli.demo.picture import COLORS
from processes import GRADCLIP, Script


@pytest.mark.parametrize(("at", "expected"), [(7, [6]), (37, [30, 6])])
def test_shows_and_saves_what_there_is(
    at: int,
    expected: list[int],
    text: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    interrupt_at_step(at, monkeypatch)
    assert main(["demo", "--text", str(text), "--steps", "30", "--out", str(out)]) == 130
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert printed.err == ""
    assert "Interrupted. This is what there is:" in lines
    record = "with-clipping.jsonl" if len(expected) == 2 else "without-clipping.jsonl"
    assert lines[-2:] == last_lines(out, record, runs=len(expected))
    taken = [line.split()[-3:] for line in lines if line.startswith((f" {UNCLIPPED} ", f" {CLIPPED} "))]
    assert taken == [["0", "of", str(n)] for n in expected]
    names = [row["run"] for row in rows_of(out)]
    assert [names.count(run) for run in (UNCLIPPED, CLIPPED)][: len(expected)] == expected
    assert len(names) == sum(expected)
    assert [shows(out / "demo.png", color) for color in COLORS] == [True, len(expected) == 2]


def test_between_the_loss_of_a_step_and_its_record(text: Path, out: Path) -> None:
    """What is known of half a step is no row."""
    calls = count(1)

    def interrupt(*_: object) -> None:
        if next(calls) == 7:
            raise KeyboardInterrupt

    hook = register_optimizer_step_pre_hook(interrupt)
    try:
        assert main(["demo", "--text", str(text), "--steps", "30", "--out", str(out)]) == 130
    finally:
        hook.remove()
    assert [row["step"] for row in rows_of(out)] == ["1", "2", "3", "4", "5", "6"]


def test_before_the_first_step(
    text: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt_at_step(1, monkeypatch)
    assert main(["demo", "--text", str(text), "--steps", "30", "--out", str(out)]) == 130
    assert capsys.readouterr().out.splitlines()[-1] == "Interrupted before the first step."
    assert list(out.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_a_piped_process_obeys_the_signal(out: Path) -> None:
    script, end = Script(GRADCLIP, "demo", "--steps", "100", "--out", out), time.monotonic() + 60.0
    while "\nwithout clipping: step 25/100, bits per character " not in script.printed():
        assert time.monotonic() < end, script.printed()
        time.sleep(0.01)
    script.send_signal(signal.SIGINT)
    done = script.wait()
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.startswith("Training on Python's own documentation: ")
    assert not {"\x1b", "\r"} & set(done.stdout)
    trained = len({row["run"] for row in rows_of(out)})
    record = "with-clipping.jsonl" if trained == 2 else "without-clipping.jsonl"
    assert done.stdout.splitlines()[-2:] == last_lines(out, record, runs=trained)
    assert 25 <= len(rows_of(out)) < 200


def interrupt_at_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in the middle of the step of this number, counted over both runs."""
    loss_of, calls = training.cross_entropy, count(1)

    def loss_or_interrupt(logits: Tensor, targets: Tensor) -> Tensor:
        if next(calls) == number:
            raise KeyboardInterrupt
        return loss_of(logits, targets)

    monkeypatch.setattr(training, "cross_entropy", loss_or_interrupt)
