"""What a run says, in a sentence."""

from typing import Literal, TypeAlias

from gradclip.analysis.amounts import percent, several
from gradclip.cli.page.run import Run
from gradclip.cli.words import amount, count

Tone: TypeAlias = Literal["good", "note", "look", "bad"]

MOSTLY, MUCH = 0.5, 0.01
"""Shares of the steps: clipped on more, the threshold sets how far they go; not finite on more, something is broken."""


def verdict(run: Run) -> tuple[Tone, str]:
    """Return how things stand, and what a run says: the first that applies.

    A run with an alarm, but for being idle, is not in order.
    """
    calm: Tone = "look" if {*run.alarms} - {"idle"} else "good"
    steps, clipped = run.steps, run.share_clipped
    broken = run.nonfinite / steps
    reach = f"the largest norm was {amount(run.largest)}, the median {amount(run.median)}"
    if broken == 1.0:
        return "bad", f"No norm is finite, in {several(steps, 'step')}."
    if broken > MUCH:
        share = f"{percent(broken)} of the steps ({count(run.nonfinite)})"
        return "bad", f"The norm is NaN or infinite on {share}: no threshold helps against that."
    if run.advice.verdict == "exploded":
        return "bad", f"The gradients look exploded: {reach}."
    if clipped is None:
        return "note", f"What clipping did was not recorded: {reach}."
    if clipped > MOSTLY:
        effect = "the threshold, more than the learning rate, sets how far they go"
        return "look", f"{percent(clipped)} of the steps were clipped: {effect}."
    if clipped == 0.0:
        return calm, f"None of {several(steps, 'step')} was clipped: {reach}."
    acted = f"Clipping acted on {percent(clipped)} of the steps"
    tone: Tone = "look" if run.advice.verdict in {"drifting", "lower the learning rate"} else calm
    if run.largest_after < run.largest:
        held = f"let no norm above {amount(run.largest_after)} through"
        return tone, f"{acted} and {held}; the largest before it was {amount(run.largest)}."
    return tone, f"{acted}; {reach}."
