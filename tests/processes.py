"""Processes of their own, as forks of one that has imported torch: each would import it for seconds."""

import atexit
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import process
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import rank_functions

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from gradclip.testing import RankPool

IMPORTED_ONCE = [
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
    "pytest",
]
"""Nothing of ours: what the environment asks for is read where that is imported."""

TIMEOUT_S = 240.0


@cache
def forking() -> "ForkServerContext":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_ONCE)
    return context


class Script:
    """A script that runs, as `python -c` would, or as `python FILE` if it comes from one.

    Args:
        source: The script.
        arguments: What follows it.
        cwd: Where it runs.
        environment: What it finds in the environment beside all that is there.
    """

    def __init__(self, source: str | Path, *arguments: object, cwd: Path | None = None, **environment: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [str(Path(self._folder.name) / name) for name in ("out", "err")]
        given = [str(source), isinstance(source, Path), [*map(str, arguments)], str(cwd or Path.cwd())]
        streams = os.environ | environment, self._streams
        self._process = forking().Process(target=_run, args=(*given, *streams), daemon=True)
        self._process.start()

    def send_signal(self, number: int) -> None:
        """Send a signal to it."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def printed(self) -> str:
        """Return what it has printed so far."""
        out = Path(self._streams[0])
        return out.read_text("utf-8") if out.exists() else ""

    def is_running(self) -> bool:
        """Return whether it has not ended yet."""
        return self._process.is_alive()

    def kill(self) -> None:
        """End it, if it has not ended yet."""
        self._process.kill()
        self._process.join()

    def wait(self) -> "subprocess.CompletedProcess[str]":
        """Return what it printed, and how it ended."""
        self._process.join(TIMEOUT_S)
        self.kill()
        out, err = (Path(path).read_text("utf-8") for path in self._streams)
        self._folder.cleanup()
        return subprocess.CompletedProcess([], self._process.exitcode or 0, out, err)


def _run(
    source: str, is_file: bool, arguments: list[str], folder: str, environment: dict[str, str], streams: list[str]
) -> None:
    """Be a process of its own, which nobody has forked, from its first line to what it does at exit."""
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(folder)
    process.ORIGINAL_DIR = folder  # type: ignore[attr-defined]
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    own: Any = process.current_process()
    own.name, own._identity, process._parent_process = "MainProcess", (), None  # type: ignore[attr-defined]
    own._config.pop("daemon")  # so that it may start others
    sys.argv = [source if is_file else "-c", *arguments]
    if action := environment.get("PYTHONWARNINGS"):
        warnings.simplefilter(action)  # type: ignore[arg-type] -- one of its words
    main = sys.modules["__main__"] = ModuleType("__main__")
    if is_file:
        sys.path.insert(0, str(Path(source).parent))
        main.__file__ = source
    text = Path(source).read_text("utf-8") if is_file else textwrap.dedent(source)
    is_interrupted = False
    try:
        exec(compile(text, source if is_file else "<string>", "exec"), vars(main))  # noqa: S102 -- our own
    except SystemExit:
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 -- as Python does
        sys.excepthook(type(error), error, error.__traceback__)
        is_interrupted = isinstance(error, KeyboardInterrupt)
        sys.exit(1)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        if is_interrupted:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)


def run(
    source: str | Path, *arguments: object, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a script; return what it printed, and how it ended."""
    return Script(source, *arguments, cwd=cwd, **environment).wait()


def ranks(source: str | Path, *arguments: object, size: int, cwd: Path) -> "list[subprocess.CompletedProcess[str]]":
    """Run a script on ranks, each in the environment that torchrun would give it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [Script(source, *arguments, cwd=cwd, RANK=str(i), LOCAL_RANK=str(i), **place) for i in range(size)]
    return [script.wait() for script in started]


GRADCLIP = "import runpy; runpy.run_module('gradclip', run_name='__main__')"
"""What `python -m gradclip` does."""


def printed(source: str | Path, *arguments: object, **environment: str) -> str:
    """Run a script that succeeds; return what it printed."""
    done = run(source, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def forks() -> Iterator[None]:
    """Have pools start their ranks as forks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradclip.testing.ranks.multiprocessing", SimpleNamespace(get_context=lambda _: forking()))
        yield


def forked(pool: "RankPool") -> "RankPool":
    """Start the ranks of a pool, as forks."""
    with forks():
        pool.run(rank_functions.rank)
    return pool
