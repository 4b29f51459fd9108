"""Gradients of a scaled loss, under `torch.amp.GradScaler`: unscale them once, whoever else does so."""

import sys
import weakref
from typing import Any, Protocol, final

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradclip.clipper.arguments import unwrapped
from gradclip.numbers import on_host
from gradclip.torch_private import forget_fused_scale, fused_overflow, fused_scale, has_scaled, overflows_found

STEP = GradScaler.step.__code__


class Hearer(Protocol):
    """What wants to know of the steps that a scaler keeps from happening."""

    def _steps_of(self, optimizer: Optimizer) -> int | None:
        """Return how many steps of an optimizer it has heard of; None where it does not ask."""

    def _hear_overflow(self, optimizer: Optimizer) -> None:
        """Hear of a step that did not happen."""


@final
class TellingStep:
    """The `step` of a scaler, which does not call that of an optimizer on an overflow, and then tells clippers so.

    Args:
        scaler: The scaler, in whose place for the method this is.
    """

    def __init__(self, scaler: GradScaler) -> None:
        self.step = scaler.step
        self.hearers: weakref.WeakSet[Hearer] = weakref.WeakSet()

    def __call__(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Step, or not."""
        own = unwrapped(optimizer)
        before = [(hearer, hearer._steps_of(own)) for hearer in list(self.hearers)]
        value = self.step(optimizer, *args, **kwargs)
        for hearer, steps in before:
            if steps is not None and hearer._steps_of(own) == steps:
                hearer._hear_overflow(own)
        return value

    def __getstate__(self) -> dict[str, Any]:  # a copy of the scaler tells nobody
        return {"step": self.step}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.hearers = weakref.WeakSet()


def hear(scaler: Any, hearer: Hearer) -> None:
    """Have a scaler tell of the steps that it keeps from happening."""
    if not isinstance(scaler.step, TellingStep):
        scaler.step = TellingStep(scaler)
    scaler.step.hearers.add(hearer)


def hear_no_more(scaler: Any, hearer: Hearer) -> None:
    """Have a scaler tell one less, and leave it as it was once it tells nobody."""
    if isinstance(telling := scaler.step, TellingStep):
        telling.hearers.discard(hearer)
        if not telling.hearers:
            del scaler.step
            if scaler.step != telling.step:  # somebody else had put it there
                scaler.step = telling.step


def unscale_(optimizer: Optimizer, scaler: GradScaler | None) -> None:
    """Unscale the gradients of an optimizer, unless that was done for the step that comes.

    Args:
        optimizer: Where a scaler leaves it to a fused optimizer to unscale, it has told it the scale.
        scaler: The scaler of its loss, if it is known.
    """
    scale = fused_scale(optimizer)
    if scale is not None:
        inverse = scale.double().reciprocal().float()  # as torch does
        with torch.no_grad():
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                if parameter.grad is not None:
                    parameter.grad.mul_(inverse.to(parameter.grad.device))
        forget_fused_scale(optimizer)
    elif scaler is not None and has_scaled(scaler) and overflows_found(scaler, optimizer) is None:
        scaler.unscale_(optimizer)


def has_overflow(optimizer: Optimizer, scaler: GradScaler | None) -> bool:
    """Whether a scaler found an overflow in the gradients of an optimizer, for the step that comes."""
    found = [fused_overflow(optimizer)]
    if scaler is not None and has_scaled(scaler):
        found += overflows_found(scaler, optimizer) or []
    return any(flag is not None and on_host(flag) > 0.0 for flag in found)


def stepping_scaler() -> GradScaler | None:
    """Return the scaler that has called the step of an optimizer, if one has."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is STEP:  # the locals of no other frame: to read them keeps what they hold alive
            return frame.f_locals["self"]
        frame = frame.f_back
    return None
