"""What a few rows say beyond numbers: the norms of parameters, the largest of them, and who was not finite."""

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar, final

from gradclip.analysis.reading.error import plain
from gradclip.analysis.series import Worst

MOST_NORMS = 250_000
"""Norms of single parameters that are kept, of all steps together: some 25 MB."""

MOST_SHARES = 50_000
"""Shares that are kept: of three a line, those of more lines than any chart has points."""

MOST_COUNTS = 250_000
"""Counts of elements that are not finite that are kept."""


Values = TypeVar("Values", dict[str, float], dict[str, tuple[int, int]], Worst)


@final
class Thinned(Generic[Values]):
    """What lines say of parameters: every k-th of these lines where they are too many.

    Args:
        most: How many values are kept.
        parse: Returns the values in what JSON has there.

    Attributes:
        kept: The values by line.
        seen: How many lines had some.
        stride: Of how many lines one is kept.
    """

    def __init__(self, most: int, parse: Callable[[Any], Values]) -> None:
        self.kept: dict[int, Values] = {}
        self.seen = 0
        self.stride = 1
        self._most = most
        self._parse = parse
        self._size = 0

    def add(self, lines: Sequence[int], read: Callable[[int], Any]) -> None:
        """Take what lines say; `read` returns it of one, where it is kept."""
        found = {line: self._parse(read(line)) for line in lines[-self.seen % self.stride :: self.stride]}
        self.seen += len(lines)
        self.kept |= {line: values for line, values in found.items() if values}
        self._size += sum(map(len, found.values()))
        while self._size > self._most and len(self.kept) > 1:
            self.kept = dict(list(self.kept.items())[::2])
            self.stride *= 2
            self._size = sum(map(len, self.kept.values()))


def empty_details() -> dict[str, Thinned[Any]]:
    """Return where what is found goes: norms by parameter, the largest shares, counts of NaN and infinite elements."""
    return {
        "each": Thinned(MOST_NORMS, partial(_by_name, parse=_norm)),
        "worst": Thinned(MOST_SHARES, _shares),
        "nonfinite": Thinned(MOST_COUNTS, partial(_by_name, parse=_pair)),
    }


def _by_name(given: Any, parse: Callable[[Any], Any]) -> dict[str, Any]:
    entries = given.items() if isinstance(given, dict) else ()
    return {_name(name): value for name, entry in entries if (value := parse(entry)) is not None}


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
