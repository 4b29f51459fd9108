"""What is known of a run at the moment: rates, alarms, speed, and what a resumed run replaces."""

import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradclip.cli.watch.history import CLIPPED, NONFINITE, SKIPPED, UNKNOWN, History
from gradclip.cli.watch.state import State
from records.made import record

CODES = st.sampled_from([0, CLIPPED, SKIPPED, SKIPPED | NONFINITE, UNKNOWN, UNKNOWN | NONFINITE])


@given(st.lists(st.tuples(st.integers(0, 60), CODES), max_size=80), st.integers(1, 30))
def test_history_counts_as_a_list_of_all_steps_does(added: list[tuple[int, int]], most: int) -> None:
    history, plain = History(), list[tuple[int, int]]()
    for step, code in added:
        history.go_back(step)
        plain = [(earlier, known) for earlier, known in plain if earlier < step]
        history.add(step, code)
        plain.append((step, code))
    for bit in (CLIPPED, SKIPPED, NONFINITE, UNKNOWN):
        assert history.count(bit) == sum(code & bit > 0 for _, code in plain)
        assert history.recent(most).count(bit) == sum(code & bit > 0 for _, code in plain[-most:])
    assert len(history) == len(plain)
    assert len(history.recent(most)) == min(most, len(plain))


@pytest.mark.parametrize("stride", [1, 50])
def test_history_takes_about_a_byte_a_step(stride: int) -> None:
    history = History()
    tracemalloc.start()
    try:
        for step in range(0, 200_000 * stride, stride):
            history.add(step, CLIPPED)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size < 300_000
    assert history.count(CLIPPED) == 200_000


def test_rates_of_the_last_500_steps_and_of_all() -> None:
    state = State()
    for step in range(1, 2001):
        status = "clipped" if step > 1900 else "skipped_spike" if step in (10, 1990) else "ok"
        state.add(record(step, status="skipped_spike" if step == 1990 else status))
    assert state.all() == (2000, 99 / 2000, 2, 0)
    assert state.recent() == (500, 99 / 500, 1, 0)
    assert len(state.norms) == 500


def test_a_norm_that_is_not_finite_is_an_event() -> None:
    state = State()
    state.add(record(1))
    state.add(record(2, status="skipped_nonfinite", total_norm=math.nan, nonfinite={"w": (1, 2)}))
    state.add(record(3, status="ok", total_norm=math.inf))
    for step in range(4, 10):
        state.add(record(step))
    assert state.all() == (9, 7 / 9, 1, 2)
    assert [event.step for event in state.events] == [2, 3]
    assert state.events[0].nonfinite == {"w": (1, 2)}


def test_rates_are_not_known_without_statuses() -> None:
    state = State()
    for step in range(1, 4):
        state.add(record(step, status=""))
    assert state.all().clipped is None
    state.add(record(4, status="clipped"))
    assert state.all().clipped == 1.0  # of the steps of which it is known


def test_a_resumed_run_replaces_the_steps_from_there_on() -> None:
    state = State()
    for step in range(1, 101):
        state.add(record(step, total_norm=float(step), worst=(("a", 0.5),) if step == 90 else ()))
    state.add(record(95, status="skipped_spike"))
    assert [event.step for event in state.events] == [95]
    state.add(record(81, status="ok", total_norm=0.5))
    assert state.returns == 2
    assert state.all() == (81, 80 / 81, 0, 0)
    assert state.norms == [*map(float, range(1, 81)), 0.5]
    assert state.worst is None and not state.events
    assert state.last is not None and state.last.step == 81


def test_steps_per_second_are_those_of_the_last_100_steps_since_it_was_resumed() -> None:
    state = State()
    assert state.steps_per_second() is None
    for step in range(1, 201):
        state.add(record(step, time=float(step) if step <= 100 else 100.0 + (step - 100) / 4.0))
    assert state.steps_per_second() == pytest.approx(4.0)
    state.add(record(150, time=1e6))
    assert state.steps_per_second() is None
    state.add(record(151, time=1e6 + 0.5))
    assert state.steps_per_second() == pytest.approx(2.0)


@pytest.mark.parametrize("times", [(5.0, 5.0), (6.0, 5.0), (math.nan, 5.0)])
def test_times_that_do_not_rise_are_no_speed(times: tuple[float, float]) -> None:
    state = State()
    for step, time in enumerate(times):
        state.add(record(step, time=time))
    assert state.steps_per_second() is None


def test_alarms_come_and_go_with_the_steps_at_which_they_began() -> None:
    state = State()
    for step in range(1, 51):
        state.add(record(step, coefficient=1e-6))
    assert state.alarms == {"tiny coefficient": 50}
    for step in range(51, 501):
        state.add(record(step, coefficient=1e-6))
    assert state.alarms == {"mostly clipped": 500, "tiny coefficient": 50}
    state.add(record(501, coefficient=0.5))
    assert state.alarms == {"mostly clipped": 500}
    state.add(record(400))
    assert state.alarms == {}
