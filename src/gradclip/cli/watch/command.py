"""The options of `gradclip watch`, and the loop."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradclip.cli import UserError
from gradclip.cli.recorded import Column

if TYPE_CHECKING:
    from rich.console import Console

    from gradclip.cli.watch.keys import Wait
    from gradclip.cli.watch.session import Session

LEAST, MOST = 0.05, 3600.0
"""Seconds between two views."""


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="JSON Lines that a run writes, or will write.")],
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="Time between two views.")] = 1.0,
    column: Column = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Show how it is now, and end.")] = False,
) -> None:
    """Show a run in progress: norm, threshold, clip rate, alarms. q quits."""
    from rich.console import Console  # noqa: PLC0415 -- not needed for --help

    from gradclip.analysis.reading import ReadError  # noqa: PLC0415
    from gradclip.cli.watch.session import Session  # noqa: PLC0415

    if not LEAST <= interval <= MOST:
        raise UserError(f"--interval must be {LEAST:g} to {MOST:g} seconds, got {interval:g}.")
    console, session = Console(), Session(run, column)
    try:
        if once:
            session.finish()
            _show(console, session)
        elif sys.stdout.isatty() and not console.is_dumb_terminal:
            _live(console, session, interval)
        else:
            _lines(console, session, interval)
    except ReadError as error:
        raise UserError(str(error)) from None


def _live(console: "Console", session: "Session", interval: float) -> None:
    """Draw the view over and over, on a screen of its own, and leave the last one behind."""
    from rich.live import Live  # noqa: PLC0415

    from gradclip.cli.watch.keys import keys  # noqa: PLC0415
    from gradclip.cli.watch.view import panel  # noqa: PLC0415

    try:
        with keys() as wait, Live(console=console, screen=True, auto_refresh=False) as screen:
            ended = False
            while not ended:
                ended = _catch_up(session, interval, wait)
                screen.update(panel(session, console), refresh=True)
                ended = ended or wait(0.0 if session.found.behind > 0 else interval)
    finally:
        if session.state.last is not None:
            with suppress(OSError):  # the terminal may have been closed
                console.print(panel(session, console))


def _lines(console: "Console", session: "Session", interval: float) -> None:
    """Print a line now and then."""
    from gradclip.cli.say import say  # noqa: PLC0415
    from gradclip.cli.watch.keys import keys  # noqa: PLC0415
    from gradclip.cli.watch.view import line  # noqa: PLC0415

    with keys() as wait:
        ended = False
        while not ended:
            ended = _catch_up(session, interval, wait)
            say(console, line(session), wrap=False)
            ended = ended or wait(0.0 if session.found.behind > 0 else interval)


def _catch_up(session: "Session", interval: float, wait: "Wait") -> bool:
    """Read what there is, for no longer than it takes to the next view; say whether to end."""
    until = time.monotonic() + interval
    while session.look() and time.monotonic() < until:
        if wait(0.0):
            return True
    return False


def _show(console: "Console", session: "Session") -> None:
    from gradclip.cli.say import say  # noqa: PLC0415
    from gradclip.cli.watch.view import panel, plain  # noqa: PLC0415

    if console.is_terminal:
        console.print(panel(session, console))
        return
    for text in plain(session, console).splitlines():
        say(console, text, wrap=False)
