r"""Numbers on the host or on a device, and the algebra of p-norms on them.

The *partial* of a set of elements :math:`x` is

=====================  ====================================  ==========  ==================
order p                partial                               combine by  norm
=====================  ====================================  ==========  ==================
0                      number of :math:`x_i \ne 0`           sum         the partial
:math:`\pm\infty`      largest or smallest :math:`|x_i|`     max or min  the partial
any other              :math:`\sum_i |x_i|^p`                sum         its p-th root
=====================  ====================================  ==========  ==================

Numbers are float64. They are Python floats if the host knows them, as it does every total norm of CPU gradients.
Otherwise they are tensors: 0-dim if the number is on another device, where reading it would wait, or inside
`torch.compile`; or one value per parameter. All functions here take both, so a policy is written once: use `where`
instead of an `if` on a value. On the host, a torch operation costs more than all the arithmetic of a policy on floats.

Floats follow IEEE 754 here, as tensors do: where Python's own operators raise an error, the result is infinite or NaN.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from gradclip.devices import is_narrow
from gradclip.tracing import is_transformed

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Scalar: TypeAlias = float | Tensor
Condition: TypeAlias = bool | Tensor

CPU = torch.device("cpu")
WIDE = {torch.float64, torch.complex128}

# The first root of a process sets up torch's library for it. Where two threads did that at once, half of the numbers
# came out wrong in the eleventh digit: in one process of forty (torch 2.13, MKL).
torch.ones(1, dtype=torch.float64, device=CPU).sqrt()

LARGEST_PLAIN_ORDER = 6.0
"""Up to this order, no sum of 2**31 powers of float32 numbers leaves the range of float64: their exponents span -149 to
128, those of float64 -1074 to 1024; 149 p <= 1022 and 128 p + 31 <= 1023 give 6.8. Above, the extremum is the unit.
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
        return extremum.masked_fill((extremum <= SMALLEST_UNIT) | (extremum == math.inf) | extremum.isnan(), 1.0)
    return extremum if SMALLEST_UNIT < extremum < math.inf else 1.0


def identity(norm_type: float) -> float:
    """Return the partial of no elements."""
    return math.inf if norm_type == -math.inf else 0.0


def home(device: torch.device) -> torch.device:
    """Return where the numbers of a device are: there, if it has float64."""
    return CPU if is_narrow(device) else device


def as_float64(value: Scalar, device: torch.device | None = None) -> Tensor:
    """Return a scalar as a 0-dim float64 tensor on a device; by default where it is, whatever the default device is."""
    if isinstance(value, Tensor):
        if value.dtype == torch.float64 and (device is None or device == value.device):
            return value
        where = home(device or value.device)
        return value.to(where).to(torch.float64) if is_narrow(value.device) else value.to(where, torch.float64)
    # `torch.tensor` would copy it there, and wait.
    return torch.full((), value, dtype=torch.float64, device=home(device or CPU))


def on_host(value: Scalar | bool) -> float:  # noqa: FBT001 -- a condition is a number too
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


def is_host(x: Tensor) -> bool:
    """Whether the numbers of a tensor can be read and nothing waits: it is on the CPU, and nobody traces it."""
    return x.device.type == "cpu" and not is_transformed()


def from_device(number: Scalar) -> Scalar:
    """Return a number as a float where reading it waits for nothing, or it has to be on the host; else as it is."""
    if isinstance(number, Tensor) and number.ndim == 0 and (is_host(number) or is_narrow(number.device)):
        return number.item()
    return number


def is_known(number: object) -> "TypeIs[float]":
    """Whether the host knows a number, so that a look at it waits for nothing."""
    return not isinstance(number, Tensor)


def is_bad(number: Scalar) -> bool:
    """Whether a number is NaN or infinite, as far as the host knows."""
    return not isinstance(number, Tensor) and not math.isfinite(number)


def is_one(number: Scalar) -> bool:
    """Whether it is one number, and not one for each of many."""
    return not isinstance(number, Tensor) or number.ndim == 0


def is_ready(number: Scalar | bool) -> bool:  # noqa: FBT001
    """Whether a number, or many, can be read and nothing waits: not so on another device."""
    return not isinstance(number, Tensor) or number.device.type == "cpu"


def any_of(condition: Condition) -> Condition:
    """Whether any of many conditions holds; of one, whether it does."""
    return condition.any() if isinstance(condition, Tensor) else condition


def combine(partials: Sequence[Scalar], norm_type: float) -> Scalar:
    """Return the partial of a union of disjoint sets, or of none, in any order; tensors move to where the first is."""
    if len(partials) <= 1:
        return partials[0] if partials else identity(norm_type)
    numbers = [part for part in partials if not isinstance(part, Tensor)]
    if len(numbers) == len(partials) and not is_extremum(norm_type) and all(map(math.isfinite, numbers)):
        return fsum(numbers)
    device = next((part.device for part in partials if isinstance(part, Tensor)), None)
    values = torch.stack([as_float64(part, device or CPU) for part in partials])
    smallest_or_largest = values.amax if norm_type > 0 else values.amin  # both propagate NaN
    combined = smallest_or_largest() if is_extremum(norm_type) else values.sort().values.sum()
    return combined.item() if device is None else combined


def fsum(numbers: Iterable[float]) -> float:
    """Return a sum of finite or positive numbers that is rounded once, so that their order does not matter."""
    try:
        return math.fsum(numbers)
    except OverflowError:
        return math.inf


