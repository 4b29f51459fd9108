"""A decision on a device in a few launches, where there are kernels for that: the rule itself stays written once."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from enum import Enum
from types import FunctionType
from typing import Any, final

import torch
from torch import Tensor

from gradclip.numbers import as_float64
from gradclip.ops import registry
from gradclip.policies.history import History
from gradclip.policies.measured import Norms
from gradclip.policies.partition import Part
from gradclip.policies.policy import Decision, Policy

MEASURED = ("total", "each", "units", "weights", "loss")
"""The numbers among norms."""


@final
class Unasked(Sequence[int]):
    """Places that a rule does not ask for: one that does is left to torch."""

    def __len__(self) -> int:
        raise LookupError("which parameters have a gradient")

    def __getitem__(self, place: Any) -> Any:
        raise LookupError("which parameters have a gradient")


UNASKED = Unasked()


@final
class Fused:
    """A policy, and the kernels that were made of it on a device.

    Args:
        policy: The policy.
    """

    __slots__ = ("_is_fixed", "_policy", "_rule")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._is_fixed = _is_fixed(policy)
        self._rule: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Fused, (self._policy,)  # a copy makes its own

    def decide(self, norms: Norms, state: Any) -> tuple[Decision, Any]:
        """Return what the policy decides about these norms, and the state after it."""
        decided = self._by_kernels(norms, state) if self._is_fixed and isinstance(norms.total, Tensor) else None
        return self._policy.decide(norms, state) if decided is None else decided

    def _by_kernels(self, norms: Norms, state: Any) -> tuple[Decision, Any] | None:
        device = norms.total.device  # pyrefly: ignore[missing-attribute] -- a tensor
        kernels, learned = registry.kernels_for_rules(device), list(_leaves(state))
        if kernels is None or any(x is None or (isinstance(x, Tensor) and x.dtype != torch.float64) for x in learned):
            return None
        if self._rule is None or self._rule.device != device:
            self._rule = kernels.rule(device)
        if norms.loss is not None:
            norms = norms._replace(loss=as_float64(norms.loss, device))
        names = [name for name in MEASURED if getattr(norms, name) is not None]
        leaves = [*(getattr(norms, name) for name in names), *learned]

        def flat(given: list[Any]) -> tuple[list[Any], Any]:
            own = norms._replace(present=present, **dict(zip(names, given, strict=False)))
            decision, new = self._policy.decide(own, _filled(state, iter(given[len(names) :])))
            return [*decision, *_leaves(new)], new

        present: Sequence[int] | None = None
        if norms.present is not None:  # a total norm is seldom asked of which parameters, others at each step, it is
            present = UNASKED if norms.each is None else tuple(norms.present)
        way = (present, norms.complete, norms.order, *map(_shape_of, leaves), *names)
        found = None if self._rule is None else self._rule(flat, way, leaves)
        if found is None:
            return None
        returned, template = found
        count = len(Decision._fields)
        return Decision(*returned[:count]), _filled(template, iter(returned[count:]))


def _is_fixed(part: object) -> bool:
    """Whether a policy, and all that it is made of, is a frozen dataclass: else it may be another rule at each step."""
    match part:
        case Policy():
            own = vars(type(part)).get("__dataclass_params__")  # of the class itself, which may add to a frozen one
            return own is not None and own.frozen and all(_is_fixed(getattr(part, x.name)) for x in fields(part))  # type: ignore[arg-type]
        case tuple() | frozenset():
            return all(map(_is_fixed, part))
        case FunctionType():
            return part.__closure__ is None
        case _:
            return part is None or isinstance(part, (int, float, str, Enum))


def _leaves(state: Any) -> Iterator[Any]:
    """Yield the numbers of a state in order: None for those of a history that grows, or is on the host still."""
    match state:
        case Part():
            yield from _leaves(state.state)
        case History():
            yield None if state.window is None else state.rows
        case tuple():
            for x in state:
                yield from _leaves(x)
        case _:
            yield state


def _shape_of(x: Any) -> Any:
    return x.shape if isinstance(x, Tensor) else None


def _filled(template: Any, leaves: Iterator[Any]) -> Any:
    """Return a state with other numbers."""
    match template:
        case Part():
            return template._replace(state=_filled(template.state, leaves))
        case History():
            return History(template.window, rows=next(leaves), holds=template.holds)
        case tuple():
            values = [_filled(x, leaves) for x in template]
            return type(template)(*values) if hasattr(template, "_fields") else tuple(values)
        case _:
            return next(leaves)
