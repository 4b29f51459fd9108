"""What one process of a `RankPool` does: join the process group, then answer one call after another."""

import contextlib
import faulthandler
import io
import os
import pickle
import re
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import distributed

T = TypeVar("T")

START_S = 300.0
"""How many seconds the ranks may take to start."""


class Answer(NamedTuple):
    """What became of a call on one rank."""

    content: Any
    """The pickled result, or the text of what went wrong."""

    failure: str = ""
    """The full name of the type of what was raised, `died` for the whole process, or nothing."""


class Seat(NamedTuple):
    """Which rank a process is, and what it shares with the others."""

    rank: int
    size: int
    threads: int
    timeout: float
    folder: str

    @property
    def stack_file(self) -> Path:
        """Where the rank writes what it was doing when it was told to stop."""
        return Path(self.folder) / f"stack-{self.rank}"

    def read_stack(self) -> str:
        """Return what the rank wrote, down to where its function began."""
        lines = self.stack_file.read_text().splitlines() if self.stack_file.exists() else []
        ours = next((i for i, line in enumerate(lines) if __file__ in line), len(lines))
        return "\n".join(lines[: ours + 1])


def serve(connection: "Connection[bytes, bytes]", seat: Seat) -> None:
    """Be a rank until the pool closes its end of the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl+C too, and ends its ranks
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that what was printed is seen even if the rank is killed
    threading.Thread(target=_end_with_the_parent, args=(seat.folder,), daemon=True).start()
    with seat.stack_file.open("w") as stack, contextlib.suppress(EOFError):
        if hasattr(faulthandler, "register"):
            # After the stack is written, the signal does what it does by default: it ends the process.
            faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False, chain=True)
        connection.send_bytes(pickle.dumps(_attempt(_join, seat)))
        while True:
            request = connection.recv_bytes()
            connection.send_bytes(pickle.dumps(_attempt(_call, request)))
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _end_with_the_parent(folder: str) -> None:
    """End a rank that waits for another, which would outlive a parent that was killed, and tidy up for the parent."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _join(seat: Seat) -> None:
    torch.set_num_threads(seat.threads)
    store = distributed.FileStore(str(Path(seat.folder) / "rendezvous"), seat.size)
    limit = timedelta(seconds=START_S + seat.timeout)  # the pool gives up a call before a collective does
    distributed.init_process_group("gloo", store=store, rank=seat.rank, world_size=seat.size, timeout=limit)


def _attempt(task: Callable[[T], Any], argument: T) -> Answer:
    try:
        return Answer(pickle.dumps(task(argument)))
    except BaseException as error:  # noqa: BLE001 -- whatever it is, the parent reports it
        kind, trace = type(error), error.__traceback__
        while trace and trace.tb_next and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next  # it begins where the function does
        return Answer("".join(traceback.format_exception(kind, error, trace)), f"{kind.__module__}.{kind.__qualname__}")


def pack(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return a call as bytes, with the filters of warnings that hold where it is made.

    Plain pickle copies the bytes of a tensor. The pickle of `multiprocessing` would pass on file descriptors of shared
    memory, which end with the process that made them.
    """
    return pickle.dumps((list(warnings.filters), pickle.dumps((function, args, kwargs))))


def _call(request: bytes) -> Any:
    filters, call = pickle.loads(request)  # noqa: S301 -- from our own parent
    with warnings.catch_warnings():
        _filter_warnings(filters)
        function, args, kwargs = pickle.loads(call)  # noqa: S301
        return function(*args, **kwargs)


def _filter_warnings(filters: Iterable[tuple[Any, Any, Any, Any, int]]) -> None:
    """Make the same of a warning here as the parent would, such as an error."""
    warnings.resetwarnings()
    for action, message, category, module, line in filters:
        warnings.filterwarnings(action, _pattern(message), category, _pattern(module), line, append=True)


def _pattern(text: "str | re.Pattern[str] | None") -> str:
    """Return the pattern of a filter; the filters that Python starts with hold words instead."""
    if isinstance(text, str):
        return re.escape(text) + r"\Z"
    return "" if text is None else text.pattern
