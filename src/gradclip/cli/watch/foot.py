"""The view at the foot of a terminal where others write above it: `python -m gradclip.cli.watch.foot RUN [NAME]`.

With a name, by which the view calls the run, its folder is temporary, and is removed in the end.
"""

import os
import shutil
import sys
from pathlib import Path
from typing import final

from rich.console import Console

from gradclip.analysis.reading import ReadError
from gradclip.cli.say import say
from gradclip.cli.watch.session import Session
from gradclip.cli.watch.view import line, panel
from gradclip.cli.watch.waiting import waiting

INTERVAL_S = 0.5
"""Between two views."""

SAVE, RESTORE, ERASE_LINE, DOWN = "\x1b7", "\x1b8", "\x1b[2K", "\x1bD"
"""What all terminals obey; `DOWN` scrolls where there is no line below."""


@final
class Foot:
    """The last lines of a terminal. What others write scrolls in the lines above, and their cursor stays where it is.

    Whatever is written goes there by one call of the operating system, so that nobody writes in between.

    Args:
        terminal: Its file descriptor.
    """

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._height = 0
        self._size = os.get_terminal_size(terminal)

    def draw(self, lines: list[str]) -> None:
        """Show lines, none longer than the terminal is wide; the foot never becomes lower."""
        size = os.get_terminal_size(self._terminal)
        if len(lines) >= size.lines:
            return
        if size != self._size:  # of which a terminal forgets what part scrolls
            self._size, self._height = size, 0
        more = max(0, len(lines) - self._height)
        self._height += more
        room = f"{DOWN * more}\x1b[{more}A{SAVE}\x1b[1;{size.lines - self._height}r" if more else SAVE
        padded = [""] * (self._height - len(lines)) + lines
        self._write(room + self._placed(padded) + RESTORE)

    def clear(self) -> None:
        """Give the lines back, and begin a new one where another has begun."""
        fresh = " " * self._size.columns + "\r" + ERASE_LINE  # which fills a line, or wraps
        self._write(f"{SAVE}{self._placed([''] * self._height)}\x1b[r{RESTORE}{fresh}")
        self._height = 0

    def _placed(self, lines: list[str]) -> str:
        first = self._size.lines - self._height + 1
        return "".join(f"\x1b[{first + i};1H{ERASE_LINE}{line}" for i, line in enumerate(lines))

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding, "replace")
        while data:
            data = data[os.write(self._terminal, data) :]


def show(run: Path, name: str) -> None:
    """Show a run until the input ends; then leave the last view behind."""
    console, session, foot = Console(), Session(run, name=name), Foot(sys.stdout.fileno())
    problem, parent = "", os.getppid()
    try:
        with waiting(run) as (_, wait):
            for _ in session.views(INTERVAL_S, lambda seconds: wait(seconds) or os.getppid() != parent):
                foot.draw(_lines(session, console))
    except ReadError as error:
        problem = f"gradclip: {error}"
    finally:
        foot.clear()
    if session.run is not None:
        console.print(panel(session, console))
    if problem:
        say(console, problem)


def _lines(session: Session, console: Console) -> list[str]:
    """Return the view, where it takes no more than half of the terminal, or else one line."""
    console.size = os.get_terminal_size(sys.stdout.fileno())  # by no variable of the environment
    with console.capture() as drawn:
        console.print(panel(session, console))
    found = drawn.get().splitlines()
    return found if 2 * len(found) <= console.height else [line(session)[: console.width]]


if __name__ == "__main__":
    shown, name = Path(sys.argv[1]), "".join(sys.argv[2:])
    try:
        show(shown, name)
    finally:
        if name:
            shutil.rmtree(shown.parent, ignore_errors=True)
