"""What a tensor cannot say of itself: which ranks hold pieces of it, tensors of their own in its place, or copies."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from torch import Tensor

from gradclip.distributed.dtensor import spec_of
from gradclip.distributed.share import declared_groups
from gradclip.distributed.span import Group, check_groups
from gradclip.parameters import (
    Parameters,
    flatten,
    matches,
    may_be_swapped,
    named,
    refuse_no_parameters,
    refuse_pattern,
)

Groups: TypeAlias = Group | Sequence[Group]


@final
@dataclass(frozen=True)
class Ownership:
    """Which ranks hold a parameter, beyond what a DTensor already says.

    Args:
        sharded: The group, or groups, whose ranks hold pieces of the same parameter, as in tensor parallelism. Its norm
            is that of all pieces together.
        disjoint: The groups whose ranks hold other parameters of the same model, such as pipeline stages or experts.
            They are part of the total norm.
        replicated: The groups whose ranks hold copies of it, with the same gradient. This is needed if you pass a
            `group` of the whole model, and otherwise changes nothing.
        counted: Whether it is part of the total norm. Pass False for one of the copies of a tied parameter that two
            stages hold. It is still scaled.
        numel: The number of elements of the whole parameter, for policies that need it; by default, all pieces are
            assumed to have the same size.

    Example:
        >>> from gradclip.distributed import Ownership
        >>> Ownership(counted=False)
        Ownership(sharded=(), disjoint=(), replicated=(), counted=False, numel=None)
    """

    sharded: Groups = ()
    disjoint: Groups = ()
    replicated: Groups = ()
    counted: bool = True
    numel: int | None = None

    def __post_init__(self) -> None:
        for argument in ("sharded", "disjoint", "replicated"):
            groups = listed(getattr(self, argument))
            check_groups("Ownership", argument, groups)
            object.__setattr__(self, argument, groups)


def listed(groups: Groups) -> tuple[Group, ...]:
    """Return one group, or several, as a tuple."""
    return tuple(groups) if isinstance(groups, Sequence) else (groups,)


DECLARED: dict[int, Ownership] = {}
"""What was declared, by the identity of the parameter, as long as it lives."""

_parameters: dict[int, Callable[[], Tensor | None]] = {}


def declare(parameters: Parameters, ownership: Ownership | Mapping[str, Ownership]) -> None:
    """Declare which ranks hold some parameters; every function and every `GradClipper` uses this from then on.

    You only have to declare what the tensors do not say: plain tensors that are not copies, and for DTensors what lies
    beyond their mesh, such as pipeline stages. A declaration is valid as long as the parameter exists, or until you
    call `forget`. A declared DTensor is kept alive until then.

    Args:
        parameters: Parameters in any form that `clip_grad_norm_` takes: a module, a list, a single parameter.
        ownership: The ownership of all of them; or a mapping from patterns of names, with shell wildcards, to
            ownerships. The first pattern that matches is used, and each parameter has to match one.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a parameter was declared differently before, or matches no pattern; if a pattern matches no
            parameter; or if groups contradict each other or a DTensor. Nothing is declared then.

    Example:
        >>> import torch
        >>> from gradclip.distributed import Ownership, declare
        >>> tied = torch.nn.Linear(2, 3)
        >>> declare(tied, {"weight": Ownership(counted=False), "*": Ownership()})
    """
    tensors, names = named("declare", parameters)
    if not tensors:
        refuse_no_parameters("declare", parameters)
    declare_each("declare", tensors, names, _ownerships(ownership, names))


def declare_each(function: str, tensors: list[Tensor], names: list[str], ownerships: list[Ownership]) -> None:
    """Remember who holds each of some tensors, or nothing, if one is known otherwise."""
    for tensor, name, ownership in zip(tensors, names, ownerships, strict=True):
        if (before := DECLARED.get(id(tensor), ownership)) != ownership:
            raise ValueError(
                f"`{function}(parameters=...)` must not contradict what was declared before, got {ownership} at "
                f"{name!r}, which is {before}. Call `gradclip.distributed.forget` first if that is no longer so."
            )
        declared_groups(name, spec_of(tensor), ownership)
    for tensor, ownership in zip(tensors, ownerships, strict=True):
        if id(tensor) not in DECLARED:
            DECLARED[id(tensor)] = ownership
            _parameters[id(tensor)] = _reference(tensor)


def _reference(tensor: Tensor) -> Callable[[], Tensor | None]:
    """Return what leads to a parameter, which is forgotten when it is gone; one that may be swapped is kept."""
    if may_be_swapped(tensor):
        return lambda: tensor
    weakref.finalize(tensor, _forget, id(tensor))
    return weakref.ref(tensor)


def forget(parameters: Parameters) -> None:
    """Remove the declarations of parameters, so that they can be declared differently."""
    for tensor in flatten("forget", parameters)[0]:
        _forget(id(tensor))


def _forget(identity: int) -> None:
    DECLARED.pop(identity, None)
    _parameters.pop(identity, None)


def declared_of_gradients() -> dict[int, Ownership]:
    """Return what was declared about gradients, by their identities: as tensors, or as those of parameters.

    Those of a parameter are its `grad`, and `main_grad`, which Megatron-LM adds them up in.
    """
    found = dict(DECLARED)
    for identity, reference in _parameters.items():
        parameter = reference()
        for gradient in (getattr(parameter, "grad", None), getattr(parameter, "main_grad", None)):
            if gradient is not None:
                found[id(gradient)] = DECLARED[identity]
    return found


def is_any_declared(tensors: Iterable[Tensor]) -> bool:
    """Whether anything was declared about any of some tensors."""
    return any(id(x) in DECLARED for x in tensors)


def declared(tensor: Tensor) -> Ownership | None:
    """Return what was declared about a tensor."""
    return DECLARED.get(id(tensor))


def _ownerships(given: Ownership | Mapping[str, Ownership], names: list[str]) -> list[Ownership]:
    if isinstance(given, Ownership):
        return [given] * len(names)
    if not isinstance(given, Mapping) or not all(isinstance(x, Ownership) for x in given.values()):
        kind = type(given).__name__
        msg = f"`declare(ownership=...)` must be an `Ownership`, or a mapping of patterns to such, got {kind}."
        raise TypeError(msg)
    found: list[str] = []
    for name in names:
        pattern = next((pattern for pattern in given if matches(name, pattern)), None)
        if pattern is None:
            shown = ", ".join(map(repr, given))
            raise ValueError(
                f"`declare(ownership=...)` must have a pattern for every parameter, got none for {name!r} among "
                f"{shown}. Add one; `'*': Ownership()` at the end leaves all others as they are."
            )
        found.append(pattern)
    for pattern in given:
        if pattern not in found:
            refuse_pattern("declare", pattern, tuple(names))
    return [given[pattern] for pattern in found]
