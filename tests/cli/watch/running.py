"""`gradclip watch` as a process, behind a real pseudo-terminal or a pipe."""

import os
import re
import select
import struct
import subprocess
import sys
import time
from pathlib import Path

COMMAND = """
import sys
from gradclip.cli.app import COMMANDS, app, run
from gradclip.cli.watch import watch

if watch not in COMMANDS:
    app.command()(watch)
sys.exit(run(sys.argv[1:]))
"""

PATIENCE_S = 60.0
"""How long anything may take on a busy machine."""

SIZE = (30, 100)
"""Lines and columns of the terminal."""

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[()][A-Z0-9]|\x1b[=>]")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", COMMAND, "watch", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "FORCE_COLOR")}
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    return {**kept, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color", **more}


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
        end = self.slave
        self.process = subprocess.Popen(
            command(*arguments), stdin=end, stdout=end, stderr=end, env=environment(), start_new_session=True
        )

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
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it goes on: {self.shown[-2000:]!r}"
            self._take(0.1)
        while self._take(0.0):
            pass
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def _take(self, seconds: float) -> bool:
        if not select.select([self.master], [], [], seconds)[0]:
            return False
        self.shown += ESCAPES.sub("", os.read(self.master, 65536).decode(errors="replace"))
        return True
