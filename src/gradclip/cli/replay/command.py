"""The options of `gradclip replay`."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradclip.cli import target
from gradclip.cli.recorded import AsJson, Column, RunFile, RunName, read

if TYPE_CHECKING:
    from gradclip.cli.replay.rows import Played

DEFAULTS = ("fixed", "autoclip:90", "median", "zclip")
"""What is replayed if nothing else is asked for."""

LONG = 100_000
"""Steps of a run that takes so long that a progress bar is worth its line."""


def _explained(policy: list[str] | None) -> list[str] | None:
    """Explain policies in place of a replay, where that is asked for: no run is needed for it."""
    from gradclip.cli.specs import HELP, explanation  # noqa: PLC0415 -- not needed for --help

    if policy and HELP in policy:
        typer.echo("\n".join(explanation()))
        raise typer.Exit
    return policy


def replay(
    run: RunFile,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="POLICY",
            help="Such as zclip, fixed:1.0, autoclip:90 or zclip:max_norm=1.0,z=3; more than once. 'help' explains.",
            show_default=", ".join(DEFAULTS),
            is_eager=True,
            callback=_explained,
        ),
    ] = None,
    column: Column = None,
    name: RunName = None,
    *,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write every step to it.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
) -> None:
    """Show what policies would have done to a recorded run."""
    from gradclip.cli.replay import display, rows, table  # noqa: PLC0415 -- not needed for --help
    from gradclip.cli.specs import parse  # noqa: PLC0415

    chosen = [parse(spec) for spec in dict.fromkeys(policy or DEFAULTS)]

    if out is not None:
        target.check("--csv", out, sources=[run], source="the recording itself", force=force)
    series = read(run, column, name)
    played: list[Played] = []
    with _progress(len(series), [named.name for named in chosen]) as watch:
        for i, named in enumerate(chosen):
            played.append(rows.play(named, series, lambda steps, i=i: watch(i, steps)))
    if out is not None:
        target.write("--csv", out, table.table(series, played), force=force)
    if as_json:
        found = {"source": series.source, "steps": len(series), "largest": rows.largest(series)}
        policies = [asdict(rows.row_of(each, series)) for each in played]
        typer.echo(json.dumps({**found, "policies": policies, "remarks": series.remarks}, allow_nan=False))
    else:
        display.show(series, played)


@contextmanager
def _progress(steps: int, names: Sequence[str]) -> Iterator[Callable[[int, int], object]]:
    """Show how far each policy is, if that is worth it and there is a terminal."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    hidden = steps < LONG or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bars:
        tasks = [bars.add_task(name, total=steps) for name in names]
        yield lambda i, done: bars.advance(tasks[i], done)
