"""What a handful of policies would have done to the recorded norms, by the code that runs in training."""

import math
from collections.abc import Mapping
from typing import NamedTuple, final

from gradclip.analysis import Replay
from gradclip.analysis.series import Series
from gradclip.analysis.series_replay import replay_series
from gradclip.policies import AutoClip, FixedNorm, MedianClip, Policy, ZClip

REPLAYED = 50_000
"""Steps at the end of a run that are replayed: seconds of work, as each policy decides step by step."""


@final
class Tried(NamedTuple):
    """A policy by a name, and what it would have done."""

    name: str
    policy: Policy
    replayed: Replay

    @property
    def fixed(self) -> bool:
        """Whether its threshold never moves."""
        return isinstance(self.policy, FixedNorm)


def candidates(suggested: Mapping[str, float]) -> list[tuple[str, Policy]]:
    """Return the policies to try, by name: fixed at each suggested threshold, and adaptive ones below the largest.

    Args:
        suggested: The suggested thresholds by name; there may be none.
    """
    ceiling = max(suggested.values(), default=math.inf)
    return [
        *((f"fixed, {name}", FixedNorm(value)) for name, value in suggested.items()),
        ("zclip", ZClip(ceiling)),
        ("autoclip, 90th percentile", AutoClip(ceiling, percentile=90.0)),
        ("median", MedianClip(ceiling)),
    ]


def tried(series: Series, suggested: Mapping[str, float]) -> list[Tried]:
    """Replay the candidates over the last steps of a run."""
    end = Series(series.source, series.steps[-REPLAYED:], series.norms[-REPLAYED:])
    return [Tried(name, policy, replay_series(policy, end)) for name, policy in candidates(suggested)]
