"""Waiting for somebody to press q, or for the end of a pipe."""

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType
from typing import NoReturn, TypeAlias

from gradclip.cli import UserError
from gradclip.extras import how_to_install

Wait: TypeAlias = Callable[[float], bool]
"""Waits for at most so many seconds, and says whether it is time to end: q was pressed, or the input has ended."""


@contextmanager
def keys() -> Generator[Wait]:
    """Listen to the keys of a terminal, or to the end of a pipe; where there is neither, just wait.

    The settings of a terminal are put back however the block ends: also where another process ends this one politely.
    Keys are not read where the output goes elsewhere: what runs in the background must not touch the terminal.
    """
    with polite_end():
        if os.isatty(0) and os.isatty(1):
            if find_spec("blessed") is None:
                raise UserError(f"the keys of a terminal need blessed: {how_to_install('cli')}")
            from blessed import Terminal  # noqa: PLC0415 -- for this alone

            terminal = Terminal(stream=sys.__stdout__)
            with terminal.cbreak():  # single keys, unseen; Ctrl-C is a signal as ever
                yield lambda seconds: _until_q(terminal.inkey, seconds)
        elif sys.platform != "win32" and _is_pipe(0):
            yield _until_input
        else:
            yield _sleep


def _until_q(key: Callable[[float], str], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while pressed := key(max(0.0, end - time.monotonic())):
        if pressed.lower() == "q":
            return True
    return False


def _until_input(seconds: float) -> bool:
    """Wait for a `q` by a pipe, or its end."""
    import select  # noqa: PLC0415 -- it takes no pipes on Windows

    if not select.select([0], [], [], seconds)[0]:
        return False
    read = os.read(0, 1024)
    return not read or b"q" in read


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _is_pipe(file: int) -> bool:
    """Say whether a file is one whose writer may go away; `/dev/null`, the input of background jobs, always ends."""
    try:
        mode = os.fstat(file).st_mode
    except OSError:  # closed
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


@contextmanager
def polite_end() -> Generator[None]:
    """Let SIGTERM and SIGHUP unwind the program, as Ctrl-C does."""
    names = ("SIGTERM", "SIGHUP") if threading.current_thread() is threading.main_thread() else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [(number, signal.signal(number, _end)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
