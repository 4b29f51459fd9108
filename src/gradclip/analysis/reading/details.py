"""What a few rows say beyond numbers: the norms of parameters, the largest of them, and who was not finite."""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Generic, TypeVar, final

from gradclip.analysis.reading.error import plain
from gradclip.analysis.series import Worst

MOST_NORMS = 250_000
"""Norms of single parameters that are kept, of all steps together: some 25 MB."""

MOST_SHARES = 50_000
"""Shares that are kept: of three a line, those of more lines than any chart has points."""

MOST_COUNTS = 10_000
"""Rows whose counts of elements that are not finite are kept."""


Values = TypeVar("Values", dict[str, float], Worst)


@final
class Thinned(Generic[Values]):
    """Norms or shares of parameters on lines: of every k-th of these lines where they are too many.

    Args:
        most: How many are kept.

    Attributes:
        kept: The values by line.
        seen: How many lines had some.
        stride: Of how many lines one is kept.
    """

    def __init__(self, most: int) -> None:
        self.kept: dict[int, Values] = {}
        self.seen = 0
        self.stride = 1
        self._most = most
        self._size = 0

    def add(self, lines: Sequence[int], read: Callable[[int], Values]) -> None:
        """Take the values of lines; `read` returns those of one, where they are kept."""
        found = {line: read(line) for line in lines[-self.seen % self.stride :: self.stride]}
        self.seen += len(lines)
        self.kept |= {line: values for line, values in found.items() if values}
        self._size += sum(map(len, found.values()))
        while self._size > self._most and len(self.kept) > 1:
            self.kept = dict(list(self.kept.items())[::2])
            self.stride *= 2
            self._size = sum(map(len, self.kept.values()))


@final
class Details:
    """What has been found so far.

    Attributes:
        each: The norms by parameter.
        worst: The parameters with the largest norms, and their shares of the squared norm.
        nonfinite: By line, the counts of NaN and of infinite elements by parameter.
    """

    def __init__(self) -> None:
        self.each = Thinned[dict[str, float]](MOST_NORMS)
        self.worst = Thinned[Worst](MOST_SHARES)
        self.nonfinite: dict[int, dict[str, tuple[int, int]]] = {}

    def add(self, role: str, lines: Sequence[int], read: Callable[[int], Any]) -> None:
        """Take what lines say of parameters; `read` returns it of one, where it is kept."""
        if role == "each":
            self.each.add(lines, lambda line: _norms(read(line)))
        elif role == "worst":
            self.worst.add(lines, lambda line: _shares(read(line)))
        else:
            self.nonfinite |= {line: _counts(read(line)) for line in lines[: MOST_COUNTS - len(self.nonfinite)]}

    def remarks(self) -> list[str]:
        """Return what is missing of the norms."""
        if self.each.stride == 1:
            return []
        return [f"Of {self.each.seen} lines with norms of parameters, one in {self.each.stride} is kept."]


def _norms(given: Any) -> dict[str, float]:
    entries = given.items() if isinstance(given, dict) else ()
    return {_name(name): norm for name, value in entries if (norm := _norm(value)) is not None}


def _shares(given: Any) -> Worst:
    """Return names and shares; nothing where it is not the list of ours: others may call anything so."""
    found: list[tuple[str, float]] = []
    for entry in given if isinstance(given, list) else ():
        match entry:
            case [str(name), value] if (share := _norm(value)) is not None:
                found.append((_name(name), share))
            case _:
                return ()
    return tuple(found)


def _counts(given: Any) -> dict[str, tuple[int, int]]:
    entries = given.items() if isinstance(given, dict) else ()
    return {_name(name): pair for name, value in entries if (pair := _pair(value))}


@lru_cache(maxsize=4096)
def _name(name: str) -> str:
    return sys.intern(plain(name))  # one text for all lines, which name the same parameters


def _pair(given: Any) -> tuple[int, int] | None:
    match given:
        case [int(nans), int(infinities)]:
            return nans, infinities
    return None


def _norm(given: Any) -> float | None:
    """Return a norm; NaN for null, which is how a norm that is not finite is written; None for what is no norm."""
    if type(given) is float:  # as nearly all are
        return given
    if given is None:
        return math.nan
    with suppress(TypeError, ValueError, OverflowError):
        return None if isinstance(given, bool) else float(given)
    return None
