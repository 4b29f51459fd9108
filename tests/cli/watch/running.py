"""`gradclip watch` as a process, behind a real pseudo-terminal or pipes."""

import os
import re
import select
import struct
import time
from pathlib import Path

from processes import GRADCLIP, Script

COMMAND = f"""
import os, sys

ends = [sys.argv.pop(1) for _ in range(3)]
for number, end in enumerate(ends):
    os.dup2(os.open(end, os.O_NOCTTY | (os.O_WRONLY if number else os.O_RDONLY)), number)
sys.stdin = sys.__stdin__ = open(0, encoding="utf-8")
sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8")
sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8")
for name in ("COLUMNS", "LINES", "FORCE_COLOR"):
    os.environ.pop(name, None)
{GRADCLIP}
"""

PATIENCE_S = 60.0
"""How long anything may take on a busy machine."""

SIZE = (30, 100)
"""Lines and columns of the terminal."""

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][A-Z0-9]|\x1b[=>]")


class Piped:
    """The command with a pipe at each end.

    Attributes:
        process: The process.
        stdin: What it reads, or None where that is nothing.
        stdout: What it prints.
        stderr: What it complains of.
    """

    def __init__(self, folder: Path, *arguments: object, is_fed: bool = True, **environment: str) -> None:
        names = [folder / name for name in ("stdin", "stdout", "stderr")]
        for name in names:
            os.mkfifo(name)
        ends = [*(names if is_fed else [os.devnull, *names[1:]]), "watch"]
        self.process = Script(COMMAND, *ends, *arguments, **environment)
        self.stdin = names[0].open("w", encoding="utf-8") if is_fed else None
        self.stdout, self.stderr = (name.open(encoding="utf-8") for name in names[1:])

    def rest(self, text: str = "") -> tuple[str, str]:
        """Have it read a last text, and return what else it says, until it ends."""
        if self.stdin is not None:
            self.stdin.write(text)
            self.stdin.close()
        return self.stdout.read(), self.stderr.read()

    def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        self.stdout.close()
        self.stderr.close()
        return self.process.wait().returncode


class Terminal:
    """The command in a pseudo-terminal of its own.

    Attributes:
        master: Our end of it.
        slave: Its end.
        before: The settings of the terminal at first.
        shown: All that was written to it.
    """

    def __init__(self, *arguments: object) -> None:
        import fcntl
        import pty
        import termios

        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.shown = ""
        ends = [os.ttyname(self.slave)] * 3
        self.process = Script(COMMAND, *ends, "watch", *arguments, TERM="xterm-256color")

    def settings(self) -> list[object]:
        import termios

        return termios.tcgetattr(self.slave)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def until(self, text: str, *, after: int = 0) -> int:
        """Read until a text is shown, and return where what follows it begins."""
        end = time.monotonic() + PATIENCE_S
        while (place := self.shown.find(text, after)) < 0:
            assert time.monotonic() < end, f"{text!r} is not in {self.shown[after:]!r}"
            self._take(0.1)
        return place + len(text)

    def ended(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        end = time.monotonic() + PATIENCE_S
        while self.process.is_running():
            assert time.monotonic() < end, f"it goes on: {self.shown[-2000:]!r}"
            self._take(0.1)
        while self._take(0.0):
            pass
        return self.process.wait().returncode

    def close(self) -> None:
        self.process.kill()
        os.close(self.master)
        os.close(self.slave)

    def _take(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        self.shown += ESCAPES.sub("", os.read(self.master, 65536).decode(errors="replace"))
        return True
