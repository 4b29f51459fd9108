"""A pool of ranks: what it returns, what it says when ranks fail, and that it works afterwards."""

import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

import rank_functions
from gradclip.exceptions import GradClipError
from gradclip.testing import RankError, RankPool
from gradclip.testing.ranks import GRACE_S
from processes import forks

WRONG = [
    ({"size": 0}, ValueError, "`RankPool(size=...)` must be an integer and >= 1, got 0."),
    ({"size": 1.5}, ValueError, "`RankPool(size=...)` must be an integer and >= 1, got 1.5."),
    ({"size": "2"}, TypeError, "`RankPool(size=...)` must be a number, got '2' (str)."),
    ({"size": True}, TypeError, "`RankPool(size=...)` must be a number, got True (bool)."),
    ({"timeout": 0.0}, ValueError, "`RankPool(timeout=...)` must be finite and > 0, got 0.0."),
    ({"timeout": -1}, ValueError, "`RankPool(timeout=...)` must be finite and > 0, got -1."),
    ({"timeout": math.nan}, ValueError, "`RankPool(timeout=...)` must be finite and > 0, got nan."),
    ({"timeout": math.inf}, ValueError, "`RankPool(timeout=...)` must be finite and > 0, got inf."),
    ({"timeout": None}, TypeError, "`RankPool(timeout=...)` must be a number, got None (NoneType)."),
    ({"threads": 0}, ValueError, "`RankPool(threads=...)` must be an integer and >= 1, got 0."),
]


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankPool]:
    """Two ranks, as forks: how a pool starts without that, `test_no_rank_outlives_its_parent` sees."""
    with forks(), RankPool(2) as pool:
        yield pool


def surroundings() -> tuple[Any, ...]:
    variables = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    interrupt = signal.getsignal(signal.SIGINT)
    return variables, Path.cwd(), torch.get_num_threads(), interrupt, distributed.is_initialized(), warnings.filters[:]


@pytest.fixture(autouse=True)
def _nothing_else_changes() -> Iterator[None]:
    """Ranks start, fail and end without a trace in the process that uses them."""
    before = surroundings()
    yield
    assert surroundings() == before


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended, and of which only the exit code is left, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z " not in stat.read_text()


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


# What comes back.


def test_results_in_order_of_rank(ranks: RankPool) -> None:
    """One from each, whatever the functions are given."""
    assert ranks.size == 2
    assert ranks.run(rank_functions.rank) == [0, 1]
    assert ranks.run(rank_functions.total, [1.0, 2.0]) == [3.0, 3.0]
    assert ranks.run(rank_functions.total, of=[1.0, 2.0], factor=10.0) == [30.0, 30.0]
    assert ranks.run(rank_functions.surroundings) == [(1, 2, "gloo")] * 2


def test_tensors_in_results_and_arguments(ranks: RankPool) -> None:
    """They are copies that outlive the process they come from, however deep they lie."""
    x = torch.arange(6.0).reshape(2, 3)
    results = ranks.run(rank_functions.nested, x)
    for number, result in enumerate(results):
        own = x + number
        whole, (part, turned) = result["views"]
        assert same(whole, own) and same(part, own[1:]) and same(turned, own.T)
        assert same(result["parameter"], own) and isinstance(result["parameter"], torch.nn.Parameter)
        assert same(result["half"], own.to(torch.bfloat16)) and result["none"] is None
        assert same(result["sparse"].to_dense(), own)
    results[0]["views"][0].zero_()
    assert same(ranks.run(rank_functions.nested, x)[0]["views"][0], x)


def test_processes_are_kept_between_calls(ranks: RankPool) -> None:
    """So that only the first call waits for them to start, and none is this process."""
    first = ranks.run(rank_functions.process)
    assert ranks.run(rank_functions.process) == first and len({*first, os.getpid()}) == 3


# Warnings.


