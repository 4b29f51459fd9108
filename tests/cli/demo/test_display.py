"""What the demo prints, whatever the terminal."""

import math
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.console import Console
from rich.text import Text

from cli.demo.reading import CLIPPED, UNCLIPPED, step, trained
from gradclip.cli.demo import display
from gradclip.cli.demo.training import Run

STRANGE = "a [red]\x1b[31m \u202eb\n字" + "字" * 200


@pytest.fixture(scope="module")
def runs() -> tuple[Run, Run]:
    exploded = trained(UNCLIPPED, [step(1, 6.5, 2_923_642.0)], 70.4, "nd  \n ")
    return exploded, trained(CLIPPED, [step(1, 2.3, 0.5, "clipped")], 2.1, STRANGE)


def shown(console: Console, stream: StringIO, runs: tuple[Run, Run]) -> str:
    display.results(console, runs)
    display.samples(console, runs)
    return stream.getvalue()


def test_fits_a_narrow_terminal(runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, width=60)
    run = trained(UNCLIPPED, [step(1, 71.234, 2_923_642.0)], 70.4)
    monkeypatch.setattr(Run, "train", lambda run, **_: run.clips * 123)
    display.train(console, [run], steps=400, lr=2.0)
    bar = Text.from_ansi(next(line for line in stream.getvalue().splitlines() if "123/400" in line))
    assert bar.plain.rstrip().endswith("123/400  71.23 bits norm 2.924e+06")
    assert "━" in bar.plain
    assert bar.cell_len <= 60
    stream.truncate(0)
    lines = [Text.from_ansi(line) for line in shown(console, stream, runs).splitlines()]
    assert 55 < max(line.cell_len for line in lines) <= 60
    assert any(line.plain.startswith(f" {UNCLIPPED}  ") for line in lines)


def test_no_color_prints_none(runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    colored, plain = StringIO(), StringIO()
    shown(Console(file=colored, force_terminal=True, color_system="standard", width=80), colored, runs)
    monkeypatch.setenv("NO_COLOR", "1")
    shown(Console(file=plain, force_terminal=True, color_system="standard", width=80), plain, runs)
    assert "\x1b[31m" in colored.getvalue()
    assert "\x1b[3" not in plain.getvalue().replace("\x1b[3m", "")


def test_a_sample_is_one_readable_line(runs: tuple[Run, Run]) -> None:
    stream = StringIO()
    lines = shown(Console(file=stream, width=80), stream, runs).splitlines()
    assert lines[-2] == "  without clipping: nd␣␣⏎␣"
    assert lines[-1] == "  with clipping:    a [red]·[31m ·b " + "字" * 84


def test_an_encoding_that_lacks_a_character_gets_another(runs: tuple[Run, Run]) -> None:
    buffer = BytesIO()
    stream = TextIOWrapper(buffer, encoding="ascii")
    console = Console(file=stream, width=80)
    display.results(console, runs)
    display.samples(console, runs)
    stream.flush()
    assert b"a [red]?[31m ?b ???" in buffer.getvalue()


def test_the_table_has_a_row_a_run_and_one_for_guessing() -> None:
    stream = StringIO()
    taken = [step(1, 2.5, 0.5, "clipped"), step(2, 2.3, 3e6, "clipped")]
    skipped = [step(3 + i, math.nan, math.nan, "skipped_nonfinite") for i in range(2)]
    stopped = trained("agc", taken + skipped, math.nan, ended="two were skipped")
    display.results(Console(file=stream, width=80), [trained("zclip", taken, 2.25), stopped])
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert "guessing 6.644 6.644" in lines
    assert "zclip 2.4 2.25 3e+06 100 % 0 of 2" in lines
    assert "agc not finite not finite not finite 50 % 2 of 4" in lines
    assert lines[-1] == "The run agc ended at step 4: two were skipped."
