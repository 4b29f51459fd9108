"""What a verdict on a recording is."""

from typing import Literal, NamedTuple, TypeAlias, final

Verdict: TypeAlias = Literal[
    "clip",
    "drifting",
    "lower the learning rate",
    "clipping is idle",
    "too few steps",
    "already clipped",
    "not finite",
    "vanished",
    "exploded",
]
"""`"clip"` and the two after it come with thresholds, `"clipping is idle"` with what to keep; the others are refusals
of advice."""

MOSTLY = 0.5
"""The share that most is: more than half."""


@final
class Finding(NamedTuple):
    """A verdict, the same in a sentence, and what speaks for it."""

    verdict: Verdict
    headline: str
    reasons: tuple[str, ...] = ()
