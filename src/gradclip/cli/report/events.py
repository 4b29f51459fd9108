"""The steps that did not count: those that were skipped, and those whose norm is not finite."""

from typing import NamedTuple, final

import torch

from gradclip.analysis.series import Event
from gradclip.cli.report.runs import Run

MOST_MARKS = 3000
"""Marks in the chart of a run; of more, each stands for several steps."""

WORDS = {
    "skipped_nonfinite": "skipped: the norm is not finite",
    "skipped_spike": "skipped by the policy: a spike",
    "skipped_scaler": "skipped by the loss scaler: an overflow",
    "skipped": "skipped",
    "nonfinite": "norm not finite",
}
"""What happened, by status; another status is shown as it is."""


@final
class Mark(NamedTuple):
    """A mark in the chart: the first and the last step it stands for, how many, and what happened at the first."""

    first: int
    last: int
    count: int
    what: str


def events_of(run: Run) -> list[Event]:
    """Return the events of a run, in order: those recorded, and those that the norms alone tell of."""
    series = run.series
    skipped = torch.zeros(len(series), dtype=torch.bool) if series.skipped is None else series.skipped
    known = {event.step for event in series.events}
    places = (skipped | ~series.finite).nonzero().flatten()
    told = [
        Event(step, "skipped" if skip else "nonfinite")
        for step, skip in zip(series.steps[places].tolist(), skipped[places].tolist(), strict=True)
        if step not in known
    ]
    return sorted((*series.events, *told), key=lambda event: event.step) if told else list(series.events)


def described(event: Event) -> str:
    """Return what happened, in words."""
    return WORDS.get(event.status, event.status)


def marks_of(events: list[Event]) -> list[Mark]:
    """Return the events for the chart, several in a mark where there are too many."""
    together = -(-len(events) // MOST_MARKS) or 1
    groups = (events[i : i + together] for i in range(0, len(events), together))
    return [Mark(group[0].step, group[-1].step, len(group), described(group[0])) for group in groups]
