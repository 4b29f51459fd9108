"""The command: a run shown once, over and over on a screen of its own, or line by line where there is no screen."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from gradclip.cli import UserError
from gradclip.cli.recorded import SOURCE, STANDARD_INPUT, Column, RunName

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
    once: Annotated[bool, typer.Option("--once", help="Show the current state once, and exit.")] = False,
) -> None:
    """Show a run in progress: norm, threshold, clip rate, alarms. q quits."""
    if not LEAST <= interval <= MOST:
        raise UserError(f"--interval must be {LEAST:g} to {MOST:g} seconds, got {interval:g}.")
    from rich.console import Console  # noqa: PLC0415 -- not needed for --help
    from rich.live import Live  # noqa: PLC0415

    from gradclip.analysis.reading import ReadError  # noqa: PLC0415
    from gradclip.cli.say import say  # noqa: PLC0415
    from gradclip.cli.watch.session import Session  # noqa: PLC0415
    from gradclip.cli.watch.view import line, panel, plain  # noqa: PLC0415
    from gradclip.cli.watch.waiting import waiting  # noqa: PLC0415

    console, is_piped = Console(), run == STANDARD_INPUT
    called = SOURCE if is_piped else str(run)
    if once:
        session = Session(run, column, name, called)
        session.finish()
        if console.is_terminal:
            console.print(panel(session, console))
        else:
            for text in plain(session, console.encoding):
                say(console, text, wrap=False)
        return
    try:
        with waiting(run) as (path, wait):
            session = Session(path, column, name, called)
            views = session.views(interval, wait)
            if not sys.stdout.isatty() or console.is_dumb_terminal:
                for _ in views:
                    say(console, line(session), wrap=False)
                return
            hint = "" if is_piped else "q quits"
            try:
                with Live(console=console, screen=True, auto_refresh=False) as screen:
                    for _ in views:
                        screen.update(panel(session, console, hint, lines=console.height), refresh=True)
            finally:  # the last view stays behind
                if session.run is not None:
                    with suppress(OSError):  # the terminal may have been closed
                        console.print(panel(session, console))
    except ReadError as error:
        raise UserError(str(error)) from None
