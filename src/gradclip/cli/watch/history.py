"""How each step of a run ended, in a byte a step: a run may go back, and then some no longer count."""

from typing import final

CLIPPED, SKIPPED, NONFINITE, UNKNOWN = 1, 2, 4, 8
"""Bits of what is known of a step. `UNKNOWN`: whether it was clipped or skipped is not recorded."""


@final
class _Stretch:
    """Steps that are equally far apart."""

    __slots__ = ("codes", "first", "stride")

    def __init__(self, first: int, code: int) -> None:
        self.first = first
        self.stride = 0
        self.codes = bytearray([code])

    def add(self, step: int, code: int) -> bool:
        """Add a step where it goes on with these, and say whether it does."""
        if len(self.codes) == 1:
            self.stride = step - self.first
        elif step != self.first + self.stride * len(self.codes):
            return False
        self.codes.append(code)
        return True


@final
class History:
    """The steps so far, in the order of their numbers, which rise.

    Example:
        >>> from gradclip.cli.watch.history import CLIPPED, SKIPPED, History
        >>> history = History()
        >>> for step in range(1, 101):
        ...     history.add(step, CLIPPED if step > 90 else 0)
        >>> len(history), history.count(CLIPPED), history.recent(20).count(CLIPPED)
        (100, 10, 10)
        >>> history.go_back(96)
        >>> len(history), history.count(CLIPPED)
        (95, 5)
    """

    def __init__(self) -> None:
        self._stretches: list[_Stretch] = []
        self._counts = [0] * (2 * UNKNOWN)

    def add(self, step: int, code: int) -> None:
        """Add a step that is later than all others."""
        if not (self._stretches and self._stretches[-1].add(step, code)):
            self._stretches.append(_Stretch(step, code))
        self._counts[code] += 1

    def go_back(self, step: int) -> None:
        """Forget this step and all later ones."""
        while self._stretches:
            last = self._stretches[-1]
            kept = 0 if last.first >= step else -(-(step - last.first) // last.stride) if last.stride else 1
            for code in range(len(self._counts)):
                self._counts[code] -= last.codes.count(code, kept)
            del last.codes[kept:]
            if last.codes:
                return
            self._stretches.pop()

    def count(self, bits: int) -> int:
        """Return how many steps have any of some bits."""
        return sum(count for code, count in enumerate(self._counts) if code & bits)

    def recent(self, most: int) -> "History":
        """Return the last steps alone, numbered from 1."""
        codes = bytearray()
        for stretch in reversed(self._stretches):
            codes = stretch.codes[-(most - len(codes)) :] + codes
            if len(codes) == most:
                break
        found = History()
        for step, code in enumerate(codes, 1):
            found.add(step, code)
        return found

    def __len__(self) -> int:
        return sum(self._counts)
