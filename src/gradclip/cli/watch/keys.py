"""Waiting for somebody to press q."""

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn, TypeAlias

Wait: TypeAlias = Callable[[float], bool]
"""Waits for at most so many seconds, and says whether it is time to end: q was pressed, or the input has ended."""

QUIT = frozenset("qQ")


@contextmanager
def keys() -> Generator[Wait]:
    """Listen to the keys of a terminal, or to the end of a pipe; where there is neither, just wait.

    The settings of a terminal are put back however the block ends: also where another process ends this one politely.
    Keys are not read where the output goes elsewhere: what runs in the background must not touch the terminal.
    """
    with _polite_end():
        if _is_terminal(0) and _is_terminal(1):
            with _terminal() as wait:
                yield wait
        elif sys.platform != "win32" and _is_pipe(0):
            yield _until_input
        else:
            yield _sleep


if sys.platform == "win32":
    import msvcrt

    TICK_S = 0.05

    @contextmanager
    def _terminal() -> Generator[Wait]:
        yield _until_key  # a console gives single keys without being asked to

    def _until_key(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while True:
            while msvcrt.kbhit():
                if msvcrt.getwch() in QUIT:
                    return True
            if (left := end - time.monotonic()) <= 0.0:
                return False
            time.sleep(min(TICK_S, left))

    def _until_input(seconds: float) -> bool:
        return _sleep(seconds)

else:
    import select
    import termios
    import tty

    @contextmanager
    def _terminal() -> Generator[Wait]:
        before = termios.tcgetattr(0)
        try:
            tty.setcbreak(0)  # single keys, unseen; Ctrl-C is a signal as ever
            settings = termios.tcgetattr(0)
            settings[6][termios.VSUSP] = os.fpathconf(0, "PC_VDISABLE").to_bytes(1, "little")
            termios.tcsetattr(0, termios.TCSANOW, settings)  # Ctrl-Z would leave the terminal as it is
            yield _until_input
        finally:
            with suppress(termios.error):  # a terminal that was closed has no settings
                termios.tcsetattr(0, termios.TCSAFLUSH, before)

    def _until_input(seconds: float) -> bool:
        end = time.monotonic() + seconds
        while True:
            left = max(0.0, end - time.monotonic())
            if not select.select([0], [], [], left)[0]:
                return False
            try:
                read = os.read(0, 1024)
            except OSError:  # the terminal was closed
                return True
            if not read or QUIT & set(read.decode("latin-1")):
                return True


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _is_terminal(file: int) -> bool:
    try:
        return os.isatty(file)
    except OSError:
        return False


def _is_pipe(file: int) -> bool:
    """Say whether a file is one whose writer may go away; `/dev/null`, the input of background jobs, always ends."""
    try:
        mode = os.fstat(file).st_mode
    except OSError:  # closed
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


@contextmanager
def _polite_end() -> Generator[None]:
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