def finish(partial: Scalar, norm_type: float) -> Scalar:
    """Return the norm that a partial of all elements amounts to."""
    if isinstance(partial, Tensor):
        return finish_each(partial, norm_type)
    if norm_type == 2.0:  # noqa: PLR2004
        return math.sqrt(partial)
    if partial == 0.0 and norm_type > 0.0:  # of no elements too, also where a compiler looks on
        return 0.0
    # torch's power has IEEE's answers where Python's raises: 0 ** -1 and overflow.
    return finish_each(as_float64(partial, CPU), norm_type).item() if is_power(norm_type) else partial


def finish_each(partials: Tensor, norm_type: float) -> Tensor:
    """Return the norms that a tensor of partials amounts to, one by one."""
    if norm_type == 2.0:  # noqa: PLR2004
        return partials.sqrt()
    return partials.pow(1.0 / norm_type) if is_power(norm_type) else partials


def coefficient(total_norm: Scalar, max_norm: Scalar, eps: float) -> Scalar:
    """Return min(1, max_norm / (total_norm + eps)): 1 if `max_norm` is infinite, else NaN if the norm is NaN."""
    if type(total_norm) is float and type(max_norm) is float:
        divisor = total_norm + eps
        if max_norm == math.inf or divisor == 0.0:
            return 1.0
        coef = max_norm / divisor
        return min(coef, 1.0)  # in this order, NaN stays
    if not isinstance(max_norm, Tensor) and max_norm == math.inf:  # which the host knows to change nothing
        return 1.0
    if isinstance(total_norm, Tensor) and not isinstance(max_norm, Tensor) and eps > 0.0:
        divisor = total_norm.to(torch.float64) + eps  # never 0
        return torch.clamp(torch.full_like(divisor, max_norm) / divisor, max=1.0)
    device = total_norm.device if isinstance(total_norm, Tensor) else CPU
    norm, bound = as_float64(total_norm, device), as_float64(max_norm, device)
    divisor = norm + eps
    coef = torch.clamp(bound / torch.where(divisor == 0.0, 1.0, divisor), max=1.0)
    return torch.where((bound == math.inf) | (divisor == 0.0), 1.0, coef)


FEW = 16
"""Numbers up to which a rule of a dozen operations takes them one by one: one of torch on a vector costs as much."""


def where(condition: Condition, yes: Scalar, no: Scalar) -> Scalar:
    """Return `yes` if the condition holds, else `no`; element by element for tensors."""
    if not isinstance(condition, Tensor):
        return yes if condition else no
    if isinstance(yes, Tensor):
        return torch.where(condition, yes, no)
    if not isinstance(no, Tensor):  # torch would make float32 of two Python numbers
        no = torch.full_like(condition, no, dtype=torch.float64)
    return no.masked_fill(condition, yes)  # in a launch less than `torch.where`


def minimum(a: Scalar, b: Scalar) -> Scalar:
    """Return the smaller of two numbers; NaN if either is NaN."""
    if isinstance(a, Tensor):
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)
    if isinstance(b, Tensor):
        return b.clamp(max=a)
    return b if b < a or b != b else a  # noqa: PLR0124 -- true for NaN


def maximum(a: Scalar, b: Scalar) -> Scalar:
    """Return the larger of two numbers; NaN if either is NaN."""
    if isinstance(a, Tensor):
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)
    if isinstance(b, Tensor):
        return b.clamp(min=a)
    return b if b > a or b != b else a  # noqa: PLR0124


def ratio(a: Scalar, b: Scalar) -> Scalar:
    """Return a / b: infinite if only b is 0, NaN if both are 0."""
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


def isnan(x: Scalar) -> Condition:
    """Whether a number is NaN."""
    return x.isnan() if isinstance(x, Tensor) else math.isnan(x)


def not_(condition: Condition) -> Condition:
    """Whether a condition does not hold."""
    return ~condition if isinstance(condition, Tensor) else not condition


def truth(x: Condition | Scalar) -> Condition:
    """Return whether something holds that may be said by any number: a tensor where it would have to be read."""
    x = from_device(x)
    return x.to(torch.bool) if isinstance(x, Tensor) else bool(x)


def isfinite(x: Scalar) -> Condition:
    """Whether a number is neither NaN nor infinite."""
    return x.isfinite() if isinstance(x, Tensor) else math.isfinite(x)


def bring_down(norm: Scalar, bound: Scalar, eps: float) -> Scalar:
    """Return the coefficient that brings a norm down to a bound: exactly 1 for a norm that is not above it.

    `coefficient`, the formula of `clip_grad_norm_`, also shrinks a norm that equals the bound, by one part in
    `norm / eps`. A learned bound often equals the norm, and gradients would then be rewritten for no benefit.
    """
    return where(norm > bound, ratio(bound, norm + eps), 1.0)


def mapped(rule: Callable[..., tuple[Scalar, ...]], *vectors: Tensor) -> tuple[Tensor, ...]:
    """Apply a rule for one number to vectors: to all numbers at once or, where few are on the host, one by one."""
    size = len(vectors[0])
    if not 0 < size <= FEW or not is_host(vectors[0]):
        return rule(*vectors)  # pyrefly: ignore[bad-return] -- of tensors, tensors
    numbers = [rule(*each) for each in zip(*(vector.tolist() for vector in vectors), strict=True)]
    return torch.tensor(list(zip(*numbers, strict=True)), dtype=torch.float64, device=CPU).unbind()
