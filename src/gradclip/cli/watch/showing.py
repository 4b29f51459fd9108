"""A run shown once, over and over on a screen of its own, or line by line where there is no screen."""

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from gradclip.cli.recorded import SOURCE, STANDARD_INPUT
from gradclip.cli.say import say
from gradclip.cli.watch.session import Session
from gradclip.cli.watch.view import line, panel, plain
from gradclip.cli.watch.waiting import Wait, keys, spooled


def show_once(run: Path, column: str | None, name: str | None) -> None:
    """Show how a run is now, or at the end of standard input; of several, the one of a name."""
    console = Console()
    if run == STANDARD_INPUT:
        with spooled() as (path, wait):
            while not wait(1.0):
                pass
            session = Session(path, column, SOURCE, name)
            session.finish()
    else:
        session = Session(run, column, run=name)
        session.finish()
    if console.is_terminal:
        console.print(panel(session, console))
    else:
        for text in plain(session, console).splitlines():
            say(console, text, wrap=False)


def follow(run: Path, column: str | None, name: str | None, interval: float) -> None:
    """Show a run until q is pressed or the input ends."""
    console = Console()
    with _opened(run, column, name) as (session, wait):
        views = _views(session, interval, wait)
        if sys.stdout.isatty() and not console.is_dumb_terminal:
            _live(console, session, views, hint="" if run == STANDARD_INPUT else "q quits")
        else:
            for _ in views:
                say(console, line(session), wrap=False)


@contextmanager
def _opened(run: Path, column: str | None, name: str | None) -> Generator[tuple[Session, Wait]]:
    """Return what is watched, and what waits for its next lines."""
    if run == STANDARD_INPUT:
        with spooled() as (path, wait):
            yield Session(path, column, SOURCE, name), wait
    else:
        with keys() as wait:
            yield Session(run, column, run=name), wait


def _live(console: Console, session: Session, views: Iterator[None], hint: str) -> None:
    """Draw the view over and over, on a screen of its own, and leave the last one behind."""
    try:
        with Live(panel(session, console, hint), console=console, screen=True, auto_refresh=False) as screen:
            for _ in views:
                screen.update(panel(session, console, hint), refresh=True)
    finally:
        if session.file.run is not None:
            with suppress(OSError):  # the terminal may have been closed
                console.print(panel(session, console))


def _views(session: Session, interval: float, wait: Wait) -> Iterator[None]:
    """Take what is new, again and again; where that takes long, as a whole file does, it is not done all the time."""
    is_over = False
    while not is_over:
        start = time.monotonic()
        session.look()
        yield
        is_over = wait(max(interval, 2.0 * (time.monotonic() - start)))
    session.look()
    yield
