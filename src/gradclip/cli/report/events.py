"""The steps that did not count: those that were skipped, and those whose norm is not finite."""

from collections import Counter
from typing import Any

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


def events_of(run: Run) -> list[Event]:
    """Return the events of a run, in order: those recorded, and those that the norms alone tell of."""
    series = run.series
    skipped = torch.zeros(len(series), dtype=torch.bool) if run.skipped is None else run.skipped
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


def culprits(events: list[Event]) -> list[tuple[str, int]]:
    """Return the parameters that were not finite and at how many steps, the most frequent first."""
    return Counter(name for event in events for name in event.nonfinite).most_common()


def marks_of(events: list[Event]) -> list[dict[str, Any]]:
    """Return the events for the chart: the first and the last step of each mark, and how many it stands for."""
    together = -(-len(events) // MOST_MARKS) or 1
    groups = (events[i : i + together] for i in range(0, len(events), together))
    return [
        {"from": group[0].step, "to": group[-1].step, "count": len(group), "what": described(group[0])}
        for group in groups
    ]
