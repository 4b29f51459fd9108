"""Thresholds as they are suggested: with what they would have done, and how certain they are."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from gradclip.analysis.advice.bootstrap import intervals
from gradclip.analysis.advice.spells import without_spells
from gradclip.analysis.advice.thresholds import NAMES, landmarks, share_clipped, share_removed
from gradclip.analysis.amounts import digits

BOTH = math.sqrt(2.0)
"""How much further two recordings are from each other than one is from the truth, in logarithms."""

EDGE = 10
"""Norms above a threshold that it takes for resampling to say how far up it may move: no series that is put together
from recorded norms has a larger one."""


@final
@dataclass(frozen=True)
class Suggestion:
    """A threshold, and what it would have done to the recorded steps.

    Attributes:
        name: `"tight"`, `"balanced"` or `"conservative"`.
        max_norm: The threshold, in the units of the recorded norms, rounded to three digits.
        low: The lower end of its 95 % interval: how far it would move in another recording of the same training.
        high: The upper end of the interval.
        share_clipped: The share of the judged steps whose norm is above it, in [0, 1].
        share_removed: The share of the sum of the norms that it removes, in [0, 1].
    """

    name: str
    max_norm: float
    low: float
    high: float
    share_clipped: float
    share_removed: float


def suggest(norms: Tensor, seed: int, *, drifting: bool) -> tuple[Suggestion, ...]:
    """Return the suggestions for norms > 0 in the order of their steps, the tightest first.

    Spikes, and what trails them, make no thresholds where they are few; their steps count in what a threshold clips.
    Where they drift, the deviation holds the drift as well as the noise: none is then above the largest norm. At the
    edge of what was recorded, a threshold may move up as far as down.
    """
    found = landmarks(norms)
    usual = without_spells(norms, found)
    values = (found if usual is norms else landmarks(usual)).thresholds()  # once where nothing is set aside
    if drifting:
        values = values.clamp(max=usual.max())
    low, high = (factor**BOTH for factor in intervals(usual, seed))
    few = (usual > values[:, None]).sum(dim=1) < EDGE
    high = torch.where(few, torch.maximum(high, 1.0 / low), high)
    written = [float(digits(value)) for value in values.tolist()]
    rows = zip(NAMES, written, (values * low).tolist(), (values * high).tolist(), strict=True)
    return tuple(
        Suggestion(name, bound, least, most, share_clipped(norms, bound), share_removed(norms, bound))
        for name, bound, least, most in rows
    )
