"""What the demo prints, whatever the terminal."""

import math
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.console import Console
from rich.text import Text

from cli.demo.reading import CLIPPED, UNCLIPPED
from gradclip.cli.demo import display
from gradclip.cli.demo.runs import Outcome
from gradclip.cli.demo.training import StepRecord

OUTCOMES = (
    Outcome(UNCLIPPED, [StepRecord(1, 6.5, 2_923_642.0, clipped=False)], 70.4, "nd  \n "),
    Outcome(CLIPPED, [StepRecord(1, 2.3, 0.5, clipped=True)], 2.1, "a [red]\x1b[31m \u202eb\n字" + "字" * 200),
)


def shown(console: Console, stream: StringIO) -> str:
    display.results(console, OUTCOMES, guessing_bits=6.69)
    display.samples(console, OUTCOMES)
    return stream.getvalue()


def test_fits_a_narrow_terminal() -> None:
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, width=60)
    with display.progress(console, steps=400) as watch:
        watch(UNCLIPPED, StepRecord(123, 71.23, 2_923_642.0, clipped=False))
    bar = Text.from_ansi(next(line for line in stream.getvalue().splitlines() if "123/400" in line))
    assert bar.plain.endswith("123/400  71.23 bits norm 2,923,642")
    assert bar.cell_len <= 60
    stream.truncate(0)
    lines = [Text.from_ansi(line) for line in shown(console, stream).splitlines()]
    assert 55 < max(line.cell_len for line in lines) <= 60


def test_no_color_prints_none(monkeypatch: pytest.MonkeyPatch) -> None:
    colored, plain = StringIO(), StringIO()
    shown(Console(file=colored, force_terminal=True, color_system="standard", width=80), colored)
    monkeypatch.setenv("NO_COLOR", "1")
    shown(Console(file=plain, force_terminal=True, color_system="standard", width=80), plain)
    assert "\x1b[31m" in colored.getvalue()
    assert "\x1b[3" not in plain.getvalue().replace("\x1b[3m", "")


def test_a_sample_is_one_readable_line() -> None:
    stream = StringIO()
    lines = shown(Console(file=stream, width=80), stream).splitlines()
    assert lines[-2] == "  without clipping: nd␣␣⏎␣"
    assert lines[-1] == "  with clipping:    a [red]·[31m ·b " + "字" * 84


def test_an_encoding_that_lacks_a_character_gets_another() -> None:
    buffer = BytesIO()
    stream = TextIOWrapper(buffer, encoding="ascii")
    console = Console(file=stream, width=80)
    display.results(console, OUTCOMES, guessing_bits=6.69)
    display.samples(console, OUTCOMES)
    stream.flush()
    assert b"a [red]?[31m ?b ???" in buffer.getvalue()


def test_the_table_of_many_runs_says_which_was_stopped() -> None:
    stream = StringIO()
    taken = [StepRecord(1, 2.5, 0.5, clipped=True), StepRecord(2, 2.3, 3e6, clipped=True)]
    skipped = [StepRecord(3 + i, math.nan, math.nan, clipped=False, skipped=True) for i in range(2)]
    outcomes = [Outcome("zclip", taken, 2.25), Outcome("agc", taken + skipped, math.nan, ended="two were skipped")]
    console = Console(file=stream, width=80)
    display.results(console, outcomes, guessing_bits=6.69, many=True)
    display.endings(console, outcomes)
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert "zclip 2.40 2.25 3,000,000 100.0 % 0" in lines
    assert "agc not finite not finite not finite 50.0 % 2, stopped" in lines
    assert "Guessing has a loss of 6.69." in lines
    assert lines[-1] == "The run agc ended at step 4: two were skipped."
