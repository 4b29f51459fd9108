"""Notice from the records of a run that clipping does something else than what it is there for."""

import math
from bisect import bisect_left, insort
from collections import deque
from typing import NamedTuple, TypeAlias, final

from gradclip.records.record import ClipRecord

WINDOW = 500
"""Steps that are looked at together."""

MOST = 0.5
"""The share of these that may be clipped."""

IDLE_STEPS = 5000
"""Steps without clipping after which the threshold is of no use."""

TINY, TINY_STEPS = 1e-4, 50
"""A coefficient that leaves next to nothing, and for how many steps it may."""

DOMINANT = 0.9
"""The share of the squared norm that a single parameter may have."""

WARM_UP, DRIFT = 100, 3.0
"""Steps whose norms say nothing about later ones, and the factor by which these may change."""


MEANINGS = {
    "mostly clipped": "More than half of the last 500 steps were clipped: the threshold sets how far most steps go. "
    "Raise it; under SGD, lower the learning rate as well.",
    "idle": "5000 steps with a threshold passed without clipping. That is not an error: the threshold still protects "
    "later steps. Lower it if it should act now.",
    "tiny coefficient": "50 steps in a row were scaled by less than 0.0001, so the model learned almost nothing from "
    "them. The threshold is far below the norms, or the run had exploded. Look at the loss and the initialization.",
    "one tensor dominates": "One tensor had more than 90 % of the squared norm, so a threshold on the total norm "
    "mostly follows this tensor. Give it its own threshold with `by_name`.",
    "drifting norm": "The median of the last 500 norms was more than three times that of the first 500 after warm-up, "
    "or less than a third of it. One threshold does not fit both ends of the run. Run `gradclip advise` on these "
    "records.",
}
"""What each alarm means, and what to do."""


@final
class Row(NamedTuple):
    """One clip of a recorded run, by the names that `ClipRecord` has for it; NaN is what is not known."""

    step: int
    status: str
    total_norm: float
    threshold: float
    coefficient: float
    worst: tuple[tuple[str, float], ...]


Clip: TypeAlias = ClipRecord | Row
"""What alarms look at."""


@final
class Alarms:
    """Finds what is wrong with a run while it is recorded.

    ==========================  =======================================================================================
    alarm                       while
    ==========================  =======================================================================================
    `"mostly clipped"`          more than half of the last 500 steps were clipped
    `"idle"`                    the last 5000 steps with a finite threshold went by without clipping
    `"tiny coefficient"`        the coefficients of the last 50 steps that happened are all below 1e-4
    `"one tensor dominates"`    one parameter had more than 90 % of the squared norm when this was last measured
    `"drifting norm"`           the median of the last 500 norms is more than 3 times that of the first 500 after a
                                warm-up of 100, or less than a third of it
    ==========================  =======================================================================================

    Norms that are NaN or infinite and steps that were skipped do not count, except that a skipped spike ends `"idle"`,
    as clipping does.

    Attributes:
        active: The active alarms, and the steps at which they began.

    Example:
        >>> from gradclip import ClipRecord
        >>> from gradclip.records import Alarms
        >>> alarms = Alarms()
        >>> crushed = [ClipRecord(i, 0.0, "clipped", 1e6, 1.0, 1.0, 1e-6, "FixedNorm()") for i in range(1, 501)]
        >>> [(record.step, begun) for record in crushed if (begun := alarms.feed(record))]
        [(50, ('tiny coefficient',)), (500, ('mostly clipped',))]
    """

    def __init__(self) -> None:
        self.active: dict[str, int] = {}
        self._checks = (
            ("mostly clipped", _MostlyClipped().holds),
            ("idle", _Idle().holds),
            ("tiny coefficient", _TinyCoefficient().holds),
            ("one tensor dominates", _Dominated().holds),
            ("drifting norm", _Drifting().holds),
        )

    def feed(self, record: Clip) -> tuple[str, ...]:
        """Take the next record of a run.

        Returns:
            The alarms that begin with it. One that has ended may begin again.
        """
        active = [name for name, holds in self._checks if holds(record)]
        if active == [*self.active]:  # as on nearly all steps
            return ()
        begun = tuple(name for name in active if name not in self.active)
        self.active = {name: self.active.get(name, record.step) for name in active}
        return begun


class _MostlyClipped:
    def __init__(self) -> None:
        self._last: deque[bool] = deque(maxlen=WINDOW)
        self._count = 0

    def holds(self, record: Clip) -> bool:
        clipped = record.status == "clipped"
        self._count += clipped - (len(self._last) == WINDOW and self._last[0])
        self._last.append(clipped)
        return self._count > MOST * WINDOW and len(self._last) == WINDOW


class _Idle:
    def __init__(self) -> None:
        self._count = 0

    def holds(self, record: Clip) -> bool:
        if record.status in {"clipped", "skipped_spike"}:
            self._count = 0
        elif record.status == "ok" and record.threshold is not None and math.isfinite(record.threshold):
            self._count += 1
        return self._count >= IDLE_STEPS


class _TinyCoefficient:
    def __init__(self) -> None:
        self._count = 0

    def holds(self, record: Clip) -> bool:
        if not record.status.startswith("skipped"):
            self._count = self._count + 1 if record.coefficient < TINY else 0
        return self._count >= TINY_STEPS


class _Dominated:
    def __init__(self) -> None:
        self._holds = False

    def holds(self, record: Clip) -> bool:
        if record.worst and not math.isnan(share := record.worst[0][1]):
            self._holds = share > DOMINANT
        return self._holds


class _Drifting:
    def __init__(self) -> None:
        self._seen = 0
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._ordered: list[float] = []
        self._before = math.nan
        self._holds = False

    def holds(self, record: Clip) -> bool:
        norm = record.total_norm
        if not math.isfinite(norm):
            return self._holds
        if len(self._last) == WINDOW:
            del self._ordered[bisect_left(self._ordered, self._last[0])]
        self._last.append(norm)
        insort(self._ordered, norm)
        self._seen += 1
        if self._seen >= WARM_UP + WINDOW:
            low, high = self._ordered[(WINDOW - 1) // 2], self._ordered[WINDOW // 2]
            median = low + (high - low) / 2.0
            if self._seen == WARM_UP + WINDOW:
                self._before = median
            self._holds = median > DRIFT * self._before or DRIFT * median < self._before
        return self._holds
