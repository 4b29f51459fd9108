"""Checks of what a clipper is made of and attached to."""

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from gradclip.records import Sink
from gradclip.validation import check_number


def check_max_skips(value: object) -> float:
    """Return the number of steps in a row that may be skipped; infinite for any number."""
    return check_number(
        "GradClipper",
        "max_consecutive_skips",
        value,
        at_least=0,
        integer=value != math.inf,
        advice="For no limit, pass `math.inf`.",
    )


def check_sinks(sinks: Any) -> tuple[Sink, ...]:
    """Return the sinks; a single one is a mistake."""
    if callable(sinks) or not isinstance(sinks, Sequence):
        msg = f"`GradClipper(sinks=...)` must be a list of callables, got {sinks!r}. Pass `[sink]`."
        raise TypeError(msg)
    for i, sink in enumerate(sinks):
        if not callable(sink):
            msg = f"`GradClipper(sinks=...)` must hold callables that take a record, got {sink!r} at sinks[{i}]."
            raise TypeError(msg)
    return tuple(sinks)


def check_patterns(argument: str, patterns: Any) -> tuple[str, ...]:
    """Return patterns of names; one may be given by itself."""
    listed = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(listed, Sequence) or not all(isinstance(pattern, str) for pattern in listed):
        msg = (
            f"`GradClipper({argument}=...)` must be a list of patterns of names, got {patterns!r}. "
            'Pass for instance `["*.bias"]`; `model.named_parameters()` has the names.'
        )
        raise TypeError(msg)
    return tuple(listed)


def check_hooked(optimizer: Optimizer) -> None:
    """Check that an optimizer runs hooks: one that never called `Optimizer.__init__` does not."""
    if not getattr(type(optimizer).step, "hooked", False):
        msg = (
            f"`GradClipper.attach(optimizer=...)` must be an optimizer whose `step` runs hooks, got "
            f"{type(optimizer).__name__}, which never called `Optimizer.__init__`. Pass the optimizer that it wraps."
        )
        raise TypeError(msg)


def check_attached(optimizer: object, *, attached: bool) -> None:
    """Check that there is something to detach."""
    if not attached:
        msg = (
            f"`GradClipper.detach(optimizer=...)` must be an optimizer that the clipper is attached to, got "
            f"{type(optimizer).__name__} that it is not. To detach it from all, pass none."
        )
        raise ValueError(msg)
