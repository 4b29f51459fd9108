"""What a verdict on a recording is."""

from typing import Literal, NamedTuple, TypeAlias, final

Verdict: TypeAlias = Literal[
    "clip",
    "drifting",
    "lower the learning rate",
    "clipping is idle",
    "too few steps",
    "already clipped",
    "exploded",
]
"""`"clip"` and the three after it come with thresholds; the last three are refusals of advice."""

MOSTLY = 0.5
"""The share that most is: more than half."""


@final
class Finding(NamedTuple):
    """A verdict, the same in a sentence, and what speaks for it."""

    verdict: Verdict
    headline: str
    reasons: tuple[str, ...] = ()
