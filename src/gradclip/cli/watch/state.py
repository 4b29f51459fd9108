"""What is known of a run at the moment, from its records one by one."""

import math
from collections import deque
from typing import NamedTuple, final

from gradclip.cli.watch.history import CLIPPED, NONFINITE, SKIPPED, UNKNOWN, History
from gradclip.cli.watch.lines import UNKNOWN as NO_STATUS
from gradclip.records import Alarms, ClipRecord
from gradclip.records.alarms import WINDOW

PACE = 100
"""Steps whose times say how fast the run is."""

EVENTS = 3
"""Steps skipped or not finite that are named: the last ones."""


@final
class Rates(NamedTuple):
    """How the steps of a stretch ended; a share is None where nothing is known of it."""

    steps: int
    clipped: float | None
    skipped: int
    nonfinite: int


@final
class State:
    """A run so far. Its size depends on the number of steps alone, a byte each.

    A record of a step that was there already, as where a run is resumed from a checkpoint, replaces all from that step
    on. Alarms then begin anew, as they do in the process that was resumed.

    Attributes:
        last: The last record.
        norms: The norms of the last 500 steps.
        worst: The last record that says which parameters have the largest norms.
        events: The last steps that were skipped, or whose norm is not finite.
        alarms: The alarms that are on, and the steps at which they began.
        returns: How many times the run went back.
    """

    def __init__(self) -> None:
        self.last: ClipRecord | None = None
        self.worst: ClipRecord | None = None
        self.events: deque[ClipRecord] = deque(maxlen=EVENTS)
        self.alarms: dict[str, int] = {}
        self.returns = 0
        self._recent: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self._pace: deque[tuple[int, float]] = deque(maxlen=PACE)
        self._history = History()
        self._watch = Alarms()

    @property
    def norms(self) -> list[float]:
        """The norms of the last 500 steps."""
        return [norm for _, norm in self._recent]

    def add(self, record: ClipRecord) -> None:
        """Take the next record."""
        if self.last is not None and record.step <= self.last.step:
            self._go_back(record.step)
        self.last = record
        is_finite = math.isfinite(record.total_norm)
        code = 0 if is_finite else NONFINITE
        if record.status == NO_STATUS:
            code |= UNKNOWN
        elif record.clipped or record.skipped:
            code |= CLIPPED if record.clipped else SKIPPED
        self._history.add(record.step, code)
        self._recent.append((record.step, record.total_norm))
        if math.isfinite(record.time):
            self._pace.append((record.step, record.time))
        if record.worst:
            self.worst = record
        if record.skipped or not is_finite:
            self.events.append(record)
        begun = self._watch.feed(record)
        if begun or len(self._watch.active) != len(self.alarms):
            self.alarms = {name: self.alarms.get(name, record.step) for name in self._watch.active}

    def all(self) -> Rates:
        """Return how the steps ended."""
        return _rates(self._history)

    def recent(self) -> Rates:
        """Return how the last 500 steps ended."""
        return _rates(self._history.recent(WINDOW))

    def steps_per_second(self) -> float | None:
        """Return how fast the last 100 steps were; None where their times do not tell."""
        if len(self._pace) < 2:  # noqa: PLR2004
            return None
        (first, start), (last, end) = self._pace[0], self._pace[-1]
        return (last - first) / (end - start) if end > start else None

    def _go_back(self, step: int) -> None:
        self.returns += 1
        self._history.go_back(step)
        self._pace.clear()  # the time in between is none of training
        while self._recent and self._recent[-1][0] >= step:
            self._recent.pop()
        while self.events and self.events[-1].step >= step:
            self.events.pop()
        if self.worst is not None and self.worst.step >= step:
            self.worst = None
        self._watch = Alarms()
        self.alarms.clear()


def _rates(history: History) -> Rates:
    known = len(history) - history.count(UNKNOWN)
    clipped = history.count(CLIPPED) / known if known else None
    return Rates(len(history), clipped, history.count(SKIPPED), history.count(NONFINITE))
