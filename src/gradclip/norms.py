r"""The algebra of p-norms: what is measured on a part of the gradients, how parts combine, how a norm finishes.

The *partial* of a set of elements :math:`x` is

=====================  ====================================  ==========  ==================
order p                partial                               combine by  norm
=====================  ====================================  ==========  ==================
0                      number of :math:`x_i \ne 0`           sum         the partial
:math:`\pm\infty`      largest or smallest :math:`|x_i|`     max or min  the partial
any other              :math:`\sum_i |x_i|^p`                sum         its p-th root
=====================  ====================================  ==========  ==================

A partial is a float64: a Python `float` where it is known on the host, or a 0-dim tensor where it is on another device
(reading it would wait for that device) or inside `torch.compile`. The functions below take both.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Scalar: TypeAlias = float | Tensor

CPU = torch.device("cpu")

LARGEST_PLAIN_ORDER = 6.0
"""Up to this order, no sum of 2**31 powers of float32 numbers leaves the range of float64; above, they are taken in
units of the extremum.

Their exponents span -149 to 128, those of float64 -1074 to 1024: 149 p <= 1022 and 128 p + 31 <= 1023 give p <= 6.8.
"""

SMALLEST_UNIT = 1e-300
"""Its inverse still is a float64."""


def is_extremum(norm_type: float) -> bool:
    """Whether partials combine by maximum or minimum instead of addition."""
    return abs(norm_type) == math.inf


def is_power(norm_type: float) -> bool:
    """Whether a partial is a sum of powers, and its norm a root."""
    return norm_type != 0.0 and not is_extremum(norm_type)


def unit(extremum: Scalar) -> Scalar:
    """Return what to divide by: the extremum, or 1 where a division by it would make no number."""
    if isinstance(extremum, Tensor):
        return torch.where((extremum > SMALLEST_UNIT) & (extremum < math.inf), extremum, 1.0)
    return extremum if SMALLEST_UNIT < extremum < math.inf else 1.0


def identity(norm_type: float) -> float:
    """Return the partial of no elements."""
    return math.inf if norm_type == -math.inf else 0.0


def as_float64(value: Scalar, device: torch.device) -> Tensor:
    """Return a scalar as a 0-dim float64 tensor on a device, whatever the default device is."""
    if isinstance(value, Tensor):
        return value.to(device, torch.float64)
    return torch.tensor(value, dtype=torch.float64, device=device)


def on_host(value: Scalar) -> float:
    """Return a number as a float: the one read that waits, where the number is on another device.

    Raises:
        TypeError: If it comes from gradients on the meta device, which have none.
    """
    if not isinstance(value, Tensor):
        return value
    if value.is_meta:
        raise TypeError(
            "Gradients on the meta device have shapes and no numbers. Materialize the model before clipping."
        )
    return value.item()


def combine(partials: Sequence[Scalar], norm_type: float) -> Scalar:
    """Return the partial of a union of disjoint sets, whatever their order; tensors move to the device of the first."""
    if len(partials) == 1:
        return partials[0]
    numbers = [part for part in partials if not isinstance(part, Tensor)]
    if len(numbers) == len(partials) and not is_extremum(norm_type) and all(map(math.isfinite, numbers)):
        return _sum(numbers)
    device = next((part.device for part in partials if isinstance(part, Tensor)), None)
    values = torch.stack([as_float64(part, device or CPU) for part in partials])
    smallest_or_largest = values.amax if norm_type > 0 else values.amin  # both propagate NaN
    combined = smallest_or_largest() if is_extremum(norm_type) else values.sort().values.sum()
    return combined.item() if device is None else combined


def _sum(numbers: list[float]) -> float:
    try:
        return math.fsum(numbers)  # rounded once, so that the order does not matter
    except OverflowError:
        return math.inf


def finish(partial: Scalar, norm_type: float) -> Scalar:
    """Return the norm that a partial of all elements amounts to."""
    if isinstance(partial, Tensor):
        return finish_each(partial, norm_type)
    if norm_type == 2.0:  # noqa: PLR2004
        return math.sqrt(partial)
    # torch's power has IEEE's answers where Python's raises: 0 ** -1 and overflow.
    return finish_each(as_float64(partial, CPU), norm_type).item() if is_power(norm_type) else partial


def finish_each(partials: Tensor, norm_type: float) -> Tensor:
    """Return the norms that a tensor of partials amounts to, one by one."""
    if norm_type == 2.0:  # noqa: PLR2004
        return partials.sqrt()
    return partials.pow(1.0 / norm_type) if is_power(norm_type) else partials


def coefficient(total_norm: Scalar, max_norm: Scalar, eps: float) -> Scalar:
    """Return min(1, max_norm / (total_norm + eps)): 1 for an infinite bound, NaN for a NaN norm under a finite one."""
    if isinstance(total_norm, Tensor) and not isinstance(max_norm, Tensor) and eps > 0.0 and max_norm < math.inf:
        divisor = total_norm.to(torch.float64) + eps  # never 0
        return torch.clamp(torch.full_like(divisor, max_norm) / divisor, max=1.0)
    if isinstance(total_norm, Tensor) or isinstance(max_norm, Tensor):
        device = total_norm.device if isinstance(total_norm, Tensor) else CPU
        norm, bound = as_float64(total_norm, device), as_float64(max_norm, device)
        divisor = norm + eps
        coef = torch.clamp(bound / torch.where(divisor == 0.0, 1.0, divisor), max=1.0)
        return torch.where((bound == math.inf) | (divisor == 0.0), 1.0, coef)
    divisor = total_norm + eps
    if max_norm == math.inf or divisor == 0.0:
        return 1.0
    coef = max_norm / divisor
    return min(coef, 1.0)


def one_unless_finite(coef: Scalar, total_norm: Scalar) -> Scalar:
    """Return the coefficient, or 1 where the norm is NaN or infinite."""
    if isinstance(coef, Tensor):
        return torch.where(as_float64(total_norm, coef.device).isfinite(), coef, 1.0)
    return coef if math.isfinite(total_norm) else 1.0
