"""The options of `gradclip watch`."""

from pathlib import Path
from typing import Annotated

import typer

from gradclip.cli import UserError
from gradclip.cli.recorded import Column, RunName

LEAST, MOST = 0.05, 3600.0
"""Seconds between two views."""


def watch(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="JSON Lines, CSV or printed text that a run writes, or will write; - for standard input.",
        ),
    ],
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="Time between two views.")] = 1.0,
    column: Column = None,
    name: RunName = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Show how it is now, and end.")] = False,
) -> None:
    """Show a run in progress: norm, threshold, clip rate, alarms. q quits."""
    from gradclip.analysis.reading import ReadError  # noqa: PLC0415 -- not needed for --help
    from gradclip.cli.watch.showing import follow, show_once  # noqa: PLC0415

    if not LEAST <= interval <= MOST:
        raise UserError(f"--interval must be {LEAST:g} to {MOST:g} seconds, got {interval:g}.")
    try:
        if once:
            show_once(run, column, name)
        else:
            follow(run, column, name, interval)
    except ReadError as error:
        raise UserError(str(error)) from None
