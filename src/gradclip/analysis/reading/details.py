"""What a few lines of our JSON Lines say beyond numbers: the norms of parameters, and who was not finite.

These lines are found by their text and read one by one, so that all the others need not be looked into.
"""

import json
import math
import re
from typing import Any, final

from gradclip.analysis.reading.text import number, plain

MOST_NORMS = 500_000
"""Norms of single parameters that are kept, of all steps together: some 50 MB."""

MOST_COUNTS = 10_000
"""Lines whose counts of elements that are not finite are kept."""

OBJECT = re.compile(rb'"(norms|nonfinite)"\s*:\s*\{')


@final
class Details:
    """What has been found so far.

    Attributes:
        each: Lines and the norms there by parameter, every k-th of them where they are too many.
        nonfinite: By line, the counts of NaN and of infinite elements by parameter.
    """

    def __init__(self) -> None:
        self.each: list[tuple[int, dict[str, float]]] = []
        self.nonfinite: dict[int, dict[str, tuple[int, int]]] = {}
        self._names: dict[str, str] = {}
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
        if not isinstance(entry, dict):
            return
        counts = entry.get("nonfinite")
        if isinstance(counts, dict) and counts and len(self.nonfinite) < MOST_COUNTS:
            self.nonfinite[line] = {self._name(name): pair for name, given in counts.items() if (pair := _pair(given))}
        norms = entry.get("norms")
        if isinstance(norms, dict) and norms:
            self._seen += 1
            if (self._seen - 1) % self._stride == 0:
                self._keep(
                    line,
                    {self._name(name): norm for name, given in norms.items() if (norm := _norm(given)) is not None},
                )

    def _keep(self, line: int, norms: dict[str, float]) -> None:
        self.each.append((line, norms))
        self._kept += len(norms)
        if self._kept > MOST_NORMS and len(self.each) > 1:
            self.each = self.each[::2]
            self._stride *= 2
            self._kept = sum(len(norms) for _, norms in self.each)

    def _name(self, name: str) -> str:
        # One text for all lines, which name the same parameters.
        found = self._names.get(name)
        if found is None:
            found = self._names[name] = plain(name)
        return found


def _pair(given: Any) -> tuple[int, int] | None:
    match given:
        case [int(nans), int(infinities)]:
            return nans, infinities
    return None


def _norm(given: Any) -> float | None:
    """Return a norm; NaN for null, which is how a norm that is not finite is written; None for what is no norm."""
    if type(given) is float:
        return given
    try:
        found = number(given)
    except ValueError:
        return None
    return math.nan if found is None else found
