"""Alarms against their definitions, taken literally over the whole run at every step."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradclip import ClipRecord, GradClipper
from gradclip.records import Alarms, Memory
from records.made import record


def clipped_mostly(run: Sequence[ClipRecord]) -> bool:
    last = run[-500:]
    return len(last) == 500 and sum(x.status == "clipped" for x in last) > 250


def idle(run: Sequence[ClipRecord]) -> bool:
    acted = [i for i, x in enumerate(run) if x.status in {"clipped", "skipped_spike"}]
    since = run[acted[-1] + 1 :] if acted else run
    return sum(x.status == "ok" and x.threshold not in {None, math.inf} for x in since) >= 5000


def tiny(run: Sequence[ClipRecord]) -> bool:
    happened = [x for x in run if not x.status.startswith("skipped")][-50:]
    return len(happened) == 50 and all(x.coefficient < 1e-4 for x in happened)


def dominated(run: Sequence[ClipRecord]) -> bool:
    known = [x.worst[0][1] for x in run if x.worst and not math.isnan(x.worst[0][1])]
    return bool(known) and known[-1] > 0.9


def drifting(run: Sequence[ClipRecord]) -> bool:
    norms = [x.total_norm for x in run if math.isfinite(x.total_norm)]
    if len(norms) < 600:
        return False
    first, last = statistics.median(norms[100:600]), statistics.median(norms[-500:])
    return last > 3 * first or last < first / 3


DEFINITIONS = {
    "mostly clipped": clipped_mostly,
    "idle": idle,
    "tiny coefficient": tiny,
    "one tensor dominates": dominated,
    "drifting norm": drifting,
}


def expected(run: Sequence[ClipRecord], every: int) -> dict[int, tuple[str, ...]]:
    """The alarms that are on, at every so many steps."""
    steps = range(every, len(run) + 1, every)
    return {i: tuple(name for name, holds in DEFINITIONS.items() if holds(run[:i])) for i in steps}


STATUSES = ("ok", "clipped", "skipped_nonfinite", "skipped_spike", "skipped_scaler")
KINDS = st.fixed_dictionaries(
    {
        "status": st.sampled_from(STATUSES),
        "total_norm": st.sampled_from([0.0, 3.0, 4.0, 9.0, 10.0, 13.0, 30.0, math.nan, math.inf]),
        "threshold": st.sampled_from([1.0, None, math.inf]),
        "coefficient": st.sampled_from([1.0, 1e-4, 5e-5, math.nan]),
        "worst": st.sampled_from([(), (("a", 0.9),), (("a", 0.95), ("b", 0.05)), (("a", math.nan),)]),
    }
)
STRETCHES = st.lists(st.tuples(st.lists(KINDS, min_size=1, max_size=3), st.integers(1, 400)), min_size=1, max_size=8)
"""A few kinds of steps that take turns, so many times: runs are long, and what they are made of is short."""


def run_of(stretches: list[tuple[list[dict[str, Any]], int]]) -> list[ClipRecord]:
    kinds = [kind for some, times in stretches for kind in some * times]
    return [record(i, **kind) for i, kind in enumerate(kinds, 1)]


@given(stretches=STRETCHES, every=st.integers(40, 200))
@settings(max_examples=100)
def test_alarms_are_as_defined(stretches: list[tuple[list[dict[str, Any]], int]], every: int) -> None:
    """At any moment those are on whose condition holds, over everything until then."""
    run, alarms = run_of(stretches), Alarms()
    wanted = expected(run, every)
    for i, each in enumerate(run, 1):
        before = list(alarms.active)
        begun = alarms.feed(each)
        assert begun == tuple(name for name in alarms.active if name not in before)
        assert i not in wanted or tuple(alarms.active) == wanted[i]


@pytest.mark.parametrize("before", [0, 700])
def test_the_step_at_which_idleness_begins(before: int) -> None:
    """The 5000th without clipping, whatever was skipped in between; and it ends with the next clip."""
    run = [record(status="clipped")] * before
    run += ([record(status="ok")] * 999 + [record(status="skipped_nonfinite", threshold=None)]) * 6
    alarms = Alarms()
    begun = [i for i, each in enumerate(run, 1) if "idle" in alarms.feed(each)]
    assert begun == [before + 5005]
    alarms.feed(record(status="clipped"))
    assert "idle" not in alarms.active


def test_an_alarm_begins_once_and_may_begin_again() -> None:
    """After it has ended."""
    alarms = Alarms()
    tiny_run = [record(i, coefficient=1e-6) for i in range(60)]
    found = [alarms.feed(x) for x in [*tiny_run, record(coefficient=0.5), *tiny_run]]
    assert [i for i, begun in enumerate(found, 1) if begun == ("tiny coefficient",)] == [50, 61 + 50]
    assert sum(map(len, found)) == 2


def test_the_drift_of_a_run() -> None:
    """Noise is none; three and a half times as large is, as soon as half of the last 500 are."""
    alarms = Alarms()
    run = [record(total_norm=1.0 + (i % 10) / 100, status="ok", threshold=None) for i in range(2000)]
    assert all(alarms.feed(x) == () for x in run)
    risen = [alarms.feed(record(total_norm=3.5, status="ok", threshold=None)) for _ in range(600)]
    assert [i for i, begun in enumerate(risen, 1) if begun] == [250 + 1]
    assert risen[250] == ("drifting norm",)


def test_alarms_are_in_the_records_of_a_clipper() -> None:
    """At the step where they begin."""
    import torch
    from torch import nn

    p, memory = nn.Parameter(torch.zeros(2)), Memory()
    p.grad = torch.ones(2)
    clipper = GradClipper([p], sinks=[memory])
    for _ in range(520):
        p.grad = torch.full((2,), 1e6)
        clipper.clip()
    assert {x.step: x.alarms for x in memory.records if x.alarms} == {
        50: ("tiny coefficient",),
        500: ("mostly clipped",),
    }


def test_memory_is_bounded() -> None:
    """A long run leaves no more behind than a short one."""
    import pickle

    alarms, sizes = Alarms(), []
    for i in range(6000):
        alarms.feed(record(i, total_norm=1.0 + i % 13, status="ok" if i % 3 else "clipped"))
        if i in {1000, 5999}:
            sizes.append(len(pickle.dumps(alarms)))
    assert sizes[1] <= sizes[0] + 20
