"""All that the demo shows of its runs."""

import math
from collections.abc import Sequence
from statistics import fmean

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from gradclip.analysis.amounts import percent
from gradclip.cli.demo.training import LAST, TEMPERATURE, Run
from gradclip.cli.say import say
from gradclip.cli.words import amount

PLAIN_LINES = 4
"""Progress lines a run where there is no terminal to draw a bar on."""

SAMPLE_LENGTH = 100


def train(console: Console, runs: Sequence[Run], *, steps: int, lr: float) -> None:
    """Train runs, and show their loss and norm meanwhile: bars on a terminal, elsewhere a few lines a run."""
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[found]}"),
    )
    with Progress(*columns, console=console, expand=True, disable=not console.is_interactive) as bars:
        for run in runs:
            task = bars.add_task(run.name, total=steps, found="")
            for done, _ in enumerate(run.train(steps=steps, lr=lr), start=1):
                bits, norm = amount(run.bits[-1]), amount(run.norms[-1])
                bars.update(task, completed=done, found=f"{bits:>6} bits norm {norm:<9}")
                if bars.disable and (done == steps or done % math.ceil(steps / PLAIN_LINES) == 0):
                    say(console, f"{run.name}: step {done}/{steps}, bits per character {bits}, gradient norm {norm}")


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
            percent(fmean(clip.clipped for clip in run.clips)),
            f"{sum(clip.skipped for clip in run.clips)} of {len(run.clips)}",
        )
    console.print(table)
    for run in runs:
        if run.ended:
            say(console, f"The run {run.name} ended at step {len(run.clips)}: {run.ended}.")


def samples(console: Console, runs: Sequence[Run]) -> None:
    """Print a line of what each model writes: white space as single blanks, or visible where it is nearly all."""
    say(console, f"What each model writes, sampled at temperature {TEMPERATURE}:")
    for run in runs:
        written = " ".join(run.sample.split())
        if len(written) < SAMPLE_LENGTH:
            written = run.sample.replace("\n", "\N{RETURN SYMBOL}").replace(" ", "\N{OPEN BOX}")
        shown = written[:SAMPLE_LENGTH] or "(nothing: its output is not a number)"
        line = Text(f"  {run.name + ':':<18}{shown}")
        if console.is_terminal:  # the line ends where the window does, so that it stays one
            line.truncate(console.width)
        say(console, line.plain)
