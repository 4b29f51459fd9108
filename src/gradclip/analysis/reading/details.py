"""What a few lines of our JSON Lines say beyond numbers: the norms of parameters, and who was not finite.

These lines are found by their text and read one by one, so that all the others need not be looked into.
"""

import json
import math
import re
import sys
from contextlib import suppress
from typing import Any, final

from gradclip.analysis.reading.text import plain

MOST_NORMS = 500_000
"""Norms of single parameters that are kept, of all steps together: some 50 MB."""

MOST_COUNTS = 10_000
"""Lines whose counts of elements that are not finite are kept."""

OBJECT = re.compile(rb'"(norms|nonfinite)"\s*:\s*\{')


@final
class Details:
    """What has been found so far.

    Attributes:
        each: By line, the norms there by parameter: every k-th of these lines where they are too many.
        nonfinite: By line, the counts of NaN and of infinite elements by parameter.
    """

    def __init__(self) -> None:
        self.each: dict[int, dict[str, float]] = {}
        self.nonfinite: dict[int, dict[str, tuple[int, int]]] = {}
        self._stride = 1
        self._seen = 0
        self._kept = 0

    def look(self, data: bytes, line: int) -> None:
        """Look through whole lines, the first of which has the number given."""
        counted = end = 0
        while (match := OBJECT.search(data, end)) is not None:
            start = data.rfind(b"\n", 0, match.start()) + 1
            end = data.find(b"\n", match.end()) + 1 or len(data)
            line += data.count(b"\n", counted, start)
            counted = start
            if match[1] == b"norms" and self._seen % self._stride:
                self._seen += 1
            else:
                self._read(data[start:end], line)

    def remarks(self) -> list[str]:
        """Return what is missing."""
        if self._stride == 1:
            return []
        return [f"Of {self._seen} lines with norms of parameters, every {self._stride}th is kept."]

    def _read(self, text: bytes, line: int) -> None:
        try:
            entry: Any = json.loads(text)
        except (ValueError, RecursionError):
            return  # which is for the reader of the lines to say
        counts, norms = (entry.get(name) if isinstance(entry, dict) else None for name in ("nonfinite", "norms"))
        if isinstance(counts, dict) and counts and len(self.nonfinite) < MOST_COUNTS:
            self.nonfinite[line] = {_name(name): pair for name, given in counts.items() if (pair := _pair(given))}
        if isinstance(norms, dict) and norms:
            self._seen += 1
            if (self._seen - 1) % self._stride == 0:
                self.each[line] = {
                    _name(name): norm for name, given in norms.items() if (norm := _norm(given)) is not None
                }
                self._thin(len(self.each[line]))

    def _thin(self, new: int) -> None:
        self._kept += new
        if self._kept > MOST_NORMS and len(self.each) > 1:
            self.each = dict(list(self.each.items())[::2])
            self._stride *= 2
            self._kept = sum(map(len, self.each.values()))


def _name(name: str) -> str:
    return sys.intern(plain(name))  # one text for all lines, which name the same parameters


def _pair(given: Any) -> tuple[int, int] | None:
    match given:
        case [int(nans), int(infinities)]:
            return nans, infinities
    return None


def _norm(given: Any) -> float | None:
    """Return a norm; NaN for null, which is how a norm that is not finite is written; None for what is no norm."""
    if given is None:
        return math.nan
    with suppress(TypeError, ValueError, OverflowError):
        return None if isinstance(given, bool) else float(given)
    return None
