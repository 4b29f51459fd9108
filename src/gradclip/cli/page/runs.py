"""The runs of a report: their names, and what they have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

from gradclip.cli.page.run import Run
from gradclip.records.alarms import WINDOW

MOST_RUNS = 6
"""How many runs a report can hold: as many colours as every kind of colour vision tells apart."""


@final
class Runs(NamedTuple):
    """The runs, of which the report is about the first, and compares it with the others."""

    each: Sequence[Run]

    @property
    def first(self) -> Run:
        """The run that the report is about."""
        return self.each[0]

    @property
    def many(self) -> bool:
        """Whether runs are compared."""
        return len(self.each) > 1

    @property
    def of(self) -> str:
        """What is added to say which run is meant; empty where there is one."""
        return f" in “{self.first.name}”" if self.many else ""

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last step of all runs."""
        first = min(run.first for run in self.each)
        return first, max(first + 1, *(run.last for run in self.each))

    @property
    def window(self) -> int:
        """The steps that clip rates look back on: the shortest run has room for them, and the alarm no more."""
        steps = min(run.steps for run in self.each)
        return max(1, min(steps, WINDOW, max(20, steps // 20)))

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds that are advised for the first run, and the one in use, by name."""
        used = self.first.threshold
        return self.first.suggested if used is None else {**self.first.suggested, "in use": used}


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return short names that tell files apart: as much of the end of each path as it takes.

    Example:
        >>> names_of([Path("runs/a/clip.jsonl"), Path("runs/b/clip.jsonl"), Path("runs/old.csv")])
        ['a/clip.jsonl', 'b/clip.jsonl', 'old.csv']
    """
    return [_name(path, [other for j, other in enumerate(paths) if j != i]) for i, path in enumerate(paths)]


def _name(path: Path, others: Sequence[Path]) -> str:
    parts = [part for part in path.parts if part not in {path.anchor, ".", ".."}]
    for length in range(1, len(parts) + 1):
        end = parts[-length:]
        if all(list(other.parts[-length:]) != end for other in others):
            return "/".join(end)
    return "/".join(parts[-2:])
