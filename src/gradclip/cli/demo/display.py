"""All that the demo prints."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from gradclip.cli.demo.outcome import LAST, Outcome
from gradclip.cli.demo.training import StepRecord

PLAIN_LINES = 4
"""Progress lines a run where there is no terminal to draw a bar on."""

FIXED_COLUMNS = 54
"""Width of a progress line without its bar."""

SAMPLE_LENGTH = 100

Watch = Callable[[str, StepRecord], None]
"""Called after each step with the name of its run."""


def say(console: Console, line: str) -> None:
    """Print a line as it is: no markup, and whole where it is piped."""
    readable = line.encode(console.encoding, "replace").decode(console.encoding)
    console.print(Text(readable), soft_wrap=not console.is_terminal)


@contextmanager
def progress(console: Console, steps: int) -> Iterator[Watch]:
    """Show loss and norm while the runs go on: bars on a terminal, elsewhere a few plain lines."""
    if not console.is_interactive:
        yield lambda run, record: _plain(console, run, record, steps)
        return
    bars = Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=max(4, min(40, console.width - FIXED_COLUMNS))),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[bits]:6.2f} bits"),
        TextColumn("norm {task.fields[norm]:<8.3g}"),
        console=console,
    )
    tasks: dict[str, TaskID] = {}

    def watch(run: str, record: StepRecord) -> None:
        if run not in tasks:
            tasks[run] = bars.add_task(run, total=steps, bits=record.bits, norm=record.norm)
        bars.update(tasks[run], completed=record.step, bits=record.bits, norm=record.norm)

    with bars:
        yield watch


def _plain(console: Console, run: str, record: StepRecord, steps: int) -> None:
    if record.step % math.ceil(steps / PLAIN_LINES) == 0 or record.step == steps or not record.finite:
        measured = f"{record.bits:.2f} bits per character, gradient norm {record.norm:.3g}"
        say(console, f"{run}: step {record.step}/{steps}, {measured}")


def results(console: Console, outcomes: Sequence[Outcome], guessing_bits: float) -> None:
    """Print the table that compares the runs, and say which of them broke down."""
    table = Table(
        "",
        box=box.SIMPLE_HEAD,
        caption=f"Loss in bits per character: lower is better.\nTraining is the mean of the last {LAST} steps.",
        caption_justify="left",
    )
    for outcome in outcomes:
        table.add_column(outcome.name, justify="right")
    table.add_row("training loss", *(_bits(outcome.training_bits, guessing_bits) for outcome in outcomes))
    table.add_row("validation loss", *(_bits(outcome.validation_bits, guessing_bits) for outcome in outcomes))
    table.add_row("loss of guessing", *(f"{guessing_bits:.2f}" for _ in outcomes))
    table.add_row("largest gradient norm", *(_norm(outcome.largest_norm) for outcome in outcomes))
    table.add_row("steps clipped", *(f"{100 * outcome.clipped_share:.1f} %" for outcome in outcomes))
    table.add_row("steps taken", *(str(len(outcome.records)) for outcome in outcomes))
    console.print(table)
    for outcome in outcomes:
        if not (last := outcome.records[-1]).finite:
            say(console, f"The run {outcome.name} ended at step {last.step}: its loss or norm was not finite.")


def samples(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print a line of what each model writes."""
    say(console, "What each model writes:")
    for outcome in outcomes:
        line = f"  {outcome.name + ':':<18}{one_line(outcome.sample) or '(nothing: its output is not a number)'}"
        # On a terminal the line ends where the window does, so that it stays one.
        say(console, line[: console.width] if console.is_terminal else line)


def closing(console: Console, out: Path, files: str) -> None:
    """Print the last line, which names the folder."""
    say(console, f"Written to the folder {out}: {files}.")


def one_line(text: str) -> str:
    """Return the beginning of a text on one line: white space as single blanks, what cannot be shown as dots."""
    line = " ".join(text.split()) or text.replace("\n", "\N{RETURN SYMBOL}").replace(" ", "\N{OPEN BOX}")
    return "".join(character if character.isprintable() else "\N{MIDDLE DOT}" for character in line[:SAMPLE_LENGTH])


def _bits(bits: float, guessing_bits: float) -> Text:
    shown = f"{bits:.2f}" if math.isfinite(bits) else "not finite"
    return Text(shown, style="green" if bits < guessing_bits else "red")


def _norm(norm: float) -> str:
    if not math.isfinite(norm):
        return "not finite"
    return f"{norm:.2f}" if norm < 100 else f"{norm:,.0f}" if norm < 1e9 else f"{norm:.2e}"  # noqa: PLR2004
