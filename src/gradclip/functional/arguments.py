"""Checks of what the functions take: bounds, norms, and what to do about those that are not finite."""

import math
from typing import Literal, TypeAlias, get_args

from torch import Tensor

from gradclip.numbers import from_device
from gradclip.validation import check_number, check_word, holds_one_real, real, refuse_none, warn_of_zero

NonFinite: TypeAlias = Literal["propagate", "raise", "keep", "sanitize"]
"""What the functions do with a total norm that is NaN or infinite."""

NON_FINITE = get_args(NonFinite)


def check_max_norm(function: str, value: object, argument: str = "max_norm") -> float | Tensor:
    """Return a bound as a float, or as it is where it is a tensor on another device (it is never read back)."""
    if type(value) is float and value > 0.0:
        return value
    if value is None:
        refuse_none(function, argument)
    value = _number_of(value)
    if isinstance(value, Tensor):
        if holds_one_real(value):
            return value
        msg = (
            f"`{function}({argument}=...)` must hold one real number, got a {value.dtype} tensor of shape "
            f"{tuple(value.shape)}. Pass a float or a 0-dim tensor."
        )
        raise ValueError(msg)
    number = check_number(function, argument, value, at_least=0.0, advice="To switch clipping off, pass `math.inf`.")
    if function != "clip_coefficient":  # which changes nothing
        warn_of_zero(function, argument, number)
    return number


def check_total_norm(function: str, value: object) -> float | Tensor:
    """Return a norm as a float, or as it is where it is a tensor on another device; NaN is a norm too."""
    value = _number_of(value)
    if isinstance(value, Tensor) and holds_one_real(value):
        return value
    number = real(function, "total_norm", value)
    if number < 0.0:
        msg = f"`{function}(total_norm=...)` must be >= 0, got {value!r}. Pass what `get_total_norm` returned."
        raise ValueError(msg)
    return number


def check_eps(function: str, value: object) -> float:
    """Return the number added to the norm before dividing by it."""
    if type(value) is float and 0.0 <= value < math.inf:
        return value
    return check_number(function, "eps", value, at_least=0.0, finite=True, advice="torch's value is 1e-6.")


def check_nonfinite(function: str, value: NonFinite, *, error_if_nonfinite: bool) -> NonFinite:
    """Return the one answer to a non-finite norm that the two arguments give together."""
    if value == "propagate":
        return "raise" if error_if_nonfinite else value
    check_word(function, "nonfinite", value, NON_FINITE)
    if error_if_nonfinite and value != "raise":
        msg = (
            f"`{function}(nonfinite=...)` must agree with `error_if_nonfinite=True`, got {value!r}. "
            "Leave one of the two at its default."
        )
        raise ValueError(msg)
    return value


def _number_of(value: object) -> object:
    """Return a tensor of one number as a float, or 0-dim where it is; of a DTensor, what all ranks have; else as it is.

    A norm that `torch.nn.utils` has returned is such a DTensor.
    """
    if not isinstance(value, Tensor):
        return value
    full_tensor = getattr(value, "full_tensor", None)
    whole: Tensor = value if full_tensor is None else full_tensor()
    return from_device(whole.detach().reshape(())) if holds_one_real(whole) else whole
