"""`gradclip run --watch`: the view at the foot of a terminal, and all else as if it were not there."""

import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.test_run import launched
from cli.watch.running import PATIENCE_S
from processes import GRADCLIP, Script

if sys.platform == "win32":
    pytest.skip("Windows has no pseudo-terminals of this kind", allow_module_level=True)

pyte = pytest.importorskip("pyte", reason="pyte, which shows what a terminal shows, is not installed")

SCRIPT = """
import os, sys, time, torch

model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
step = 0
print("begun", sys.stdout.isatty(), os.getpid(), flush=True)
while step < 3 or not os.path.exists("stop"):
    model(torch.randn(16, 4)).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    optimizer.step()
    optimizer.zero_grad()
    step += 1
    sys.stdout.write(f"line {step}\\n")  # at once: it may be killed between two parts of a line
    sys.stdout.flush()
    sys.stderr.write(f"bar {step}\\r")
    time.sleep(0.05)
if "fail" in sys.argv:
    raise ValueError("mine")
sys.exit(7)
"""


SHELL = f"""
import os, signal, sys

os.setsid()
end = os.open(sys.argv.pop(1), os.O_RDWR)
for number in range(3):
    os.dup2(end, number)
sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
started = os.fork()
if started:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(f"ended {{os.waitstatus_to_exitcode(os.waitpid(started, 0)[1])}}.", flush=True)
    sys.stdin.read()
else:
    {GRADCLIP}
"""
"""What a terminal belongs to, and Ctrl-C reaches all that it has started; it says how that has ended."""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def is_watched(shown: list[str]) -> bool:
    return any("clipped" in line for line in shown)


def has_ended(shown: list[str]) -> bool:
    return any(line.startswith("ended") and line.endswith(".") for line in shown)


class Terminal:
    """A script in a terminal."""

    def __init__(self, rows: int, *arguments: object, cwd: Path) -> None:
        import fcntl
        import pty
        import termios

        self.screen = pyte.HistoryScreen(100, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self._keyboard, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 100, 0, 0))
        self.temporary = cwd / "temporary"
        self.temporary.mkdir()
        environment = {"TERM": "xterm-256color", "TMPDIR": str(self.temporary)}
        self._shell = Script(SHELL, os.ttyname(end), "run", *arguments, cwd=cwd, **environment)
        self._end = end

    def press(self, keys: bytes) -> None:
        os.write(self._keyboard, keys)

    def shown(self) -> list[str]:
        """All lines that were shown, from the first on."""
        rows = [*self.screen.history.top, *(self.screen.buffer[y] for y in range(self.screen.lines))]
        lines = ["".join(row[x].data for x in range(self.screen.columns)).rstrip() for row in rows]
        return lines[: max(i for i, line in enumerate(lines) if line) + 1]

    def until(self, found: Callable[[list[str]], bool]) -> list[str]:
        """Wait until something is shown; return all that was."""
        end = time.monotonic() + PATIENCE_S
        while not found(shown := self.shown() if any(map(str.strip, self.screen.display)) else []):
            assert time.monotonic() < end, shown
            self._read(0.2)  # to look takes longer than to read
        return shown

    def _read(self, seconds: float) -> None:
        """Have the screen show what is written in so many seconds."""
        end = time.monotonic() + seconds
        while select.select([self._keyboard], [], [], max(0.0, end - time.monotonic()))[0]:
            self._stream.feed(os.read(self._keyboard, 65536))

    def close(self) -> None:
        self._shell.send_signal(signal.SIGKILL)
        self._shell.wait()
        os.close(self._keyboard)
        os.close(self._end)


@pytest.fixture
def opened() -> Iterator[list[Terminal]]:
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        terminal.close()


@pytest.mark.parametrize(("rows", "height"), [(40, 11), (12, 1)])
def test_the_view_is_below_what_the_script_writes(opened: list[Terminal], script: Path, rows: int, height: int) -> None:
    """In a low terminal, it is one line. Not a line of the script is lost, and its error comes last."""
    terminal = Terminal(rows, "--record", "r.jsonl", "--watch", script.name, "fail", cwd=script.parent)
    opened.append(terminal)
    terminal.until(is_watched)
    assert terminal.screen.margins == (0, rows - height - 1)
    assert any("clipped" in line for line in terminal.screen.display[-height:])
    assert not any("clipped" in line for line in terminal.screen.display[:-height])
    (script.parent / "stop").touch()
    shown = terminal.until(has_ended)
    assert terminal.screen.margins is None
    assert shown[0].startswith("begun True")
    steps = len((script.parent / "r.jsonl").read_text().splitlines())
    assert [x for x in shown if x.startswith("line ")] == [f"line {step}" for step in range(1, steps + 1)]
    error = next(i for i, line in enumerate(shown) if line.startswith("Traceback"))
    assert shown[-2:] == ["ValueError: mine", "ended 1."]
    assert sum("clipped" in line for line in shown) == 1
    assert any(f" {steps}," in line for line in shown[error - 11 : error])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_script_ends_the_terminal_is_whole(
    opened: list[Terminal], script: Path, number: signal.Signals
) -> None:
    """By Ctrl-C or a signal, as without the view, which ends then, gives its lines back and leaves no file."""
    terminal = Terminal(40, "--watch", script.name, cwd=script.parent)
    opened.append(terminal)
    shown = terminal.until(is_watched)
    assert any(line.startswith(f"╭─ {script.name} ─") for line in shown)
    if number == signal.SIGINT:
        terminal.press(b"\x03")
    else:
        os.kill(int(shown[0].split()[-1]), number)
    shown = terminal.until(lambda shown: has_ended(shown) and terminal.screen.margins is None and is_watched(shown))
    assert f"ended {-number}." in shown
    assert ("KeyboardInterrupt" in shown) == (number == signal.SIGINT)
    assert sum("clipped" in line for line in shown) == 1
    terminal.until(lambda _: not list(terminal.temporary.glob("gradclip-*")))


@pytest.mark.parametrize("rank", ["0", "1"])
def test_without_a_terminal_the_script_runs(script: Path, rank: str) -> None:
    """One line says so, of the first rank; what the script writes to a file is its own."""
    (script.parent / "stop").touch()
    done = launched("--watch", script.name, cwd=script.parent, RANK=rank, TERM="xterm-256color")
    assert done.returncode == 7
    assert done.stdout.startswith("begun False")
    assert done.stdout.splitlines()[1:] == ["line 1", "line 2", "line 3"]
    said = [line for line in done.stderr.split("\n") if line.startswith("gradclip: ")]
    assert [line.partition(",")[0] for line in said] == (
        ["gradclip: --watch found no terminal to be shown on"] if rank == "0" else []
    )
