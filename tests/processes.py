"""Processes of their own, as forks of one that has imported torch: each would import it for seconds."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import rank_functions

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext

    from gradclip.testing import RankPool

IMPORTED_ONCE = ["torch.distributed.fsdp", "torch.distributed.pipelining", "torch.distributed.tensor.parallel"]
"""Nothing of ours: what the environment asks for is read where that is imported."""

TIMEOUT_S = 240.0


@cache
def forking() -> "ForkServerContext":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED_ONCE)
    return context


class Script:
    """A script that runs, as `python -c` would, or as `python FILE` if it comes from one."""

    def __init__(self, source: str | Path, *arguments: object, **environment: str) -> None:
        self._folder = TemporaryDirectory()
        self._streams = [str(Path(self._folder.name) / name) for name in ("out", "err")]
        given = [str(source), isinstance(source, Path), [*map(str, arguments)], os.environ | environment]
        self._process = forking().Process(target=_run, args=(*given, self._streams), daemon=True)
        self._process.start()

    def wait(self) -> "subprocess.CompletedProcess[str]":
        """Return what it printed, and how it ended."""
        self._process.join(TIMEOUT_S)
        self._process.kill()
        self._process.join()
        out, err = (Path(path).read_text("utf-8") for path in self._streams)
        self._folder.cleanup()
        return subprocess.CompletedProcess([], self._process.exitcode or 0, out, err)


def _run(source: str, is_file: bool, arguments: list[str], environment: dict[str, str], streams: list[str]) -> None:
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [source if is_file else "-c", *arguments]
    if action := environment.get("PYTHONWARNINGS"):
        warnings.simplefilter(action)  # type: ignore[arg-type] -- one of its words
    main = sys.modules["__main__"] = ModuleType("__main__")
    if is_file:
        sys.path.insert(0, str(Path(source).parent))
        main.__file__ = source
    text = Path(source).read_text("utf-8") if is_file else textwrap.dedent(source)
    exec(compile(text, source if is_file else "<string>", "exec"), vars(main))  # noqa: S102 -- our own


def run(source: str | Path, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a script; return what it printed, and how it ended."""
    return Script(source, *arguments, **environment).wait()


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
