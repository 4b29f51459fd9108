"""A recorded run: what is known of each step, whoever wrote it down."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias, final

import torch
from torch import Tensor

from gradclip.validation import check_number

Worst: TypeAlias = tuple[tuple[str, float], ...]
"""The parameters with the largest norms, and their shares of the squared norm."""


def spacing(steps: Tensor) -> int:
    """Return how many steps there are from row to row, where they rise: the median."""
    ahead = steps.diff()
    ahead = ahead[ahead > 0]
    return int(ahead.median()) if len(ahead) else 1


@final
@dataclass(frozen=True)
class Event:
    """A step that was skipped, or whose norm is not finite.

    Attributes:
        step: Its number.
        status: How it ended, such as `"skipped_nonfinite"`.
        nonfinite: The counts of NaN and of infinite elements by parameter, where they are known.
    """

    step: int
    status: str
    nonfinite: dict[str, tuple[int, int]] = field(default_factory=dict)


@final
@dataclass(frozen=True, eq=False)
class Series:
    """The steps of a run, in order. A column of which nothing is known is None.

    Attributes:
        source: Where it comes from, for messages: a path as a rule.
        steps: The numbers of the steps: int64, of shape (n,).
        norms: The total norms before clipping: float64, of shape (n,); NaN or infinite where they were.
        norms_after: The total norms after it: float64; NaN where it is not known.
        thresholds: The bounds on the total norm: float64; NaN where there was none.
        clipped: Whether the step was clipped: bool.
        skipped: Whether it did not happen: bool.
        losses: The loss of each step: float64.
        lrs: The learning rate of each step: float64.
        times: When each step was, in seconds since 1970: float64.
        policy: The policy, as it was written.
        optimizer: The class of the optimizer, as it was written.
        each: The norms of single parameters at some steps: pairs of a step and the norms by name.
        worst: The parameters with the largest norms at some steps: pairs of a step and names with their shares.
        events: The steps that were skipped, or whose norm is not finite, with what is known of them.
        remarks: What a reader should know about how the file was read: a torn last line, resumed runs, and so on.
    """

    source: str
    steps: Tensor
    norms: Tensor
    norms_after: Tensor | None = None
    thresholds: Tensor | None = None
    clipped: Tensor | None = None
    skipped: Tensor | None = None
    losses: Tensor | None = None
    lrs: Tensor | None = None
    times: Tensor | None = None
    policy: str | None = None
    optimizer: str | None = None
    each: tuple[tuple[int, dict[str, float]], ...] = ()
    worst: tuple[tuple[int, Worst], ...] = ()
    events: tuple[Event, ...] = ()
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.steps)

    def clipped_at(self, max_norm: float) -> "Series":
        """Return the run as one that was clipped at a bound which nothing in its file says.

        Args:
            max_norm: The bound on the total norm, > 0.

        Raises:
            TypeError: If it is no number.
            ValueError: If it is not > 0.
        """
        way_out = "Take the run as it is where nothing was clipped."
        bound = check_number("Series.clipped_at", "max_norm", max_norm, above=0.0, advice=way_out)
        bounds = torch.full_like(self.norms, bound)
        after = torch.minimum(self.norms, bounds)
        return replace(self, thresholds=bounds, norms_after=after, clipped=self.norms > bounds)

    @cached_property
    def finite(self) -> Tensor:
        """Whether the norm of each step is finite: bool, of shape (n,)."""
        return torch.isfinite(self.norms)
