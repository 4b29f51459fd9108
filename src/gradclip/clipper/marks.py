"""Tell whether gradients have changed, without reading one."""

import weakref
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor
from torch.__future__ import get_swap_module_params_on_conversion
from torch.nn import Parameter

from gradclip.distributed.dtensor import is_dtensor
from gradclip.distributed.torch_private import local_of_dtensor
from gradclip.parameters import may_be_swapped
from gradclip.torch_private import version_of

WATCHED = 16
"""The most gradients that are looked at: spread over what is trained of the model, all where there are no more."""

Versions: TypeAlias = tuple[int, int]
"""How often a tensor had been written, and the local part of a DTensor, which is written by itself at times."""

Mark: TypeAlias = tuple[Callable[[], Tensor | None] | None, Versions]
"""The gradient of a parameter, or the local part of a DTensor, and how often it had been written. It is not kept alive,
unless it might be swapped with another."""

NONE: Mark = (None, (0, 0))
"""That of a parameter without one."""


def watched(owners: list[Tensor]) -> list[int]:
    """Return the places to watch among parameters: what is frozen, as below a new head, only where there is room."""
    trained = _spread([i for i, owner in enumerate(owners) if owner.requires_grad], WATCHED)
    frozen = _spread([i for i, owner in enumerate(owners) if not owner.requires_grad], WATCHED - len(trained))
    return sorted(trained + frozen)


def _spread(places: list[int], most: int) -> list[int]:
    return places if len(places) <= most else [places[i * len(places) // most] for i in range(most)]


def mark(owners: list[Tensor]) -> list[Mark]:
    """Return what the gradients of parameters are now."""
    are_swapped = get_swap_module_params_on_conversion()
    return [
        NONE
        if (x := owner.grad) is None
        else (weakref.ref(x), (version_of(x), 0))
        if type(x) is Tensor and type(owner) is Parameter and not are_swapped
        else _mark(owner, x)
        for owner in owners
    ]


def _mark(owner: Tensor, gradient: Tensor) -> Mark:
    """Return what any gradient is now."""
    tensor, versions = _now(gradient)
    is_kept = tensor is gradient and may_be_swapped(owner)
    return (lambda: tensor) if is_kept else weakref.ref(tensor), versions


def is_same(owner: Tensor, before: Mark) -> bool:
    """Whether a gradient is the tensor that it was, and was not written since; or is gone, and so cannot do harm."""
    gradient = owner.grad
    if gradient is None:
        return True
    (reference, versions), (tensor, now) = before, _now(gradient)
    return reference is not None and reference() is tensor and versions == now


def mark_first(owners: list[Tensor]) -> tuple[Tensor, Mark] | None:
    """Return the first parameter that has a gradient, with what that is now; None where none has."""
    first = next((owner for owner in owners if owner.grad is not None), None)
    return None if first is None else (first, mark([first])[0])


def is_same_first(owners: list[Tensor], before: tuple[Tensor, Mark] | None) -> bool:
    """Whether the first parameter that has a gradient is the one that it was, with the same; or none has any more."""
    first = next((owner for owner in owners if owner.grad is not None), None)
    return first is None or (before is not None and first is before[0] and is_same(*before))


def writes_since(owner: Tensor, before: Mark) -> int | None:
    """Return how often a gradient was written since; 0 where there is or was none, None where it was made anew.

    Of the local part of a DTensor, it is only known whether it was: adding to it may count twice.
    """
    gradient, (reference, (own, local)) = owner.grad, before
    if gradient is None or reference is None:
        return 0
    tensor, (own_now, local_now) = _now(gradient)
    if reference() is not tensor:
        return None
    return own_now - own + (local_now > local)


def _now(gradient: Tensor) -> tuple[Tensor, Versions]:
    """Return what a gradient is known by, and how often it has been written."""
    if type(gradient) is Tensor or not is_dtensor(gradient):
        return gradient, (version_of(gradient), 0)
    local = local_of_dtensor(gradient)
    return local, (version_of(gradient), version_of(local))
