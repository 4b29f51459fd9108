"""Checks of what makes a clipper, and of what it is attached to."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import LBFGS, Optimizer

from gradclip.numbers import from_device, is_known
from gradclip.torch_private import runs_hooks
from gradclip.validation import check_number, holds_one_real, real

NonFiniteStep: TypeAlias = Literal["skip", "raise", "sanitize", "propagate"]
"""What a clipper does with a total norm that is NaN or infinite."""


ONE_BY_ONE = "Attach one optimizer at a time: `clipper.attach(first).attach(second)`."


def check_loss(function: str, value: object) -> float | Tensor:
    """Return a loss as a float, or as a float64 tensor where it is on another device."""
    if isinstance(value, Tensor):
        if not holds_one_real(value):
            msg = f"`{function}(loss=...)` must hold one real number, got shape {tuple(value.shape)}. Pass its mean."
            raise ValueError(msg)
        number = from_device(value.detach().reshape(()))
        return number if is_known(number) else number.to(torch.float64)
    return real(function, "loss", value)


def is_loss(value: object) -> bool:
    """Whether what a closure has returned is meant as a loss: a closure may return anything, such as a truth value."""
    is_one = isinstance(value, Tensor) and value.numel() == 1 and value.dtype != torch.bool
    return is_one or isinstance(value, float)


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer that steps: frameworks wrap it, and hold it as `optimizer`; one for SAM has a base."""
    while True:
        name = "base_optimizer" if hasattr(optimizer, "first_step") else "optimizer"
        inner = getattr(optimizer, name, None)
        steps = isinstance(optimizer, Optimizer) and runs_hooks(optimizer) and name == "optimizer"
        if steps or not (isinstance(inner, Optimizer) or hasattr(inner, "optimizer")):
            return optimizer
        optimizer = inner


def scaler_of(optimizer: Any) -> GradScaler | None:
    """Return the scaler that a wrapper of an optimizer holds, as that of Accelerate does."""
    found = getattr(optimizer, "scaler", None)
    return found if isinstance(found, GradScaler) else None


def check_attachable(optimizer: object, scaler: object, *, attached: bool) -> None:
    """Check what a clipper is attached to."""
    if not isinstance(optimizer, Optimizer):
        several = isinstance(optimizer, (list, tuple))
        remedy = ONE_BY_ONE if several else "Pass the optimizer that it wraps, or call `clip()` before its steps."
        msg = f"`GradClipper.attach(optimizer=...)` must be a torch optimizer, got {type(optimizer).__name__}. {remedy}"
        raise TypeError(msg)
    if isinstance(optimizer, LBFGS):
        msg = (
            "`GradClipper.attach(optimizer=...)` must evaluate its closure once a step, got LBFGS, whose line search "
            "needs gradients that fit the loss. Call `clip()` in the closure, after `backward()`, if you want it so."
        )
        raise TypeError(msg)
    if hasattr(optimizer, "fused_backward"):
        msg = (
            "`GradClipper.attach(optimizer=...)` must update parameters in its `step`, got "
            f"{type(optimizer).__name__}, which does so in `backward`, before all gradients are there. Use what it "
            "offers itself to clip."
        )
        raise TypeError(msg)
    if scaler is not None and not isinstance(scaler, GradScaler):
        msg = f"`GradClipper.attach(scaler=...)` must be a torch.amp.GradScaler, got {type(scaler).__name__}."
        raise TypeError(f"{msg} {ONE_BY_ONE}" if isinstance(scaler, Optimizer) else msg)
    if attached:
        msg = (
            "`GradClipper.attach(optimizer=...)` must be attached once, got an optimizer that is. Call `detach` first."
        )
        raise ValueError(msg)
    if not runs_hooks(optimizer, inherited=True):
        msg = (
            f"`GradClipper.attach(optimizer=...)` must be an optimizer whose `step` runs hooks, got "
            f"{type(optimizer).__name__}, which never called `Optimizer.__init__`. Pass the optimizer that it wraps."
        )
        raise TypeError(msg)


def check_max_skips(value: object) -> float:
    """Return the number of steps in a row that may be skipped; infinite for any number."""
    function, argument = "GradClipper", "max_consecutive_skips"
    advice = "For no limit, pass `math.inf`."
    is_limit = real(function, argument, value, advice) != math.inf
    return check_number(function, argument, value, at_least=0, integer=is_limit, advice=advice)


def check_sinks(function: str, sinks: Any) -> tuple[Callable[[Any], object], ...]:
    """Return the sinks; a single one is a mistake."""
    if callable(sinks) or isinstance(sinks, str) or not isinstance(sinks, Sequence):
        of_file = f"JSONLines({sinks!r})" if isinstance(sinks, str) else "sink"
        msg = f"`{function}(sinks=...)` must be a list of callables, got {sinks!r}. Pass `[{of_file}]`."
        raise TypeError(msg)
    for i, sink in enumerate(sinks):
        if not callable(sink):
            remedy = f" Pass `JSONLines({sink!r})`." if isinstance(sink, str) else ""
            msg = f"`{function}(sinks=...)` must hold callables that take a record, got {sink!r} at sinks[{i}].{remedy}"
            raise TypeError(msg)
    return tuple(sinks)


def check_pattern_list(argument: str, patterns: Any) -> tuple[str, ...]:
    """Return patterns of names; one may be given by itself."""
    listed = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(listed, Sequence) or not all(isinstance(pattern, str) for pattern in listed):
        msg = (
            f"`GradClipper({argument}=...)` must be a list of patterns of names, got {patterns!r}. "
            'Pass for instance `["*.bias"]`; `model.named_parameters()` has the names.'
        )
        raise TypeError(msg)
    return tuple(listed)
