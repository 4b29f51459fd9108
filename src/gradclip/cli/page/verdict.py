"""What a run says, in a sentence."""

from typing import Literal, NamedTuple, TypeAlias, final

from gradclip.analysis.amounts import percent, several
from gradclip.cli.page.run import Run
from gradclip.cli.words import amount, count

Tone: TypeAlias = Literal["good", "note", "look", "bad"]

WORDS: dict[Tone, str] = {"good": "In order", "note": "Norms only", "look": "Worth a look", "bad": "Trouble"}
"""The tone in words, since not everybody sees its colour."""

MOSTLY, MUCH = 0.5, 0.01
"""Shares of the steps: clipped on more, the threshold sets how far they go; not finite on more, something is broken."""


@final
class Verdict(NamedTuple):
    """How things stand, and what the run says."""

    tone: Tone
    sentence: str

    @property
    def word(self) -> str:
        """The tone in words."""
        return WORDS[self.tone]


def verdict(run: Run) -> Verdict:
    """Return what a run says: the first that applies. A run with an alarm, but for being idle, is not in order."""
    found = _verdict(run)
    disturbed = any(alarm.name != "idle" for alarm in run.alarms)
    return found._replace(tone="look") if disturbed and found.tone == "good" else found


def _verdict(run: Run) -> Verdict:
    steps, clipped = run.steps, run.share_clipped
    broken = run.nonfinite / steps
    reach = f"the largest norm was {amount(run.largest)}, the median {amount(run.median)}"
    if broken == 1.0:
        return Verdict("bad", f"No norm is finite, in {several(steps, 'step')}.")
    if broken > MUCH:
        share = f"{percent(broken)} of the steps ({count(run.nonfinite)})"
        return Verdict("bad", f"The norm is NaN or infinite on {share}: no threshold helps against that.")
    if run.advice.verdict == "exploded":
        return Verdict("bad", f"The gradients look exploded: {reach}.")
    if clipped is None:
        return Verdict("note", f"What clipping did was not recorded: {reach}.")
    if clipped > MOSTLY:
        effect = "the threshold, more than the learning rate, sets how far they go"
        return Verdict("look", f"{percent(clipped)} of the steps were clipped: {effect}.")
    if clipped == 0.0:
        return Verdict("good", f"Clipping had nothing to do on {several(steps, 'step')}: {reach}.")
    acted = f"Clipping acted on {percent(clipped)} of the steps"
    tone: Tone = "look" if run.advice.verdict in {"drifting", "lower the learning rate"} else "good"
    if run.largest_after < run.largest:
        held = f"let no norm above {amount(run.largest_after)} through"
        return Verdict(tone, f"{acted} and {held}; the largest before it was {amount(run.largest)}.")
    return Verdict(tone, f"{acted}; {reach}.")
