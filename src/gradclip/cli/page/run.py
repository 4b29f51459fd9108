"""A run of a report: what was recorded, and what is found out about it, each thing when it is first asked for."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from gradclip.analysis import Advice, advise
from gradclip.analysis.amounts import digits
from gradclip.analysis.series import Event, Series
from gradclip.cli.events import events_of
from gradclip.cli.page.alarms import Raised, alarms_of
from gradclip.cli.page.policies import Tried, tried
from gradclip.cli.page.tensors import Tensors, tensors_of

PERCENTILES = (1, 10, 50, 90, 99, 99.9, 100)

STRETCHES = 10


@final
@dataclass(frozen=True, eq=False)
class Run:
    """A run of at least one step, or a stretch of one.

    What is not known is None; of norms where there are none, NaN; and 0 is the step of none.

    Attributes:
        series: What was recorded; its source is what the report calls the run.
    """

    series: Series

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.series.source

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.series)

    @cached_property
    def clipped(self) -> Tensor | None:
        """Whether each step was clipped, where that is recorded or can be told: bool, of shape (n,)."""
        series = self.series
        if series.clipped is not None:
            return series.clipped
        if series.thresholds is None or not series.thresholds.isfinite().any():
            return None
        return (series.norms > series.thresholds) & series.finite

    @cached_property
    def finite_norms(self) -> NDArray[np.float64]:
        """The finite norms, in order."""
        return self.series.norms[self.series.finite].numpy()

    @property
    def zeros(self) -> bool:
        """Whether there are norms of 0."""
        return bool((self.series.norms == 0.0).any())

    @property
    def first(self) -> int:
        """The number of the first step."""
        return int(self.series.steps[0])

    @property
    def last(self) -> int:
        """The number of the last step."""
        return int(self.series.steps[-1])

    @property
    def times(self) -> tuple[float, float] | None:
        """The first and the last known moment, in seconds since 1970."""
        times = self.series.times
        if times is None or not times.isfinite().any():
            return None
        known = times[times.isfinite()]
        return known.min().item(), known.max().item()

    @property
    def threshold(self) -> float | None:
        """The threshold, where one finite number was that of all steps."""
        thresholds = self.series.thresholds
        known = () if thresholds is None else thresholds[thresholds.isfinite()].unique()
        return known[0].item() if len(known) == 1 else None

    @property
    def share_clipped(self) -> float | None:
        """The share of all recorded steps that were clipped."""
        return None if self.clipped is None else self.clipped.double().mean().item()

    @property
    def skipped(self) -> int | None:
        """How many steps were skipped."""
        return None if self.series.skipped is None else int(self.series.skipped.sum())

    @property
    def nonfinite(self) -> int:
        """How many norms are not finite."""
        return int((~self.series.finite).sum())

    @cached_property
    def percentiles(self) -> dict[float, float]:
        """Percentiles of the finite norms."""
        norms = self.finite_norms
        found = np.percentile(norms, PERCENTILES) if len(norms) else np.full(len(PERCENTILES), math.nan)
        return dict(zip(PERCENTILES, map(float, found), strict=True))

    @property
    def median(self) -> float:
        """The median of the finite norms."""
        return self.percentiles[50]

    @property
    def largest(self) -> float:
        """The largest finite norm."""
        return self.percentiles[100]

    @property
    def largest_step(self) -> int:
        """The step of the largest finite norm."""
        norms = self.finite_norms
        return int(self.series.steps[self.series.finite][norms.argmax()]) if len(norms) else 0

    @property
    def largest_after(self) -> float:
        """The largest finite norm after clipping."""
        after = self.series.norms_after
        known = self.series.norms[:0] if after is None else after[after.isfinite()]
        return known.max().item() if len(known) else math.nan

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

    @property
    def suggested(self) -> dict[str, float]:
        """The thresholds that are advised, by name, as they are written down: with three digits."""
        return {each.name: float(digits(each.max_norm)) for each in self.advice.suggestions}

    @cached_property
    def tensors(self) -> Tensors | None:
        """The norms of its tensors."""
        return tensors_of(self.series)

    @cached_property
    def alarms(self) -> list[Raised]:
        """What looks wrong with it."""
        return alarms_of(replace(self.series, clipped=self.clipped), self.tensors)

    @cached_property
    def tried(self) -> list[Tried]:
        """What policies would have done to it."""
        return tried(self.series, self.suggested)

    @cached_property
    def events(self) -> list[Event]:
        """The steps that were skipped, or whose norm is not finite."""
        return events_of(self.series)

    @property
    def culprits(self) -> list[tuple[str, int]]:
        """The parameters that were not finite and at how many steps, the most frequent first."""
        return Counter(name for event in self.events for name in event.nonfinite).most_common()
