"""The options of `gradclip watch`, and the loop."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradclip.cli import UserError
from gradclip.cli.recorded import SOURCE, STANDARD_INPUT, Column, RunName

if TYPE_CHECKING:
    from rich.console import Console

    from gradclip.cli.watch.keys import Wait
    from gradclip.cli.watch.session import Session

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
    from rich.console import Console  # noqa: PLC0415 -- not needed for --help

    from gradclip.analysis.reading import ReadError  # noqa: PLC0415

    if not LEAST <= interval <= MOST:
        raise UserError(f"--interval must be {LEAST:g} to {MOST:g} seconds, got {interval:g}.")
    console = Console()
    is_screen = sys.stdout.isatty() and not console.is_dumb_terminal
    try:
        with _opened(run, column, name) as (session, wait):
            if once:
                while run == STANDARD_INPUT and not wait(MOST):
                    pass
                session.finish()
                _show(console, session)
            elif is_screen:
                _live(console, session, interval, wait, hint="" if run == STANDARD_INPUT else "q quits")
            else:
                _lines(console, session, interval, wait)
    except ReadError as error:
        raise UserError(str(error)) from None


@contextmanager
def _opened(run: Path, column: str | None, name: str | None) -> "Iterator[tuple[Session, Wait]]":
    """Return what is watched, and what waits for its next lines."""
    from gradclip.cli.watch.keys import keys  # noqa: PLC0415 -- not needed for --help
    from gradclip.cli.watch.session import Session  # noqa: PLC0415
    from gradclip.cli.watch.spool import spooled  # noqa: PLC0415

    if run == STANDARD_INPUT:
        with spooled() as (path, wait):
            yield Session(path, column, SOURCE, name), wait
    else:
        with keys() as wait:
            yield Session(run, column, run=name), wait


def _live(console: "Console", session: "Session", interval: float, wait: "Wait", hint: str) -> None:
    """Draw the view over and over, on a screen of its own, and leave the last one behind."""
    from rich.live import Live  # noqa: PLC0415

    from gradclip.cli.watch.view import panel  # noqa: PLC0415

    try:
        with Live(panel(session, console, hint), console=console, screen=True, auto_refresh=False) as screen:
            for _ in _views(session, interval, wait):
                screen.update(panel(session, console, hint), refresh=True)
    finally:
        if session.file.run is not None:
            with suppress(OSError):  # the terminal may have been closed
                console.print(panel(session, console))


def _lines(console: "Console", session: "Session", interval: float, wait: "Wait") -> None:
    """Print a line now and then."""
    from gradclip.cli.say import say  # noqa: PLC0415
    from gradclip.cli.watch.view import line  # noqa: PLC0415

    for _ in _views(session, interval, wait):
        say(console, line(session), wrap=False)


def _views(session: "Session", interval: float, wait: "Wait") -> Iterator[None]:
    """Take what is new, again and again; where that takes long, as a whole file does, it is not done all the time."""
    is_over = False
    while not is_over:
        start = time.monotonic()
        session.look()
        yield
        is_over = wait(max(interval, 2.0 * (time.monotonic() - start)))
    session.look()
    yield


def _show(console: "Console", session: "Session") -> None:
    from gradclip.cli.say import say  # noqa: PLC0415
    from gradclip.cli.watch.view import panel, plain  # noqa: PLC0415

    if console.is_terminal:
        console.print(panel(session, console))
        return
    for text in plain(session, console).splitlines():
        say(console, text, wrap=False)
