"""A run of a report: what was recorded, and what is found out about it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple, final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from gradclip.analysis import Advice, Replay, advise
from gradclip.analysis.as_clips import clips_of
from gradclip.analysis.series import Event, Series
from gradclip.analysis.series_replay import replay_series
from gradclip.cli.events import events_of
from gradclip.cli.page.tensors import Tensors
from gradclip.policies import AutoClip, FixedNorm, MedianClip, Policy, ZClip
from gradclip.records import Alarms
from gradclip.records.alarms import WINDOW

PERCENTILES = (1, 10, 50, 90, 99, 99.9, 100)

STRETCHES = 10

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


@final
class Run:
    """A run of at least one step, or a stretch of one: its numbers, and the rest when it is first asked for.

    What is not known is None; of norms where there are none, NaN; and 0 is the step of none.

    Attributes:
        series: What was recorded.
        name: What the report calls it: the source of that.
        steps: How many steps there are.
        first: The number of the first step.
        last: The number of the last step.
        times: The first and the last known moment, in seconds since 1970.
        clipped: Whether each step was clipped, where that is recorded or can be told: bool, of shape (n,).
        share_clipped: The share of all recorded steps that were clipped.
        skipped: How many steps were skipped.
        nonfinite: How many norms are not finite.
        threshold: The threshold, where one finite number was that of all steps.
        norms: The finite norms, in order.
        percentiles: Percentiles of these.
        median: Their median.
        largest: The largest of them.
        smallest: The smallest.
        largest_step: The step of the largest.
        largest_after: The largest finite norm after clipping.
    """

    def __init__(self, series: Series) -> None:
        self.series, self.name, self.steps = series, series.source, len(series)
        self.first, self.last = int(series.steps[0]), int(series.steps[-1])
        times, thresholds, after = map(_known, (series.times, series.thresholds, series.norms_after))
        self.times = (float(times.min()), float(times.max())) if len(times) else None
        self.clipped: Tensor | None = series.clipped
        if self.clipped is None and series.thresholds is not None and len(thresholds):
            self.clipped = (series.norms > series.thresholds) & series.finite
        self.share_clipped = None if self.clipped is None else self.clipped.double().mean().item()
        self.skipped = None if series.skipped is None else int(series.skipped.sum())
        self.nonfinite = int((~series.finite).sum())
        self.threshold = float(thresholds[0]) if len(np.unique(thresholds)) == 1 else None
        self.norms = _known(series.norms)
        found = np.percentile(self.norms, PERCENTILES) if len(self.norms) else np.full(len(PERCENTILES), math.nan)
        self.percentiles = dict(zip(PERCENTILES, map(float, found), strict=True))
        self.median, self.largest = self.percentiles[50], self.percentiles[100]
        self.smallest = float(self.norms.min()) if len(self.norms) else math.nan
        self.largest_step = int(series.steps[series.finite][self.norms.argmax()]) if len(self.norms) else 0
        self.largest_after = float(after.max()) if len(after) else math.nan

    @property
    def stretches(self) -> "list[Run]":
        """Stretches of the run, each with as many steps: its chart as a table."""
        columns = (self.series.steps, self.series.norms, self.clipped)
        count = min(STRETCHES, self.steps)
        split = ([None] * count if column is None else column.tensor_split(count) for column in columns)
        parts = zip(*split, strict=True)
        return [Run(Series("", steps, norms, clipped=clipped)) for steps, norms, clipped in parts]

    def rates(self, window: int) -> NDArray[np.float64] | None:
        """Return the share of the last `window` steps that were clipped, at each step; NaN while there are fewer."""
        clipped = self.clipped
        return None if clipped is None else pl.Series(clipped.double().numpy()).rolling_mean(window).to_numpy()

    def highest_rate(self, window: int) -> float:
        """Return the largest of these; 0 where none is known."""
        rates = self.rates(window)
        return 0.0 if rates is None else float(np.nanmax(rates))

    @cached_property
    def advice(self) -> Advice:
        """Which threshold to use."""
        return advise(self.series)

    @cached_property
    def suggested(self) -> dict[str, float]:
        """The thresholds that are advised, by name."""
        return {each.name: each.max_norm for each in self.advice.suggestions}

    @cached_property
    def tensors(self) -> Tensors | None:
        """The norms of its tensors; None where none were recorded."""
        return Tensors(self.series.each) if any(norms for _, norms in self.series.each) else None

    @cached_property
    def alarms(self) -> dict[str, list[int]]:
        """What looks wrong, by the code that says so in training: the steps at which it began, by name."""
        alarms, begun = Alarms(), dict[str, list[int]]()
        worst = {**(self.tensors.worst if self.tensors else {}), **dict(self.series.worst)}  # as recorded, where it was
        for record in clips_of(replace(self.series, clipped=self.clipped), worst):
            for name in alarms.feed(record):
                begun.setdefault(name, []).append(record.step)
        return begun

    @cached_property
    def tried(self) -> list[Tried]:
        """What policies would have done, by the code that runs in training.

        They are fixed at each suggested threshold, and adaptive below the largest.
        """
        ceiling = max(self.suggested.values(), default=math.inf)
        policies = {
            **{f"fixed, {name}": FixedNorm(value) for name, value in self.suggested.items()},
            "zclip": ZClip(ceiling),
            "autoclip, 90th percentile": AutoClip(ceiling, percentile=90.0),
            "median": MedianClip(ceiling),
        }
        end = Series(self.name, self.series.steps[-REPLAYED:], self.series.norms[-REPLAYED:])
        return [Tried(name, policy, replay_series(policy, end)) for name, policy in policies.items()]

    @cached_property
    def events(self) -> list[Event]:
        """The steps that were skipped, or whose norm is not finite."""
        return events_of(self.series)

    @property
    def culprits(self) -> list[tuple[str, int]]:
        """The parameters that were not finite and at how many steps, the most frequent first."""
        return Counter(name for event in self.events for name in event.nonfinite).most_common()


def span_of(runs: Sequence[Run]) -> tuple[int, int]:
    """Return the first and the last step of all runs."""
    first = min(run.first for run in runs)
    return first, max(first + 1, *(run.last for run in runs))


def window_of(runs: Sequence[Run]) -> int:
    """Return the steps that clip rates look back on: the shortest run has room for them, and the alarm no more."""
    steps = min(run.steps for run in runs)
    return max(1, min(steps, WINDOW, max(20, steps // 20)))


def _known(column: Tensor | None) -> NDArray[np.float64]:
    """Return the finite numbers of a column, of which there may be nothing."""
    return np.empty(0) if column is None else column[column.isfinite()].numpy()
