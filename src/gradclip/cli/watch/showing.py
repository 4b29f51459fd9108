"""A run shown once, over and over on a screen of its own, or line by line where there is no screen."""

import sys
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from gradclip.cli.recorded import SOURCE, STANDARD_INPUT
from gradclip.cli.say import say
from gradclip.cli.watch.session import Session
from gradclip.cli.watch.view import line, panel, plain
from gradclip.cli.watch.waiting import waiting


def show_once(run: Path, column: str | None, name: str | None) -> None:
    """Show how a run is now, or at the end of standard input; of several, the one of a name."""
    console, session = Console(), Session(run, column, SOURCE if run == STANDARD_INPUT else "", name)
    session.finish()
    if console.is_terminal:
        console.print(panel(session, console))
    else:
        for text in plain(session, console).splitlines():
            say(console, text, wrap=False)


def follow(run: Path, column: str | None, name: str | None, interval: float) -> None:
    """Show a run until q is pressed or the input ends."""
    console, is_piped = Console(), run == STANDARD_INPUT
    with waiting(run) as (path, wait):
        session = Session(path, column, SOURCE if is_piped else "", name)
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
            if session.file.run is not None:
                with suppress(OSError):  # the terminal may have been closed
                    console.print(panel(session, console))
