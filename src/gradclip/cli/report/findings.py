"""All that a report says, found out once, before any of it is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from gradclip.analysis import Advice, advise
from gradclip.analysis.amounts import digits
from gradclip.analysis.series import Event
from gradclip.cli.report.alarms import Raised, alarms_of
from gradclip.cli.report.events import events_of
from gradclip.cli.report.facts import Facts, facts_of
from gradclip.cli.report.histogram import Histogram, histogram_of
from gradclip.cli.report.policies import Tried, tried
from gradclip.cli.report.runs import Run
from gradclip.cli.report.tensors import Tensors, tensors_of
from gradclip.cli.report.verdict import Verdict, verdict_of


@final
@dataclass(frozen=True, eq=False)
class Finding:
    """What is said of each run.

    Attributes:
        run: The run.
        facts: Its numbers.
        advice: The threshold to use, or why there is none to be had.
        verdict: What it says, in a sentence.
        events: The steps that did not count.
        alarms: What went wrong.
    """

    run: Run
    facts: Facts
    advice: Advice
    verdict: Verdict
    events: list[Event]
    alarms: list[Raised]


@final
@dataclass(frozen=True, eq=False)
class Findings:
    """What the report says: of all runs, and in more detail of the first.

    Attributes:
        each: What is said of each run; the first is the one that the report is about.
        tensors: The norms of its tensors; None where they were not recorded.
        tried: What policies would have done to it.
        histogram: How the norms of all are spread; None where no norm is positive and finite.
    """

    each: list[Finding]
    tensors: Tensors | None
    tried: list[Tried]
    histogram: Histogram | None

    @property
    def first(self) -> Finding:
        """The run that the report is about."""
        return self.each[0]

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [finding.run for finding in self.each]

    @property
    def of(self) -> str:
        """What is added to say which run is meant; empty where there is one."""
        return f" in “{self.first.run.name}”" if self.many else ""

    @property
    def many(self) -> bool:
        """Whether runs are compared."""
        return len(self.each) > 1


def find(runs: Sequence[Run]) -> Findings:
    """Find out what a report over runs says."""
    each = [_find(run) for run in runs]
    suggested = [(suggestion.name, rounded(suggestion.max_norm)) for suggestion in each[0].advice.suggestions]
    return Findings(
        each=each,
        tensors=tensors_of(runs[0].series),
        tried=tried(runs[0], suggested),
        histogram=histogram_of(list(runs)),
    )


def rounded(threshold: float) -> float:
    """Return a threshold as it is written down: with three digits."""
    return float(digits(threshold))


def _find(run: Run) -> Finding:
    facts, advice, alarms = facts_of(run), advise(run.series), alarms_of(run)
    return Finding(run, facts, advice, verdict_of(facts, advice, alarms), events_of(run), alarms)
