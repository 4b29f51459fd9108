"""Tell whether gradients have changed, without reading one."""

import weakref
from typing import TypeAlias

from torch import Tensor

WATCHED = 16
"""The most gradients that are looked at: spread over the model, all where there are no more."""

Mark: TypeAlias = tuple[weakref.ref[Tensor] | None, int]
"""The gradient of a parameter, which is not kept alive, and how often it had been written."""


def watched(count: int) -> list[int]:
    """Return the positions to watch among so many parameters."""
    return list(range(count)) if count <= WATCHED else [i * count // WATCHED for i in range(WATCHED)]


def mark(owners: list[Tensor]) -> list[Mark]:
    """Return what the gradients of parameters are now."""
    try:
        return [
            (None, 0)
            if (x := owner.grad) is None
            else (weakref.ref(x), x._version if type(x) is Tensor else _version(x))
            for owner in owners
        ]
    except RuntimeError:  # one has no version
        return [(None, 0) if (x := owner.grad) is None else (weakref.ref(x), _version(x)) for owner in owners]


def is_same(owner: Tensor, before: Mark) -> bool:
    """Whether a gradient is the tensor that it was, and was not written since; or is gone, and so cannot do harm."""
    gradient = owner.grad
    if gradient is None:
        return True
    reference, version = before
    return reference is not None and reference() is gradient and version == _version(gradient)


def writes_since(owner: Tensor, before: Mark) -> int | None:
    """Return how often a gradient was written since; 0 where there is or was none, None where it was made anew."""
    gradient, (reference, version) = owner.grad, before
    if gradient is None or reference is None:
        return 0
    return _version(gradient) - version if reference() is gradient else None


def _version(gradient: Tensor) -> int:
    written = gradient if type(gradient) is Tensor else getattr(gradient, "_local_tensor", gradient)  # of a DTensor
    try:
        return written._version
    except RuntimeError:  # that of an inference tensor is not counted
        return 0
