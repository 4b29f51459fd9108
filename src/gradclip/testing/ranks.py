"""Run functions on several ranks of one process group, for tests of distributed code."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from tempfile import TemporaryDirectory
from typing import NamedTuple, ParamSpec, TypeVar, final

from torch import distributed

from gradclip.exceptions import GradClipError
from gradclip.testing.rank_worker import START_S, Answer, Seat, pack, serve
from gradclip.validation import check_number

P = ParamSpec("P")
T = TypeVar("T")

GRACE_S = 2.0
"""How many seconds the other ranks have to answer once one has failed: they may be waiting for it."""


class RankError(GradClipError, RuntimeError):
    """A call of `RankPool.run` failed on some ranks; the message says on which, and how on each."""


class _Rank(NamedTuple):
    process: SpawnProcess
    connection: "Connection[bytes, bytes]"
    seat: Seat


@final
class RankPool:
    """A pool of processes that form one gloo process group and wait for work.

    The processes start at the first call, which takes seconds; every further call takes milliseconds. Use one pool for
    a whole test session. The processes meet in a temporary file and need no port.

    A pool stays usable after a failure. If only some ranks fail, they may be out of step: the pool ends all ranks, and
    the next call starts new ones. Process groups that a function makes stay until it destroys them. The ranks use the
    warning filters of the caller of `run`: a warning that would be an error here is an error there.

    Args:
        size: The number of ranks.
        timeout: How many seconds a call may take. Starting has its own limit of five minutes.
        threads: How many threads torch uses in each rank.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range.

    Example:
        In `conftest.py`::

            import pytest
            from gradclip.testing import RankPool

            @pytest.fixture(scope="session")
            def ranks():
                with RankPool(2) as pool:
                    yield pool

        In a module that the ranks can import too, here `rank_functions.py`::

            import torch
            from torch import distributed

            def total(of):
                sum_ = torch.tensor(of[distributed.get_rank()])
                distributed.all_reduce(sum_)
                return sum_.item()

        In a test::

            from rank_functions import total

            def test_all_ranks_hold_the_total(ranks):
                assert ranks.run(total, of=[1.0, 2.0]) == [3.0, 3.0]

        A script must use a pool below `if __name__ == "__main__":`, since the ranks import the script.
    """

    def __init__(self, size: int, *, timeout: float = 60.0, threads: int = 1) -> None:
        self._size = int(check_number("RankPool", "size", size, at_least=1, integer=True))
        self._timeout = check_number("RankPool", "timeout", timeout, above=0.0, finite=True)
        self._threads = int(check_number("RankPool", "threads", threads, at_least=1, integer=True))
        self._ranks: list[_Rank] = []  # empty until a call needs them
        self._folder: TemporaryDirectory[str] | None = None
        self._closed = False

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self._size

    def __enter__(self) -> "RankPool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the ranks. A closed pool cannot run anything; closing it again does nothing."""
        self._closed = True
        self._stop(GRACE_S)

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """Call a function on every rank, with the same arguments, and return the results in order of rank.

        Args:
            function: What to call. The ranks import it by name, so it must stand at the top level of a module that
                they can import. It asks `torch.distributed.get_rank()` which rank it is on.
            *args: Its positional arguments, which are pickled.
            **kwargs: Its keyword arguments, which are pickled.

        Returns:
            What each rank returned; tensors are copies.

        Raises:
            RankError: If a rank raises, dies, or does not answer in time. The message has the traceback of each rank
                that raised, the exit code of each that died, and where each that did not answer was.
            RuntimeError: If the pool is closed.
            TypeError: If the function or an argument cannot be pickled.
        """
        if self._closed:
            msg = "`RankPool.run` must be called before `close`, got a closed pool. Make a new one."
            raise RuntimeError(msg)
        name = getattr(function, "__qualname__", repr(function))
        request = _pack(name, function, args, kwargs)
        try:
            if not self._ranks:
                self._start()
            answers = self._exchange(request, self._timeout)
            if self._all_returned(answers):
                return [pickle.loads(answers[rank].content) for rank in range(self._size)]  # noqa: S301 -- our own
            usable = self._failed_alike(answers) and self._in_step()
            message = self._describe(f"`{name}`", answers, self._timeout)
        except BaseException:  # ranks that still compute an answer must not give it to the next call
            self._stop()
            raise
        if not usable:
            self._stop()
        raise RankError(message)

    def _start(self) -> None:
        self._folder = TemporaryDirectory(prefix="gradclip-ranks-")
        spawn = multiprocessing.get_context("spawn")
        for number in range(self._size):
            ours, theirs = spawn.Pipe()
            seat = Seat(number, self._size, self._threads, self._timeout, self._folder.name)
            process = spawn.Process(target=serve, args=(theirs, seat), name=f"rank {number}", daemon=True)
            process.start()
            theirs.close()  # so that the connection ends with the process
            self._ranks.append(_Rank(process, ours, seat))
        answers = self._collect(START_S)
        if not self._all_returned(answers):
            message = self._describe("starting", answers, START_S)
            advice = 'What they printed says more. A script must use a pool below `if __name__ == "__main__":`.'
            raise RankError(f"{message}\n\n{advice}")

    def _stop(self, grace: float = 0.0) -> None:
        for rank in self._ranks:
            rank.connection.close()  # which ends a rank that waits for work
        for rank in self._ranks:
            rank.process.join(grace)
            rank.process.kill()
            rank.process.join()
            rank.process.close()
        self._ranks = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _exchange(self, request: bytes, seconds: float) -> dict[int, Answer]:
        for rank in self._ranks:
            with contextlib.suppress(OSError):  # it has died since its last answer, as reading from it will tell
                rank.connection.send_bytes(request)
        return self._collect(seconds)

    def _collect(self, seconds: float) -> dict[int, Answer]:
        """Return the answers that come in time; there is less of it once a rank has failed."""
        answers: dict[int, Answer] = {}
        deadline = time.monotonic() + seconds
        while silent := [rank for rank in self._ranks if rank.seat.rank not in answers]:
            ready = wait([rank.connection for rank in silent], max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            new = {rank.seat.rank: _read(rank) for rank in silent if rank.connection in ready}
            answers |= new
            if any(answer.failure for answer in new.values()):
                deadline = min(deadline, time.monotonic() + GRACE_S)
        return answers

    def _all_returned(self, answers: dict[int, Answer]) -> bool:
        return len(answers) == self._size and not any(answer.failure for answer in answers.values())

    def _failed_alike(self, answers: dict[int, Answer]) -> bool:
        return len(answers) == self._size and len({answer.failure for answer in answers.values()}) == 1

    def _in_step(self) -> bool:
        return self._all_returned(self._exchange(pack(distributed.barrier, (), {}), GRACE_S))

    def _describe(self, what: str, answers: dict[int, Answer], seconds: float) -> str:
        """Return what became of each rank. Those that have not answered are ended, and tell where they were."""
        returned = [rank for rank in range(self._size) if rank in answers and not answers[rank].failure]
        failed = [rank for rank in range(self._size) if rank in answers and answers[rank].failure]
        silent = [rank for rank in range(self._size) if rank not in answers]
        parts = [f"{what} failed on {_listed(failed or silent)} of {self._size}"]
        parts += [f"rank {rank} {answers[rank].content}" for rank in failed]
        late = f"was still running {GRACE_S:g} s later" if failed else f"did not answer within {seconds:g} s"
        parts += [f"rank {rank} {late}{_end_and_ask_where(self._ranks[rank])}" for rank in silent]
        parts += [f"{_listed(returned)} returned"] if returned else []
        return "\n\n".join(part.rstrip() for part in parts)


def _pack(name: str, function: object, args: tuple[object, ...], kwargs: dict[str, object]) -> bytes:
    if not callable(function):
        msg = f"`RankPool.run(function=...)` must be callable, got {function!r}."
        raise TypeError(msg)
    try:
        return pack(function, args, kwargs)
    except Exception as error:
        msg = (
            f"`RankPool.run(function=...)` must be picklable, and its arguments too, got {name}: {error}. Define it at "
            "the top level of a module that the ranks can import."
        )
        raise TypeError(msg) from error


def _read(rank: _Rank) -> Answer:
    try:
        answer = pickle.loads(rank.connection.recv_bytes())  # noqa: S301 -- from our own child
    except (EOFError, OSError):  # the connection ends with the process
        rank.process.join(GRACE_S)
        code = rank.process.exitcode
        by = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        return Answer(f"died {by}", "died")
    return answer._replace(content=f"raised:\n{answer.content}") if answer.failure else answer


def _end_and_ask_where(rank: _Rank) -> str:
    if hasattr(signal, "SIGUSR1") and rank.process.is_alive() and rank.process.pid is not None:
        os.kill(rank.process.pid, signal.SIGUSR1)
        rank.process.join(GRACE_S)
    return f"\n{rank.seat.read_stack()}"


def _listed(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
