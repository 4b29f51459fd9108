"""Gradients of a scaled loss, under `torch.amp.GradScaler`: unscale them once, whoever else does so."""

import sys

import torch
from torch.amp import GradScaler
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

STEP = GradScaler.step.__code__


def unscale_(optimizer: Optimizer, scaler: GradScaler | None) -> None:
    """Unscale the gradients of an optimizer, unless that was done for the step that comes.

    Args:
        optimizer: Where a scaler leaves it to a fused optimizer to unscale, it has told it the scale.
        scaler: The scaler of its loss, if it is known.
    """
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None:
        inverse = scale.double().reciprocal().float()  # as torch does
        with torch.no_grad():
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                if parameter.grad is not None:
                    parameter.grad.mul_(inverse.to(parameter.grad.device))
        optimizer.grad_scale = None  # type: ignore[attr-defined] # pyrefly: ignore[missing-attribute]
    elif scaler is not None and _has_scaled(scaler):
        state = scaler._per_optimizer_states.get(id(optimizer))
        if state is None or state["stage"] is OptState.READY:
            scaler.unscale_(optimizer)


def has_overflow(optimizer: Optimizer, scaler: GradScaler | None) -> bool:
    """Whether a scaler found an overflow in the gradients of an optimizer, for the step that comes."""
    found = [getattr(optimizer, "found_inf", None)]
    if scaler is not None and _has_scaled(scaler):
        state = scaler._per_optimizer_states.get(id(optimizer))
        found += [] if state is None else state["found_inf_per_device"].values()
    return any(flag is not None and float(flag) > 0.0 for flag in found)


def stepping_scaler() -> GradScaler | None:
    """Return the scaler that has called the step of an optimizer, if one has."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is STEP:  # the locals of no other frame: to read them keeps what they hold alive
            return frame.f_locals["self"]
        frame = frame.f_back
    return None


def _has_scaled(scaler: GradScaler) -> bool:
    return scaler.is_enabled() and scaler._scale is not None
