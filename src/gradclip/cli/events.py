"""The steps that did not count: those that were skipped, and those whose norm is not finite."""

import torch

from gradclip.analysis.series import Event, Series

WORDS = {
    "skipped_nonfinite": "skipped: the norm is not finite",
    "skipped_spike": "skipped by the policy: a spike",
    "skipped_scaler": "skipped by the loss scaler: an overflow",
    "skipped": "skipped",
    "nonfinite": "norm not finite",
    "ok": "norm not finite",  # of a step that happened all the same
    "clipped": "norm not finite",
}
"""What happened, by status; another status is shown as it is."""


def events_of(series: Series) -> list[Event]:
    """Return the events of a run, in order: those recorded, and those that the norms alone tell of."""
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
