"""All that a report says, found out once, before any of it is written."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from gradclip.analysis import Advice, advise
from gradclip.analysis.amounts import digits
from gradclip.analysis.series import Event
from gradclip.cli.report.alarms import Raised, alarms_of
from gradclip.cli.report.events import events_of
from gradclip.cli.report.facts import Facts, facts_of
from gradclip.cli.report.policies import Tried, tried
from gradclip.cli.report.rate import rates_of, window_of
from gradclip.cli.report.runs import Run
from gradclip.cli.report.tensors import Tensors, tensors_of
from gradclip.cli.report.verdict import Verdict, verdict_of


@final
class Finding(NamedTuple):
    """What is said of a run; `rates` is None where it is not known what was clipped."""

    run: Run
    facts: Facts
    advice: Advice
    verdict: Verdict
    events: list[Event]
    alarms: list[Raised]
    rates: NDArray[np.float64] | None

    @property
    def suggested(self) -> dict[str, float]:
        """The thresholds that are advised, by name, as they are written down: with three digits."""
        return {each.name: float(digits(each.max_norm)) for each in self.advice.suggestions}

    @property
    def highest_rate(self) -> float:
        """The largest share of the last steps that were clipped; 0 where none is known."""
        return 0.0 if self.rates is None else float(np.nanmax(self.rates))

    @property
    def culprits(self) -> list[tuple[str, int]]:
        """The parameters that were not finite and at how many steps, the most frequent first."""
        return Counter(name for event in self.events for name in event.nonfinite).most_common()


@final
class Findings(NamedTuple):
    """What the report says: of each run, and more of the first, which it is about.

    Attributes:
        each: What is said of each run.
        tensors: The norms of the tensors of the first; None where they were not recorded.
        tried: What policies would have done to it.
        window: The steps that the rates of all look back on.
    """

    each: list[Finding]
    tensors: Tensors | None
    tried: list[Tried]
    window: int

    @property
    def first(self) -> Finding:
        """The run that the report is about."""
        return self.each[0]

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [finding.run for finding in self.each]

    @property
    def many(self) -> bool:
        """Whether runs are compared."""
        return len(self.each) > 1

    @property
    def of(self) -> str:
        """What is added to say which run is meant; empty where there is one."""
        return f" in “{self.first.run.name}”" if self.many else ""

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last step of all runs."""
        first = min(finding.facts.first for finding in self.each)
        return first, max(first + 1, *(finding.facts.last for finding in self.each))

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds that are advised for the first run, and the one in use, by name."""
        used = self.first.run.threshold
        return self.first.suggested if used is None else {**self.first.suggested, "in use": used}


def find(runs: Sequence[Run]) -> Findings:
    """Find out what a report over runs says."""
    window = window_of(runs)
    each = [_find(run, window) for run in runs]
    return Findings(each, tensors_of(runs[0].series), tried(runs[0], each[0].suggested), window)


def _find(run: Run, window: int) -> Finding:
    facts, advice, alarms = facts_of(run), advise(run.series), alarms_of(run)
    verdict = verdict_of(facts, advice, alarms)
    return Finding(run, facts, advice, verdict, events_of(run), alarms, rates_of(run, window))
