"""A run shown once, over and over on a screen of its own, or line by line where there is no screen."""

import sys
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
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
    with _opened(run, column, name) as (session, wait):
        while wait is not None and not wait(1.0):
            pass
        session.finish()
    if console.is_terminal:
        console.print(panel(session, console))
    else:
        for text in plain(session, console).splitlines():
            say(console, text, wrap=False)


def follow(run: Path, column: str | None, name: str | None, interval: float) -> None:
    """Show a run until q is pressed or the input ends."""
    console = Console()
    with _opened(run, column, name) as (session, its_end), keys() if its_end is None else nullcontext(its_end) as wait:
        views = session.views(interval, wait)
        if not sys.stdout.isatty() or console.is_dumb_terminal:
            for _ in views:
                say(console, line(session), wrap=False)
            return
        hint = "q quits" if its_end is None else ""
        try:
            with Live(panel(session, console, hint), console=console, screen=True, auto_refresh=False) as screen:
                for _ in views:
                    screen.update(panel(session, console, hint), refresh=True)
        finally:  # the last view stays behind
            if session.file.run is not None:
                with suppress(OSError):  # the terminal may have been closed
                    console.print(panel(session, console))


@contextmanager
def _opened(run: Path, column: str | None, name: str | None) -> Generator[tuple[Session, Wait | None]]:
    """Return what is watched, and of standard input what waits for its end."""
    if run == STANDARD_INPUT:
        with spooled() as (path, wait):
            yield Session(path, column, SOURCE, name), wait
    else:
        yield Session(run, column, run=name), None
