"""Arithmetic that reads the same wherever the numbers are.

A rule is written once, without a branch on a value: `where`, not `if`. Its numbers are Python floats where the host
knows them, which is every total norm of CPU gradients, and float64 tensors elsewhere: on another device, which is never
waited for, or one value a parameter. On the host this makes a rule many times cheaper than torch operations on 0-dim
tensors, each of which costs more than all the arithmetic of the rule.

Floats follow IEEE 754 here, as tensors do: what Python's own operators raise for is infinite or NaN.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from gradclip.norms import CPU, Scalar
from gradclip.tracing import is_traced

Condition: TypeAlias = bool | Tensor

FEW = 32
"""Numbers up to which they are taken one by one."""


def where(condition: Condition, yes: Scalar, no: Scalar) -> Scalar:
    """Return `yes` where the condition holds, `no` elsewhere."""
    if not isinstance(condition, Tensor):
        return yes if condition else no
    if not isinstance(yes, Tensor) and not isinstance(no, Tensor):  # torch would make float32 of two Python numbers
        yes = torch.full_like(condition, yes, dtype=torch.float64)
    return torch.where(condition, yes, no)


def minimum(a: Scalar, b: Scalar) -> Scalar:
    """Return the smaller of two numbers; NaN if one is."""
    if isinstance(a, Tensor):
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)
    if isinstance(b, Tensor):
        return b.clamp(max=a)
    return b if b < a or b != b else a  # noqa: PLR0124 -- true for NaN


def maximum(a: Scalar, b: Scalar) -> Scalar:
    """Return the larger of two numbers; NaN if one is."""
    if isinstance(a, Tensor):
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)
    if isinstance(b, Tensor):
        return b.clamp(min=a)
    return b if b > a or b != b else a  # noqa: PLR0124


def ratio(a: Scalar, b: Scalar) -> Scalar:
    """Return a / b: infinite where only b is 0, NaN where both are."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a / b
    if b == 0.0:
        return math.nan if a == 0.0 or a != a else math.copysign(math.inf, a)  # noqa: PLR0124
    return a / b


def hypot(a: float, x: Scalar) -> Scalar:
    """Return the square root of the sum of the squares, none of which leaves the range of float64."""
    return torch.hypot(torch.full_like(x, a), x) if isinstance(x, Tensor) else math.hypot(a, x)


def sqrt(x: Scalar) -> Scalar:
    """Return the square root."""
    if isinstance(x, Tensor):
        return x.sqrt()
    return math.sqrt(x) if x >= 0.0 else math.nan


def tanh(x: Scalar) -> Scalar:
    """Return the hyperbolic tangent."""
    return x.tanh() if isinstance(x, Tensor) else math.tanh(x)


def isfinite(x: Scalar) -> Condition:
    """Whether a number is neither NaN nor infinite."""
    return x.isfinite() if isinstance(x, Tensor) else math.isfinite(x)


def bring_down(norm: Scalar, bound: Scalar, eps: float) -> Scalar:
    """Return the coefficient that brings a norm down to a bound: exactly 1 for a norm that is not above it.

    `norms.coefficient`, the formula of `clip_grad_norm_`, also shrinks a norm that equals the bound, by one part in
    `norm / eps`. A learned bound often equals the norm, and gradients would be rewritten for nothing.
    """
    return where(norm > bound, ratio(bound, norm + eps), 1.0)


def mapped(rule: Callable[..., tuple[Scalar, ...]], *vectors: Tensor) -> tuple[Tensor, ...]:
    """Apply a rule for one number to vectors: to all numbers at once, or on the host, where they are few, one by one.

    A torch operation on a vector costs there as much as a rule of a dozen operations does for one number.
    """
    size = len(vectors[0])
    if not 0 < size <= FEW or vectors[0].device != CPU or is_traced():
        return rule(*vectors)  # pyrefly: ignore[bad-return] -- of tensors, tensors
    numbers = [rule(*each) for each in zip(*(vector.tolist() for vector in vectors), strict=True)]
    return torch.tensor(list(zip(*numbers, strict=True)), dtype=torch.float64).unbind()
