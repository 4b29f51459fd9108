"""Checks of plain numbers and words."""

import math
from typing import Any, NoReturn, SupportsFloat, cast

import torch
from torch import Tensor

from gradclip import callers
from gradclip.tracing import is_traced


def real(function: str, argument: str, value: object, advice: str = "") -> float:
    """Return anything that is one real number, and neither a truth value nor a word, as a float."""
    try:
        if _is_number(value):
            return float(cast("SupportsFloat", value))
    except OverflowError:
        msg = f"`{function}({argument}=...)` must be a number that a float can hold, got a larger one."
        raise ValueError(msg) from None
    except (TypeError, ValueError):  # as of an array, or a number that stands for an error
        pass
    msg = f"`{function}({argument}=...)` must be a number, got {value!r} ({type(value).__name__}). {advice}".rstrip()
    raise TypeError(msg)


def holds_one_real(x: Tensor) -> bool:
    """Whether a tensor is one real number, and no truth value."""
    return x.numel() == 1 and not x.is_complex() and x.dtype != torch.bool and x.layout == torch.strided


NO_NUMBERS = frozenset("bcmM")
"""NumPy's kinds of truth values, complex numbers, times and dates, of which Python may make a float all the same."""


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return holds_one_real(value) and not value.is_meta
    if isinstance(value, (bool, str, bytes)) or getattr(getattr(value, "dtype", None), "kind", None) in NO_NUMBERS:
        return False
    return hasattr(value, "__float__") or hasattr(value, "__index__")


def check_number(
    function: str,
    argument: str,
    value: object,
    *,
    at_least: float = -math.inf,
    above: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
    finite: bool = False,
    integer: bool = False,
    advice: str = "",
) -> float:
    """Return a number of a range as a float."""
    number = real(function, argument, value, advice)
    inside = at_least <= number <= at_most and not (number <= above > -math.inf) and not (number >= below < math.inf)
    if not inside or (finite and math.isinf(number)) or (integer and number % 1.0 != 0.0):
        bounds = [
            f">= {at_least:g}" if at_least > -math.inf else "",
            f"> {above:g}" if above > -math.inf else "",
            f"<= {at_most:g}" if at_most < math.inf else "",
            f"< {below:g}" if below < math.inf else "",
        ]
        kind = "an integer" if integer else "finite" if finite else ""
        requirement = " and ".join(part for part in [kind, *bounds] if part)
        msg = f"`{function}({argument}=...)` must be {requirement}, got {value!r}. {advice}".rstrip()
        raise ValueError(msg)
    return number


def check_field(owner: object, argument: str, *, integer: bool = False, **limits: Any) -> None:
    """Check a field of a frozen dataclass as `check_number` does, and make it a float, or an int if it must be one."""
    number = check_number(type(owner).__name__, argument, getattr(owner, argument), integer=integer, **limits)
    object.__setattr__(owner, argument, int(number) if integer else number)


def warn_of_zero(function: str, argument: str, bound: float) -> None:
    """Warn once of a bound of 0, which switches clipping off in other libraries."""
    if bound == 0.0 and not is_traced():
        callers.warn_once(
            f"`{function}({argument}=0)` sets every gradient to 0, where other libraries take it for no clipping. To "
            "switch clipping off, pass `math.inf`."
        )


def refuse_none(function: str, argument: str) -> NoReturn:
    """Raise for None as a bound, which is none in other libraries."""
    number = "must be a number, got None (NoneType)"
    msg = f"`{function}({argument}=...)` {number}. To switch clipping off, pass `math.inf`."
    raise TypeError(msg)


def check_flag(owner: object, argument: str) -> None:
    """Check a field that is true or false."""
    value = getattr(owner, argument)
    if not isinstance(value, bool):
        msg = f"`{type(owner).__name__}({argument}=...)` must be True or False, got {value!r}."
        raise TypeError(msg)


def check_bound(
    owner: object, argument: str = "max_norm", *, advice: str = "To switch clipping off, pass `math.inf`."
) -> None:
    """Check a field that is a bound, and make it a float."""
    if getattr(owner, argument) is None:
        refuse_none(type(owner).__name__, argument)
    check_field(owner, argument, at_least=0.0, advice=advice)
    warn_of_zero(type(owner).__name__, argument, getattr(owner, argument))


REQUIRED: Any = type("Required", (), {"__repr__": lambda _: "<required>", "__doc__": "What has to be given."})()
"""In place of the ceiling of a rule that learns, so that its absence can be explained."""


def check_ceiling(owner: object) -> None:
    """Check the field `max_norm` of a rule that learns, and make it a float."""
    if getattr(owner, "max_norm", REQUIRED) is REQUIRED:
        name = type(owner).__name__
        msg = (
            f"`{name}(max_norm=...)` must be given: a rule that learns its bound from the run needs a ceiling, since "
            f"of a run that explodes it learns that explosions are normal. Pass the largest norm to let through, as in "
            f"`{name}(max_norm=1.0)`, or `math.inf` where something else bounds."
        )
        raise TypeError(msg)
    check_bound(owner, advice="For no ceiling, pass `math.inf`.")


def check_norm_type(function: str, value: object) -> float:
    """Return the order of a norm as a float: any real number, infinities included."""
    if type(value) is float and value == value:  # noqa: PLR0124 -- false for NaN, and cheaper than a call
        return value
    if isinstance(value, str):  # as from a command line: torch takes what `float` does
        try:
            value = float(value)
        except ValueError:
            msg = f"`{function}(norm_type=...)` must be a number or 'inf', got {value!r}. Pass the order of the norm."
            raise ValueError(msg) from None
    number = real(function, "norm_type", value)
    if math.isnan(number):
        msg = f"`{function}(norm_type=...)` must be a number, got nan. Pass the order p of the p-norm, such as 2.0."
        raise ValueError(msg)
    return number


def check_positive_order(owner: object, *, at_most: float = math.inf) -> None:
    """Check the order of a norm that decides about a step, and make it a float; infinity is always allowed."""
    function = type(owner).__name__
    order = check_norm_type(function, getattr(owner, "norm_type", None))
    if not order > 0.0:
        msg = (
            f"`{function}(norm_type=...)` must be > 0, got {order:g}. Norms of other orders do not shrink with the "
            "gradients; `gradclip.clip_grad_norm_` takes them."
        )
        raise ValueError(msg)
    if not order <= at_most and order != math.inf:
        msg = f"`{function}(norm_type=...)` must be <= {at_most:g} or `math.inf`, got {order:g}."
        raise ValueError(msg)
    object.__setattr__(owner, "norm_type", order)


def check_word(function: str, argument: str, value: object, choices: tuple[str, ...], advice: str = "") -> None:
    """Check that an argument is one of a few words."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        msg = f"`{function}({argument}=...)` must be one of {listed}, got {value!r}. {advice}".rstrip()
        raise ValueError(msg)


def check_choice(owner: object, argument: str, choices: tuple[str, ...]) -> None:
    """Check that a field of an object is one of a few words."""
    check_word(type(owner).__name__, argument, getattr(owner, argument), choices)
