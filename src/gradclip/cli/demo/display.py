"""All that the demo prints."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TypeAlias

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from gradclip.cli.demo.runs import LAST, TEMPERATURE, Outcome
from gradclip.cli.demo.training import StepRecord
from gradclip.cli.say import say

PLAIN_LINES = 4
"""Progress lines a run where there is no terminal to draw a bar on."""

FIXED_COLUMNS = 54
"""Width of a progress line without its bar."""

SAMPLE_LENGTH = 100

Watch: TypeAlias = Callable[[str, StepRecord], None]
"""Called after each step with the name of its run."""


@contextmanager
def progress(console: Console, steps: int, lines: int = PLAIN_LINES) -> Generator[Watch]:
    """Show loss and norm while the runs go on: bars on a terminal, elsewhere so many plain lines a run."""
    bars = Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(max(4, min(40, console.width - FIXED_COLUMNS)), complete_style="cyan", finished_style="cyan"),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[bits]:>6} bits"),
        TextColumn("norm {task.fields[norm]:<9}"),
        console=console,
        disable=not console.is_interactive,
    )
    tasks: dict[str, TaskID] = {}

    def watch(run: str, record: StepRecord) -> None:
        bits, norm = _amount(record.bits), _amount(record.norm)
        if bars.disable:
            is_odd = not (record.finite or record.skipped)
            if record.step % math.ceil(steps / lines) == 0 or record.step == steps or is_odd:
                say(console, f"{run}: step {record.step}/{steps}, bits per character {bits}, gradient norm {norm}")
            return
        if run not in tasks:
            tasks[run] = bars.add_task(run, total=steps, bits=bits, norm=norm)
        bars.update(tasks[run], completed=record.step, bits=bits, norm=norm)

    with bars:
        yield watch


def results(console: Console, outcomes: Sequence[Outcome], guessing_bits: float, *, many: bool = False) -> None:
    """Print the table that compares runs: of two a column each, of many a row each, with fewer numbers."""
    measured = [_measured(outcome, guessing_bits, many=many) for outcome in outcomes]
    names = list(measured[0])
    if not many and not any(outcome.skipped for outcome in outcomes):
        names.remove("steps skipped")
    heads = [name.replace(" gradient", "").replace(" ", "\n") if many else name for name in names]
    grid: list[tuple[str | Text, ...]] = [("", *heads)]
    grid += [(outcome.name, *map(cells.__getitem__, names)) for outcome, cells in zip(outcomes, measured, strict=True)]
    last = min(LAST, max(len(outcome.records) for outcome in outcomes))
    caption = f"Loss in bits per character: lower is better.\nTraining is the mean of the last {last} steps."
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    first, *rows = grid if many else zip(*grid, strict=True)
    for place, head in enumerate(first):
        table.add_column(head, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if many:
        say(console, f"Guessing has a loss of {guessing_bits:.2f}.")


def _measured(outcome: Outcome, guessing_bits: float, *, many: bool) -> dict[str, Text]:
    def judged(bits: float) -> Text:
        return Text(_amount(bits), style="green" if bits < guessing_bits else "red")

    stopped = ", stopped" if many and outcome.ended else ""
    found = {
        "training loss": judged(outcome.training_bits),
        "validation loss": judged(outcome.validation_bits),
        "loss of guessing": Text(f"{guessing_bits:.2f}"),
        "largest gradient norm": Text(_amount(outcome.largest_norm)),
        "steps clipped": Text(f"{100 * outcome.clipped_share:.1f} %"),
        "steps skipped": Text(f"{outcome.skipped}{stopped}"),
        "steps taken": Text(str(len(outcome.records) - outcome.skipped)),
    }
    return {name: cell for name, cell in found.items() if not (many and name in {"loss of guessing", "steps taken"})}


def endings(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Say which runs ended early, and why."""
    for outcome in outcomes:
        if outcome.ended:
            say(console, f"The run {outcome.name} ended at step {len(outcome.records)}: {outcome.ended}.")


def samples(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print a line of what each model writes."""
    say(console, f"What each model writes, sampled at temperature {TEMPERATURE}:")
    for outcome in outcomes:
        line = Text(f"  {outcome.name + ':':<18}{one_line(outcome.sample) or '(nothing: its output is not a number)'}")
        if console.is_terminal:  # the line ends where the window does, so that it stays one
            line.truncate(console.width)
        say(console, line.plain)


def closing(console: Console, out: Path, files: Sequence[str], records: Sequence[Path]) -> None:
    """Print the last lines, which name the folder, and what may be done with what is in it."""
    kept = "the record of the run" if len(records) == 1 else f"the records of {len(records)} runs"
    say(console, f"Written to the folder {out}: {', '.join(files)} and {kept}.", wrap=False)
    # The run with clipping says more: one that exploded tells no threshold.
    say(console, f"To hear which threshold fits: gradclip advise {quote(str(records[:2][-1]))}", wrap=False)


def one_line(text: str) -> str:
    """Return the beginning of a text on one line: white space as single blanks, or visible where it is nearly all."""
    line = " ".join(text.split())
    if len(line) < SAMPLE_LENGTH:
        line = text.replace("\n", "\N{RETURN SYMBOL}").replace(" ", "\N{OPEN BOX}")
    return line[:SAMPLE_LENGTH]


def _amount(value: float) -> str:
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}" if value < 1e9 else f"{value:.2e}"  # noqa: PLR2004
