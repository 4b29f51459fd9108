"""What `gradclip replay` prints."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradclip.analysis import Replay
from gradclip.analysis.amounts import digits, percent, several
from gradclip.analysis.series import Series
from gradclip.cli.replay.rows import Played, Row, largest, row_of
from gradclip.cli.say import say
from gradclip.cli.sparkline import sparkline

PIPED_WIDTH = 200
"""Columns where there is no terminal: nothing is broken over lines."""

HEADINGS = (
    "\nclipped",
    "\nskipped",
    "largest\nthrough",
    "longest\nheld",
    "median\nbound",
    "lowest\nbound",
    "highest\nbound",
)

FEW, COLUMN = 5, 9
"""Of these headings, so many on a narrow terminal; and the width of each of their columns."""

NAME, CURVES = 12, (8, 40)
"""How wide names are at least, and how wide curves may be."""


def show(series: Series, played: Sequence[Played]) -> None:
    """Print a table, one policy a row, and what is to be said about some of them."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    biggest = largest(series)
    ending = "No norm is finite." if biggest is None else f"The largest norm is {digits(biggest)}."
    say(console, f"{several(len(series), 'step')} of {series.source}. {ending}")

    headings = HEADINGS if console.width >= NAME + COLUMN * len(HEADINGS) else HEADINGS[:FEW]
    longest = max(len(each.named.name) for each in played)
    width = min(console.width - longest - COLUMN * len(headings) - 5, CURVES[1])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", overflow="fold", min_width=min(NAME, longest))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, min_width=COLUMN - 2)
    if width >= CURVES[0]:
        table.add_column("bound over\nthe steps", no_wrap=True, min_width=width)
    notes = list(series.remarks)
    for each in played:
        row = row_of(each, series)
        if each.replayed is None:
            table.add_row(Text(row.name), "-")
            notes.append(f"{row.name} cannot be replayed: {row.problem}")
            continue
        curve = [Text(_curve(each.replayed, width, console.encoding))] if width >= CURVES[0] else []
        table.add_row(Text(row.name), *_cells(row)[: len(headings)], *curve)
        if row.note:
            notes.append(f"{row.name}: {row.note}.")
    console.print(table)
    for note in notes:
        say(console, f"- {note}")


def _cells(row: Row) -> list[str]:
    """Return what stands below the headings."""
    return [
        *("-" if x is None else percent(x) for x in (row.share_clipped, row.share_skipped)),
        "-" if row.largest_after is None else digits(row.largest_after),
        "-" if row.longest_held is None else f"{row.longest_held:,}",
        *("-" if x is None else digits(x) for x in (row.threshold_median, row.threshold_min, row.threshold_max)),
    ]


def _curve(replayed: Replay, width: int, encoding: str) -> str:
    return sparkline(replayed.thresholds, width, encoding) if replayed.thresholds.ndim == 1 else "one a parameter"
