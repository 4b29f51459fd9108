"""All that the demo prints of its runs."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from statistics import fmean

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from gradclip.analysis.amounts import percent
from gradclip.cli.demo.runs import LAST, Run, Step
from gradclip.cli.demo.training import TEMPERATURE
from gradclip.cli.say import say
from gradclip.cli.words import amount

PLAIN_LINES = 4
"""Progress lines a run where there is no terminal to draw a bar on."""

SAMPLE_LENGTH = 100


@contextmanager
def progress(console: Console, steps: int) -> Generator[Callable[[str, Step], None]]:
    """Show loss and norm while the runs go on: bars on a terminal, elsewhere a few lines a run.

    What is yielded is called after each step, with the name of its run.
    """
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[bits]:>6} bits norm {task.fields[norm]:<9}"),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, expand=True, disable=not console.is_interactive) as bars:

        def watch(run: str, step: Step) -> None:
            done, bits, norm = step.clip.step, amount(step.bits), amount(step.norm)
            if run not in tasks:
                tasks[run] = bars.add_task(run, total=steps, bits=bits, norm=norm)
            bars.update(tasks[run], completed=done, bits=bits, norm=norm)
            if bars.disable and (done == steps or done % math.ceil(steps / PLAIN_LINES) == 0):
                say(console, f"{run}: step {done}/{steps}, bits per character {bits}, gradient norm {norm}")

        yield watch


def results(console: Console, runs: Sequence[Run]) -> None:
    """Print the table that compares runs with each other and with guessing, and which of them ended early."""
    guessing = runs[0].corpus.guessing_bits
    caption = f"Loss in bits per character: lower is better.\nTraining is the mean of the last {LAST} steps, or of all."
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=caption, caption_justify="left")
    table.add_column("", no_wrap=True)
    for head in ("training\nloss", "validation\nloss", "largest\nnorm", "steps\nclipped", "steps\nskipped"):
        table.add_column(head, justify="right")
    table.add_row("guessing", amount(guessing), amount(guessing))
    for run in runs:
        losses = (run.training_bits, run.validation_bits)
        table.add_row(
            run.name,
            *(Text(amount(bits), style="green" if bits < guessing else "red") for bits in losses),
            amount(run.largest_norm),
            percent(fmean(step.clip.clipped for step in run.steps)),
            f"{sum(step.clip.skipped for step in run.steps)} of {len(run.steps)}",
        )
    console.print(table)
    for run in runs:
        if run.ended:
            say(console, f"The run {run.name} ended at step {len(run.steps)}: {run.ended}.")


def samples(console: Console, runs: Sequence[Run]) -> None:
    """Print a line of what each model writes."""
    say(console, f"What each model writes, sampled at temperature {TEMPERATURE}:")
    for run in runs:
        line = Text(f"  {run.name + ':':<18}{one_line(run.sample) or '(nothing: its output is not a number)'}")
        if console.is_terminal:  # the line ends where the window does, so that it stays one
            line.truncate(console.width)
        say(console, line.plain)


def one_line(text: str) -> str:
    """Return the beginning of a text on one line: white space as single blanks, or visible where it is nearly all."""
    line = " ".join(text.split())
    if len(line) < SAMPLE_LENGTH:
        line = text.replace("\n", "\N{RETURN SYMBOL}").replace(" ", "\N{OPEN BOX}")
    return line[:SAMPLE_LENGTH]
