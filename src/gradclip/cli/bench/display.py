"""Show timings as a table, and which case is running until then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from gradclip.cli.bench.cases import Shapes
from gradclip.cli.bench.harness import Timing


@contextmanager
def progress(cases: int) -> Iterator[Callable[[str], None]]:
    """Show which of the cases is running; where there is no terminal, show nothing."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=cases, completed=-1)
        yield lambda description: bars.update(task, advance=1, description=description)


def show(timings: list[Timing], shapes: dict[str, Shapes]) -> None:
    """Print each case, and in it one row a provider."""
    console = Console()
    console.print("Microseconds a call. Ratio: torch's time by this time. Read: 100 % is the speed of a plain read.")
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("median", "p20", "p80", "ratio", "read"):
        table.add_column(name, justify="right")
    for i, timing in enumerate(timings):
        if i == 0 or _case(timings[i - 1]) != _case(timing):
            table.add_row()
            table.add_row(_title(timing, shapes[timing.shapes]))
        table.add_row(
            f"  {timing.provider}",
            f"{timing.median_us:.0f}",
            f"{timing.p20_us:.0f}",
            f"{timing.p80_us:.0f}",
            f"{timing.ratio_to_torch:.2f}",
            "" if timing.percent_of_read is None else f"{timing.percent_of_read:.0f} %",
        )
    console.print(table, markup=False, highlight=False)


def _title(timing: Timing, model: Shapes) -> str:
    size = f"{len(model.shapes)} x {timing.dtype}, {model.elements / 1e6:.2f} M"
    return f"{timing.shapes}, {size}, {'clipping' if timing.clipping else 'unclipped'}"


def _case(timing: Timing) -> tuple[str, str, bool]:
    return timing.shapes, timing.dtype, timing.clipping
