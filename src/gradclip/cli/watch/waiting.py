"""What a view waits for: so many seconds, somebody who presses q, or the end of standard input."""

import os
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn, TypeAlias

from gradclip.cli import UserError
from gradclip.cli.recorded import STANDARD_INPUT
from gradclip.extras import how_to_install, missing

Wait: TypeAlias = Callable[[float], bool]
"""Waits for at most so many seconds, and says whether it is time to end: q was pressed, or the input has ended."""


@contextmanager
def waiting(run: Path) -> Generator[tuple[Path, Wait]]:
    """Listen to the keys of a terminal, or to the end of a pipe; where there is neither, just wait.

    The settings of a terminal are put back however the block ends: also where another process ends this one politely.
    Keys are not read where the output goes elsewhere: what runs in the background must not touch the terminal.

    Yields:
        The file of the run, which is a copy where the run comes by standard input, and what waits.
    """
    with ExitStack() as ends:
        for name in ("SIGTERM", "SIGHUP"):
            if (number := getattr(signal, name, None)) is not None:
                ends.callback(signal.signal, number, signal.signal(number, _end))
        if run == STANDARD_INPUT:
            copy = Path(ends.enter_context(TemporaryDirectory(prefix="gradclip-")), "run")
            yield copy, _end_of_input(copy)
        elif os.isatty(0) and os.isatty(1):
            if missing("blessed") is not None:
                raise UserError(f"the keys of a terminal need blessed: {how_to_install('cli')}")
            from blessed import Terminal  # noqa: PLC0415 -- for this alone

            terminal = Terminal(stream=sys.__stdout__, force_styling=None)  # which asks the terminal nothing
            ends.enter_context(terminal.cbreak())  # single keys, unseen; Ctrl-C is a signal as ever
            yield run, lambda seconds: terminal.inkey(seconds).lower() == "q"
        else:
            yield run, _end_of_input(Path(os.devnull)) if _is_pipe() else threading.Event().wait


def _end(number: int, _frame: object) -> NoReturn:
    """Have a signal unwind the program, as Ctrl-C does."""
    raise SystemExit(128 + number)


def _end_of_input(copy: Path) -> Wait:
    """Copy standard input into a file as it comes, and return what waits for its end."""

    def work() -> None:
        with open(0, "rb", buffering=0, closefd=False) as stdin, copy.open("wb", buffering=0) as file:
            shutil.copyfileobj(stdin, file)

    def wait(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return wait


def _is_pipe() -> bool:
    """Say whether the writer of standard input may go away; `/dev/null`, that of background jobs, always ends."""
    with suppress(OSError):  # closed
        mode = os.fstat(0).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
    return False
