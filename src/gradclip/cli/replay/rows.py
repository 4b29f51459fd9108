"""What policies come to on a recorded run, in numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from gradclip.analysis import Replay
from gradclip.analysis.series import Series
from gradclip.analysis.series_replay import knows_each, replay_series
from gradclip.cli.specs import Named
from gradclip.policies import Policy


@final
@dataclass(frozen=True)
class Played:
    """A policy, and what it did: None if the recording does not hold what it needs, which `problem` then says."""

    named: Named
    replayed: Replay | None
    problem: str = ""


@final
@dataclass(frozen=True)
class Row:
    """What one policy comes to; None for what is not known.

    Attributes:
        name: What the user called it.
        policy: The policy.
        problem: Why it could not be replayed; empty where it could.
        note: What is to be known about its numbers.
        share_clipped: The share of all steps that are clipped.
        share_skipped: The share that does not happen.
        largest_after: The largest norm let through.
        longest_held: The most steps in a row that are clipped or skipped.
        threshold_min: The smallest threshold; thresholds that are not finite do not count.
        threshold_median: Their median.
        threshold_max: The largest.
    """

    name: str
    policy: str
    problem: str = ""
    note: str = ""
    share_clipped: float | None = None
    share_skipped: float | None = None
    largest_after: float | None = None
    longest_held: int | None = None
    threshold_min: float | None = None
    threshold_median: float | None = None
    threshold_max: float | None = None


def play(named: Named, series: Series, watch: Callable[[int], object]) -> Played:
    """Replay one policy."""
    try:
        return Played(named, replay_series(named.policy, series, watch=watch))
    except ValueError as error:
        return Played(named, None, str(error))


def row_of(played: Played, series: Series) -> Row:
    """Return the numbers of one policy."""
    policy, replayed = played.named.policy, played.replayed
    if replayed is None:
        return Row(played.named.name, repr(policy), played.problem)
    known = replayed.thresholds[replayed.thresholds.isfinite()]
    some = replayed.thresholds.ndim == 1 and len(known) > 0
    return Row(
        name=played.named.name,
        policy=repr(policy),
        note=_note(played, series),
        share_clipped=None if _limits_elements(policy) else _finite(replayed.share_clipped),
        share_skipped=_finite(replayed.share_skipped),
        largest_after=_finite(replayed.largest_after),
        longest_held=None if _limits_elements(policy) else replayed.longest_held,
        threshold_min=known.min().item() if some else None,
        threshold_median=known.median().item() if some else None,
        threshold_max=known.max().item() if some else None,
    )


def largest(series: Series) -> float | None:
    """Return the largest finite norm; None if there is none."""
    norms = series.norms[series.finite]
    return norms.max().item() if len(norms) else None


def _note(played: Played, series: Series) -> str:
    if _limits_elements(played.named.policy):
        return "it limits elements, which norms do not show"
    if any(stage.scope == "parameter" for stage in played.named.policy.stages) and not knows_each(series):
        return "norms of parameters are not recorded of all steps: it saw one parameter, with the total norm"
    return ""


def _limits_elements(policy: Policy) -> bool:
    return any(stage.clamps for stage in policy.stages)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
