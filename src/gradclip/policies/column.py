"""Numbers on the host, as they arrived and by size.

Neither list is ever written: one more number makes new ones. They are kept in blocks, which old and new share but for
the one that changes, so that a number costs as much after a million others as after a thousand.
"""

import bisect
import math
from array import array
from itertools import chain
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from gradclip.numbers import fsum

BLOCK = 1024
"""The most numbers of a block; one that would have more is halved."""

Blocks: TypeAlias = "tuple[array[float], ...]"

_LAST = itemgetter(-1)


class Column(NamedTuple):
    """Numbers as they arrived, and the same by size."""

    arrived: Blocks
    ordered: Blocks
    count: int

    @staticmethod
    def of(numbers: list[float]) -> "Column":
        """Return a column of numbers in the order they arrived in."""
        return Column(_cut(array("d", numbers)), _cut(array("d", sorted(numbers))), len(numbers))

    def add(self, number: float, window: int | None) -> "Column":
        """Return the column with one more number, without the oldest where it would exceed the window."""
        if not math.isfinite(number):
            return self
        arrived, ordered, count = self
        if window is not None and count >= window:
            oldest, count = arrived[0][0], count - 1
            arrived = _with(arrived, 0, arrived[0][1:])
            place = bisect.bisect_left(ordered, oldest, key=_LAST)
            block = ordered[place][:]
            del block[bisect.bisect_left(block, oldest)]
            ordered = _with(ordered, place, block)
        last = len(arrived) - 1
        arrived = _with(arrived, last, arrived[last] + array("d", [number])) if arrived else (array("d", [number]),)
        place = min(bisect.bisect_left(ordered, number, key=_LAST), len(ordered) - 1)
        block = ordered[place][:] if ordered else array("d")
        bisect.insort(block, number)
        return Column(arrived, _with(ordered, max(place, 0), block), count + 1)

    def quantile(self, q: float) -> float:
        """Return the quantile, interpolated between the two nearest numbers; infinite where there is none."""
        if not self.count:
            return math.inf
        place = (self.count - 1) * q
        low = math.floor(place)
        lower, upper = self._by_size(low), self._by_size(min(low + 1, self.count - 1))
        return lower + (upper - lower) * (place - low)

    def _by_size(self, place: int) -> float:
        for block in self.ordered:
            if place < len(block):
                return block[place]
            place -= len(block)
        raise IndexError(place)

    def mean_and_deviation(self) -> tuple[float, float]:
        """Return mean and sample standard deviation; an infinite deviation for fewer than two numbers."""
        if self.count < 2:  # noqa: PLR2004
            return (self.arrived[0][0] if self.count else 0.0), math.inf
        numbers = self.tolist()
        mean = fsum(numbers) / self.count
        return mean, math.sqrt(fsum((x - mean) * (x - mean) for x in numbers) / (self.count - 1))

    def tolist(self) -> list[float]:
        """Return the numbers as they arrived."""
        return list(chain.from_iterable(self.arrived))


def _cut(numbers: "array[float]") -> Blocks:
    return tuple(numbers[i : i + BLOCK] for i in range(0, len(numbers), BLOCK))


def _with(blocks: Blocks, place: int, block: "array[float]") -> Blocks:
    """Return blocks with another in one place: with none where it is empty, and two where it is too long."""
    half = len(block) // 2
    new = (block[:half], block[half:]) if len(block) > BLOCK else (block,) if block else ()
    return (*blocks[:place], *new, *blocks[place + 1 :])
