"""A view of a run in a process of its own, beside the script that makes it."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 20.0
"""How long the view may take to draw the end of a run."""

NOWHERE = (
    "gradclip: --watch found no terminal to be shown on, and the script runs unwatched. "
    "`gradclip watch FILE` shows elsewhere what --record FILE writes.\n"
)


@contextmanager
def watched(run: Path, temporary_of: str | None = None) -> Generator[None]:
    """Show a run at the foot of the terminal while a block writes it; say in one line where there is no terminal.

    The script has this process for itself, its terminal and its signals. The view ends with it, however that ends, and
    removes the folder of a temporary run, which a script that is killed cannot.

    Args:
        run: The file of the run.
        temporary_of: What the view calls the run in place of its file, where that is temporary.
    """
    terminal = _terminal()
    if terminal is None:
        sys.stderr.write(NOWHERE)
        yield
        return
    view = _started([str(run), *([] if temporary_of is None else [temporary_of])], terminal)
    try:
        yield
    finally:
        try:
            view.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            view.kill()
            view.communicate()


def _terminal() -> int | None:
    if sys.platform == "win32" or os.environ.get("TERM", "dumb") in {"dumb", "unknown"}:
        return None
    return next((number for number in (2, 1) if os.isatty(number)), None)


def _started(arguments: list[str], terminal: int) -> "subprocess.Popen[bytes]":
    """Start the view; Ctrl-C, which a terminal sends to all, is the script's."""
    words = [sys.executable, "-m", "gradclip.cli.watch.foot", *arguments]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGQUIT})
    try:
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=terminal, stderr=terminal)  # noqa: S603
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
