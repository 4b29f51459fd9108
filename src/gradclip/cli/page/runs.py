"""The runs of a report, and what they have in common."""

from collections.abc import Sequence
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
    def span(self) -> tuple[int, int]:
        """The first and the last step of all runs."""
        first = min(run.first for run in self.each)
        return first, max(first + 1, *(run.last for run in self.each))

    @property
    def window(self) -> int:
        """The steps that clip rates look back on: the shortest run has room for them, and the alarm no more."""
        steps = min(run.steps for run in self.each)
        return max(1, min(steps, WINDOW, max(20, steps // 20)))
