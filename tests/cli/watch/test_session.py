"""What is known of a run that is watched: its alarms, its worst parameters, its speed."""

import math
from pathlib import Path

import pytest

from gradclip import ClipRecord
from gradclip.cli.watch.session import Session
from gradclip.cli.watch.view import line, plain
from gradclip.records.line import line_of
from records.made import record


class Written:
    """A session, and the file that it watches."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run.jsonl"
        self.session = Session(self.path)

    def add(self, *records: ClipRecord) -> Session:
        with self.path.open("ab") as file:
            file.write(b"".join(map(line_of, records)))
        self.session.look()
        return self.session


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(tmp_path)


def tiny(step: int) -> ClipRecord:
    return record(step, total_norm_after=4e-6, coefficient=1e-6)


def test_alarms_come_and_go_with_the_steps_at_which_they_began(written: Written) -> None:
    assert written.add(*map(tiny, range(1, 51))).alarms == {"tiny coefficient": 50}
    assert written.add(*map(tiny, range(51, 501))).alarms == {"mostly clipped": 500, "tiny coefficient": 50}
    assert written.add(record(501)).alarms == {"mostly clipped": 500}
    assert written.add(record(400)).alarms == {}


def test_one_tensor_that_dominates_is_told_from_the_worst(written: Written) -> None:
    assert written.add(record(1, worst=(("a", 0.95), ("b", 0.05)))).alarms == {"one tensor dominates": 1}
    session = written.add(record(2, worst=(("a", 0.5), ("b", math.nan))))
    assert session.alarms == {}
    run = session.run
    assert run is not None and run.worst[-1][0] == 2
    assert "worst      a 50 %, b not finite of the squared norm at step 2" in plain(session, "utf-8")
    later = written.add(record(3)).run
    assert later is not None and later.worst == run.worst


def test_rates_are_those_of_the_last_500_steps_and_of_all(written: Written) -> None:
    statuses = {10: "skipped_spike", 1990: "skipped_spike"}
    steps = range(1, 2001)
    records = [record(step, status=statuses.get(step, "clipped" if step > 1900 else "ok")) for step in steps]
    written.add(*records[:1950])
    assert "clipped 20 % of the last 500, 5.0 % of 2,000, skipped 2, " in line(written.add(*records[1950:]))


def test_the_speed_is_that_of_the_last_100_steps_whatever_was_between_two_processes(written: Written) -> None:
    slow = [record(step, time=1.7e9 + step) for step in range(1, 101)]
    assert ", 1 step/s, " in line(written.add(*slow))
    fast = [record(step, time=1.8e9 + step / 4) for step in range(101, 202)]
    assert ", 4 steps/s, " in line(written.add(*fast))
    still = [record(step, time=1.9e9) for step in range(202, 303)]
    assert "/s" not in line(written.add(*still)).replace("steps, ", "")
