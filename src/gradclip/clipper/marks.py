"""Tell whether gradients have changed, without reading one."""

import weakref
from typing import TypeAlias

from torch import Tensor

WATCHED = 16
"""The most gradients that are looked at: spread over the model, all where there are no more."""

Versions: TypeAlias = tuple[int, int]
"""How often a tensor had been written, and the local part of a DTensor, which is written by itself at times."""

Mark: TypeAlias = tuple[weakref.ref[Tensor] | None, Versions]
"""The gradient of a parameter, which is not kept alive, and how often it had been written."""

NONE: Mark = (None, (0, 0))
"""That of a parameter without one."""


def watched(count: int) -> list[int]:
    """Return the positions to watch among so many parameters."""
    return list(range(count)) if count <= WATCHED else [i * count // WATCHED for i in range(WATCHED)]


def mark(owners: list[Tensor]) -> list[Mark]:
    """Return what the gradients of parameters are now."""
    try:
        return [
            NONE
            if (x := owner.grad) is None
            else (weakref.ref(x), (x._version, 0) if type(x) is Tensor else _versions(x))
            for owner in owners
        ]
    except RuntimeError:  # one has no version
        return [NONE if (x := owner.grad) is None else (weakref.ref(x), _versions(x)) for owner in owners]


def is_same(owner: Tensor, before: Mark) -> bool:
    """Whether a gradient is the tensor that it was, and was not written since; or is gone, and so cannot do harm."""
    gradient = owner.grad
    if gradient is None:
        return True
    reference, versions = before
    return reference is not None and reference() is gradient and versions == _versions(gradient)


def writes_since(owner: Tensor, before: Mark) -> int | None:
    """Return how often a gradient was written since; 0 where there is or was none, None where it was made anew.

    Of the local part of a DTensor, it is only known whether it was: adding to it may count twice.
    """
    gradient, (reference, (own, local)) = owner.grad, before
    if gradient is None or reference is None:
        return 0
    if reference() is not gradient:
        return None
    own_now, local_now = _versions(gradient)
    return own_now - own + (local_now > local)


def _versions(gradient: Tensor) -> Versions:
    local = gradient if type(gradient) is Tensor else getattr(gradient, "_local_tensor", gradient)
    try:
        return gradient._version, 0 if local is gradient else local._version
    except RuntimeError:  # that of an inference tensor is not counted
        return 0, 0
