"""Gradients of a scaled loss, under `torch.amp.GradScaler`: unscale them once, whoever else does so."""

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradclip.callers import running
from gradclip.clipper.selection import parameters_in
from gradclip.numbers import Condition, as_float64, from_device
from gradclip.torch_private import forget_fused_scale, fused_overflow, fused_scale, has_scaled, overflows_found

STEP = GradScaler.step.__code__


def unscale_(optimizer: Optimizer, scaler: GradScaler | None) -> None:
    """Unscale the gradients of an optimizer, unless that was done for the step that comes."""
    scale = fused_scale(optimizer)  # where a scaler leaves it to a fused optimizer to unscale
    if scale is not None:
        inverse = as_float64(scale).reciprocal().to(torch.float32).to(scale.device)  # as torch does
        with torch.no_grad():
            for parameter in parameters_in(optimizer):
                if parameter.grad is not None:
                    parameter.grad.mul_(inverse.to(parameter.grad.device))
        forget_fused_scale(optimizer)
    elif scaler is not None and has_scaled(scaler) and not _is_unscaled(optimizer, scaler):
        scaler.unscale_(optimizer)


def _is_unscaled(optimizer: Optimizer, scaler: GradScaler) -> bool:
    """Whether a scaler has unscaled the gradients of an optimizer, or left that to its step, and a clipper has."""
    return fused_overflow(optimizer) is not None or overflows_found(scaler, optimizer) is not None


def overflow_in(optimizer: Optimizer, scaler: GradScaler | None) -> Condition:
    """Return whether a scaler found an overflow in the gradients of an optimizer, for the step that comes.

    Where that is on a device that has float64, as a 0-dim tensor of the device of the first parameter.
    """
    found = [fused_overflow(optimizer)]
    if scaler is not None and has_scaled(scaler):
        found += overflows_found(scaler, optimizer) or []
    flags = [flag for flag in found if isinstance(flag, Tensor)]  # of no gradients, a scaler sums up 0
    if not flags:
        return False
    device = parameters_in(optimizer)[0].device
    return from_device(torch.stack([flag.reshape(()).to(device) for flag in flags]).amax()) > 0.0


def stepping_scaler() -> GradScaler | None:
    """Return the scaler that has called the step of an optimizer, if one has."""
    frame = running(STEP)
    return None if frame is None else frame.f_locals["self"]  # of no other: to read them keeps what they hold alive
