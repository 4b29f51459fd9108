"""Measure, by torch alone and in float64, what an optimizer is about to use."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradclip.clipper.hooks import StepArguments, once_gradients_exist
from gradclip.clipper.selection import parameters_in
from gradclip.torch_private import fused_overflow, fused_scale, run_last
from gradclip.validation import check_number

ROUNDINGS = 4
"""How many units of the last place of the coarsest dtype a norm may be above its bound, where nothing else is said."""


@contextmanager
def assert_clipped(
    optimizer: Optimizer, max_norm: float, norm_type: float = 2.0, *, rtol: float | None = None
) -> Generator[None]:
    """Assert that every step of an optimizer inside a `with` statement uses gradients of a bounded total norm.

    It does not clip, and does not rely on any clipper: right before the update, after all other hooks, it measures the
    gradients in float64. So it works for any way of clipping, including torch's. Gradients that are DTensors are
    gathered, so all ranks have to step.

    Args:
        optimizer: The optimizer whose steps are checked; all its parameters count.
        max_norm: The largest total norm allowed.
        norm_type: The order p of the norm.
        rtol: How far above `max_norm` the norm may be, as a share of it; None for the rounding of the dtype of the
            gradients. Clipping that computes in low precision may need more.

    Raises:
        AssertionError: At the step whose norm is above `max_norm`, with its number and norm; at the end if no step ran.
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> from gradclip.testing import assert_clipped
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with assert_clipped(optimizer, max_norm=0.1):
        ...     model(torch.ones(4, 2)).sum().backward()
        ...     norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        ...     optimizer.step()
        >>> with assert_clipped(optimizer, max_norm=0.1):
        ...     model(torch.ones(4, 2)).sum().backward()
        ...     optimizer.step()
        Traceback (most recent call last):
        AssertionError: step 1 of SGD used gradients of total norm ..., above max_norm 0.1...
    """
    if not isinstance(optimizer, Optimizer):
        msg = f"`assert_clipped(optimizer=...)` must be a torch optimizer, got {type(optimizer).__name__}."
        raise TypeError(msg)
    bound = check_number("assert_clipped", "max_norm", max_norm, at_least=0.0)
    order = check_number("assert_clipped", "norm_type", norm_type, above=0.0)
    share = None if rtol is None else check_number("assert_clipped", "rtol", rtol, at_least=0.0)
    steps = 0

    def before_step(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepArguments | None:
        nonlocal steps
        steps += 1
        name = f"step {steps} of {type(optimizer).__name__}"
        return once_gradients_exist(args, kwargs, lambda _: _assert_bounded(name, optimizer, bound, order, share))

    last = optimizer.register_step_pre_hook(before_step)

    def stay_last(stepping: Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG001
        if stepping is optimizer:  # hooks that were registered since run before it
            run_last(optimizer, last)

    first = register_optimizer_step_pre_hook(stay_last)
    try:
        yield
    finally:
        first.remove()
        last.remove()
    if steps == 0:
        msg = f"no step of {type(optimizer).__name__} ran inside `assert_clipped`, so nothing was proved"
        raise AssertionError(msg)


def _assert_bounded(step: str, optimizer: Optimizer, max_norm: float, norm_type: float, rtol: float | None) -> None:
    if float(fused_overflow(optimizer) or 0.0) > 0.0:
        return  # a scaler has found an overflow, and the step uses nothing
    gradients = _gradients(optimizer)
    scale = fused_scale(optimizer)  # which a fused optimizer divides by
    norm = _norm(gradients, norm_type) / (1.0 if scale is None else float(scale))
    if rtol is None:
        rtol = ROUNDINGS * max((torch.finfo(x.dtype).eps for x in gradients), default=0.0)
    if not norm <= max_norm * (1.0 + rtol):
        msg = (
            f"{step} used gradients of total norm {norm:.9g}, above max_norm {max_norm:g} by more than a share of "
            f"{rtol:.2g}"
        )
        raise AssertionError(msg)


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    parameters = {id(p): p for p in parameters_in(optimizer)}
    found = [p.grad.detach() for p in parameters.values() if p.grad is not None]
    return [_whole(x) for x in found]


def _whole(x: Tensor) -> Tensor:
    """Return all that a gradient holds as a dense tensor: of a DTensor, on all ranks."""
    full_tensor = getattr(x, "full_tensor", None)
    x = x if full_tensor is None else full_tensor()
    return x.coalesce().values() if x.is_sparse else x


def _norm(gradients: list[Tensor], norm_type: float) -> float:
    """Return the p-norm of all elements, in float64 and in units of the largest, so that no power overflows."""
    sizes = (
        torch.cat([x.reshape(-1).abs().to("cpu", torch.float64) for x in gradients]) if gradients else torch.zeros(0)
    )
    largest = float(sizes.max()) if len(sizes) else 0.0
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * float(torch.linalg.vector_norm(sizes / largest, norm_type))
