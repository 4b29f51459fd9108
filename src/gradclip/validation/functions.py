"""Checks of what the functions take: parameters, gradients, bounds, orders."""

import math
from collections.abc import Iterator, Mapping
from types import GeneratorType
from typing import Literal, NoReturn, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import Parameter

from gradclip.exceptions import OverlappingGradientError
from gradclip.tracing import is_traced
from gradclip.validation.numbers import check_word, real, refuse_none, warn_of_zero

NonFinite: TypeAlias = Literal["propagate", "raise", "keep", "sanitize"]
"""What the functions do with a total norm that is NaN or infinite."""


def check_max_norm(function: str, value: object, argument: str = "max_norm") -> float | Tensor:
    """Return a bound as a float, or as it is where it is a tensor on another device (it is never read back)."""
    if type(value) is float and value > 0.0:
        return value
    if value is None:
        refuse_none(function, argument)
    value = _full(value)
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex() or value.dtype == torch.bool:
            msg = (
                f"`{function}({argument}=...)` must hold one real number, got a {value.dtype} tensor of shape "
                f"{tuple(value.shape)}. Pass a float or a 0-dim tensor."
            )
            raise ValueError(msg)
        if type(value) not in {Tensor, Parameter} or value.device.type != "cpu" or is_traced():
            return value.detach().reshape(())
        value = value.item()
    number = real(function, argument, value)
    if not number >= 0.0:
        msg = f"`{function}({argument}=...)` must be >= 0, got {value!r}. To switch clipping off, pass `math.inf`."
        raise ValueError(msg)
    if function != "clip_coefficient":  # which changes nothing
        warn_of_zero(function, argument, number)
    return number


def check_total_norm(function: str, value: object) -> float | Tensor:
    """Return a norm as a float, or as it is where it is a tensor on another device; NaN is a norm too."""
    value = _full(value)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool:
        if type(value) not in {Tensor, Parameter} or value.device.type != "cpu" or is_traced():
            return value.detach().reshape(())
        value = value.item()
    number = real(function, "total_norm", value)
    if number < 0.0:
        msg = f"`{function}(total_norm=...)` must be >= 0, got {value!r}. Pass what `get_total_norm` returned."
        raise ValueError(msg)
    return number


def check_eps(function: str, value: object) -> float:
    """Return the number added to the norm before dividing by it."""
    if type(value) is float and 0.0 <= value < math.inf:
        return value
    number = real(function, "eps", value)
    if not 0.0 <= number < math.inf:
        msg = f"`{function}(eps=...)` must be finite and >= 0, got {value!r}. torch's value is 1e-6."
        raise ValueError(msg)
    return number


def check_nonfinite(function: str, value: NonFinite, *, error_if_nonfinite: bool) -> NonFinite:
    """Return the one answer to a non-finite norm that the two arguments give together."""
    if value == "propagate":
        return "raise" if error_if_nonfinite else value
    check_word(function, "nonfinite", value, get_args(NonFinite))
    if error_if_nonfinite and value != "raise":
        msg = (
            f"`{function}(nonfinite=...)` must agree with `error_if_nonfinite=True`, got {value!r}. "
            "Leave one of the two at its default."
        )
        raise ValueError(msg)
    return value


def warn_if_exhausted(argument: str, given: object) -> str | None:
    """Return the warning that an empty iterator deserves, or None where an empty input is just empty."""
    if isinstance(given, GeneratorType):
        return f"`{argument}` is an empty generator, no gradient clipping will occur."  # torch's own words
    if isinstance(given, Iterator):
        kind = type(given).__name__
        return (
            f"`{argument}` is an exhausted {kind}, no gradient clipping will occur. "
            "An iterator can be walked once: pass a list, or the module."
        )
    return None


def refuse_parameters(function: str, argument: str, given: object) -> NoReturn:
    """Raise for an object that holds no parameters, or in a form that hides them."""
    advice = "Pass its `.values()` or `.items()`." if isinstance(given, Mapping) else "Pass `model.parameters()`."
    msg = (
        f"`{function}({argument}=...)` must be a Tensor, an iterable of Tensors or (name, Tensor) pairs, a Module or "
        f"an Optimizer, got {type(given).__name__}. {advice}"
    )
    raise TypeError(msg)


def refuse_element(function: str, argument: str, name: str, given: object) -> NoReturn:
    """Raise for an element that is not a tensor."""
    advice = "Pass `itertools.chain(...)` of the parameters of each." if hasattr(given, "__iter__") else ""
    if isinstance(given, Mapping):
        advice = "Make its `params` a list." if "params" in given else "Pass its `.values()` or `.items()`."
    msg = f"`{function}({argument}=...)` must hold Tensors, got {type(given).__name__} at {name}. {advice}".rstrip()
    raise TypeError(msg)


def refuse_gradients(function: str) -> NoReturn:
    """Raise for gradients where parameters are expected: torch would return 0 and clip nothing."""
    msg = (
        f"`{function}(parameters=...)` must hold parameters, got tensors that neither have nor can get a gradient. "
        "To work on gradients themselves, call `get_total_norm(gradients)`; to clip them, as those of "
        "`torch.autograd.grad`, multiply each by `clip_coefficient(total_norm, max_norm)`, or pass the parameters that "
        "own them."
    )
    raise TypeError(msg)


def refuse_gradient(function: str, name: str, gradient: Tensor, reason: str) -> NoReturn:
    """Raise for a gradient of a kind that has no norm here."""
    msg = (
        f"`{function}` must be given real or complex floating-point gradients, got {type(gradient).__name__} of "
        f"{gradient.dtype} ({gradient.layout}) at {name}. {reason}"
    )
    raise TypeError(msg)


def refuse_same_name(function: str, name: str) -> NoReturn:
    """Raise for two parameters of one name, where results go by name."""
    msg = f"`{function}(parameters=...)` must name every parameter differently, got {name!r} twice. Prefix the names."
    raise ValueError(msg)


def refuse_overlap(function: str, name: str, gradient: Tensor) -> NoReturn:
    """Raise for a gradient, such as an expanded one, whose elements share memory."""
    msg = (
        f"`{function}` must be able to write each element for itself, got a gradient with several elements at one "
        f"place in memory (shape {tuple(gradient.shape)}, strides {gradient.stride()}) at {name}. "
        "Assign `p.grad = p.grad.clone()` first."
    )
    raise OverlappingGradientError(msg)


def _full(value: object) -> object:
    """Return a DTensor as the plain tensor that all ranks have, as of a norm that `torch.nn.utils` has returned."""
    full_tensor = getattr(value, "full_tensor", None) if isinstance(value, Tensor) else None
    return value if full_tensor is None else full_tensor()