def test_warnings_are_treated_as_where_they_are_called(ranks: RankPool) -> None:
    """An error here is an error there; what is ignored here is ignored there."""
    with pytest.raises(RankError, match=r"(?s)rank 0 raised:.*UserWarning: beware.*rank 1 raised:"):
        ranks.run(rank_functions.warn)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="bew", category=UserWarning, module="rank_")
        assert ranks.run(rank_functions.warn) == ["warned"] * 2
        warnings.filterwarnings("error", module="rank_functions")
        with pytest.raises(RankError, match="UserWarning: beware"):
            ranks.run(rank_functions.warn)
        warnings.simplefilter("ignore")
        assert ranks.run(rank_functions.warn) == ["warned"] * 2


# Failures that all ranks share leave the pool as it is.


def test_the_traceback_of_every_rank(ranks: RankPool) -> None:
    """Each under its number, down to the line that raised; the ranks are not started anew."""
    before = ranks.run(rank_functions.process)
    with pytest.raises(RankError, match="`fail` failed on ranks 0, 1 of 2") as caught:
        ranks.run(rank_functions.fail, "nothing at")
    head, first, second = str(caught.value).split("\n\n")
    for number, part in enumerate((first, second)):
        assert part.startswith(f"rank {number} raised:\nTraceback (most recent call last):\n")
        assert part.endswith(f"LookupError: nothing at {number}")
        assert 'rank_functions.py", line' in part and "raise LookupError(msg)" in part
    assert "returned" not in head and isinstance(caught.value, GradClipError)
    assert ranks.run(rank_functions.process) == before


def test_a_rank_that_exits_has_failed(ranks: RankPool) -> None:
    """No result is no success, and the process goes on."""
    before = ranks.run(rank_functions.process)
    with pytest.raises(RankError, match=r"(?s)rank 0 raised:.*SystemExit: 0.*rank 1 raised:"):
        ranks.run(rank_functions.leave)
    assert ranks.run(rank_functions.process) == before


def test_what_cannot_be_sent(ranks: RankPool) -> None:
    """It is refused before a rank hears of it, or reported by the ranks that cannot send it back."""
    before = ranks.run(rank_functions.process)
    with pytest.raises(TypeError, match=r"`RankPool.run\(function=...\)` must be callable, got 3\."):
        ranks.run(3)
    with pytest.raises(TypeError, match=r"must be picklable, and its arguments too, got .*<lambda>: .* top level"):
        ranks.run(lambda: 0)
    with pytest.raises(TypeError, match=r"must be picklable, and its arguments too, got total: "):
        ranks.run(rank_functions.total, iter(lambda: 0.0, 1.0))
    with pytest.raises(RankError, match=r"(?s)rank 0 raised:.*pickle.*rank 1 raised:"):
        ranks.run(memoryview, b"a buffer has no pickle")
    assert ranks.run(rank_functions.process) == before


# Failures that may leave ranks out of step make the next call start new ones.


def test_one_rank_raises_while_another_waits_for_it(ranks: RankPool) -> None:
    """It is told soon, with where the other waits, and the next call works."""
    before = ranks.run(rank_functions.process)
    start = time.monotonic()
    with pytest.raises(RankError, match="`fail_before_barrier` failed on rank 1 of 2") as caught:
        ranks.run(rank_functions.fail_before_barrier, 1)
    assert time.monotonic() - start < 30.0  # of 60 seconds that it had
    _, raised, waiting = str(caught.value).split("\n\n")
    assert raised.startswith("rank 1 raised:\n") and raised.endswith("LookupError: not today")
    assert waiting.startswith(f"rank 0 was still running {GRACE_S:g} s later\nStack (most recent call first):\n")
    assert "in barrier\n" in waiting and "in fail_before_barrier\n" in waiting
    after = ranks.run(rank_functions.process)
    assert not set(before) & set(after) and not any(map(is_running, before))
    assert ranks.run(rank_functions.total, [1.0, 2.0]) == [3.0, 3.0]


