"""What a few rows say beyond numbers: the norms of parameters, and who was not finite."""

import math
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, final

from gradclip.analysis.reading.error import plain

MOST_NORMS = 500_000
"""Norms of single parameters that are kept, of all steps together: some 50 MB."""

MOST_COUNTS = 10_000
"""Rows whose counts of elements that are not finite are kept."""


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

    def add_norms(self, line: int, read: Callable[[], Any]) -> None:
        """Take the norms on a line, which are read where it is kept."""
        self._seen += 1
        if (self._seen - 1) % self._stride:
            return
        norms = {_name(name): norm for name, given in read().items() if (norm := _norm(given)) is not None}
        if norms:
            self.each[line] = norms
            self._kept += len(norms)
        if self._kept > MOST_NORMS and len(self.each) > 1:
            self.each = dict(list(self.each.items())[::2])
            self._stride *= 2
            self._kept = sum(map(len, self.each.values()))

    def add_counts(self, line: int, read: Callable[[], Any]) -> None:
        """Take the counts on a line, where they are not too many."""
        if len(self.nonfinite) < MOST_COUNTS:
            self.nonfinite[line] = {_name(name): pair for name, given in read().items() if (pair := _pair(given))}

    def remarks(self) -> list[str]:
        """Return what is missing."""
        if self._stride == 1:
            return []
        return [f"Of {self._seen} lines with norms of parameters, every {self._stride}th is kept."]


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