def test_a_dead_rank_is_reported_by_number_and_exit_code(ranks: RankPool) -> None:
    """At once, with the ranks that returned."""
    start = time.monotonic()
    with pytest.raises(RankError) as caught:
        ranks.run(rank_functions.die, 0)
    assert time.monotonic() - start < 30.0
    assert str(caught.value) == "`die` failed on rank 0 of 2\n\nrank 0 died with exit code 3\n\nrank 1 returned"
    assert ranks.run(rank_functions.total, [1.0, 2.0]) == [3.0, 3.0]


def test_a_rank_that_died_between_two_calls(ranks: RankPool) -> None:
    """It is found by the next one."""
    pids = ranks.run(rank_functions.process)
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(RankError, match=r"`rank` failed on rank 1 of 2\n\nrank 1 died by SIGKILL\n\nrank 0 returned$"):
        ranks.run(rank_functions.rank)


def test_a_rank_that_hangs_is_named_with_its_stack() -> None:
    """After the time-out of the pool; it does not go on in the background."""
    with RankPool(2, timeout=1.0, threads=2) as pool:
        assert pool.run(rank_functions.surroundings) == [(2, 2, "gloo")] * 2
        pids = pool.run(rank_functions.process)
        with pytest.raises(RankError, match="`hang` failed on rank 1 of 2") as caught:
            pool.run(rank_functions.hang, 1)
    _, hanging, returned = str(caught.value).split("\n\n")
    assert hanging.startswith("rank 1 did not answer within 1 s\nStack (most recent call first):\n")
    assert "in hang\n" in hanging and "multiprocessing" not in hanging and returned == "rank 0 returned"
    assert not any(map(is_running, pids))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (rank_functions.fail_after_barrier, r"failed on rank 1 of 2.*rank 1 raised:.*not today\n\nrank 0 returned$"),
        (rank_functions.leave_the_group, r"rank 0 raised:.*LookupError\n\nrank 1 raised:.*LookupError$"),
    ],
    ids=["only one failed", "alike but without a group"],
)
def test_ranks_that_may_be_out_of_step_are_replaced(
    ranks: RankPool, function: Callable[[], None], message: str
) -> None:
    """The next call works, on new processes."""
    before = ranks.run(rank_functions.process)
    with pytest.raises(RankError, match=f"(?s){message}"):
        ranks.run(function)
    assert not any(map(is_running, before))
    assert ranks.run(rank_functions.total, [1.0, 2.0]) == [3.0, 3.0]


# The life of a pool.


def test_an_interrupted_call_ends_the_ranks(ranks: RankPool) -> None:
    """Their late answers must not be taken for those to the next call."""
    pids = ranks.run(rank_functions.process)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        ranks.run(rank_functions.hang, 0)
    signal.signal(signal.SIGINT, before)
    assert not any(map(is_running, pids))


def test_no_rank_outlives_its_parent(tmp_path: Path) -> None:
    """Not even one that hangs, when the parent is killed; nor does a file."""
    script = """
import os, rank_functions, signal, threading
from gradclip.testing import RankPool
pool = RankPool(1)
print(*pool.run(rank_functions.process), flush=True)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
pool.run(rank_functions.hang, 0)
"""
    output, temporary = tmp_path / "output", tmp_path / "temporary"
    temporary.mkdir()
    places = {"PYTHONPATH": str(Path(rank_functions.__file__).parent), "TMPDIR": str(temporary)}
    with output.open("w") as out:  # a pipe would be open for as long as the rank runs
        parent = subprocess.run([sys.executable, "-c", script], env=os.environ | places, stdout=out, check=False)
    assert parent.returncode == -signal.SIGKILL
    pid, deadline = int(output.read_text()), time.monotonic() + 30.0
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid) and not list(temporary.iterdir())


def test_a_closed_pool() -> None:
    """It may be closed again, also if it never started, and runs nothing."""
    pool = RankPool(2)
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match=r"`RankPool.run` must be called before `close`, got a closed pool\."):
        pool.run(rank_functions.rank)


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    """They are refused before a process starts."""
    with pytest.raises(error, match=re.escape(message) + "$"):
        RankPool(**{"size": 2, **arguments})
