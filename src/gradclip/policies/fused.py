"""A decision on a device in a few launches, where there are kernels for that: the rule itself stays written once."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from enum import Enum
from functools import partial
from itertools import islice
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from gradclip.numbers import Condition, Scalar, as_float64, is_known, truth, where
from gradclip.ops import registry
from gradclip.policies.history import History
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.policies.state import filled, leaves, unless

Ruling: TypeAlias = Callable[..., tuple[Decision, Any, tuple[Scalar, ...]]]
"""What decides about norms and a state, and whatever else it is told; it may find out more than that."""

MEASURED = ("total", "each", "units", "weights", "loss")
"""The numbers among norms."""


class Withheld(NamedTuple):
    """Whether a step does not happen, where the host need not know.

    Attributes:
        flag: Whether it does not; of a device, as a fused optimizer reads it: 1 or 0 in float32.
        in_a_row: How many did not, this one included; an overflow that a scaler found changes nothing in that.
    """

    flag: Condition
    in_a_row: Scalar


def withheld_of(skip: Condition, overflow: Condition, in_a_row: Scalar) -> Withheld:
    """Return whether a step happens that may be skipped, of its own or for an overflow, after so many that were."""
    flag = skip if is_known(skip) else skip.to(torch.float32)
    return Withheld(flag, where(overflow, in_a_row, where(skip, in_a_row + 1.0, 0.0)))


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
        if is_known(norms.total):
            return self._policy.decide(norms, state)
        decision, new, _ = self._decided(partial(_read, self._policy), norms, state)
        return decision, new

    def decide_unread(
        self, norms: Norms, state: Any, overflow: Condition, in_a_row: Scalar, *, skips_nonfinite: bool
    ) -> tuple[Decision, Any, Withheld]:
        """Do so where the host does not know whether the step happens; `Pipeline.run_unread` has the same arguments.

        Returns:
            What it decides, and to multiply by 1 where it says to skip; what it has learned, which of a step that does
            not happen is nothing, unless the policy itself asks for no step; and whether the step happens.
        """
        number = float(overflow) if is_known(overflow) else as_float64(overflow)
        rule, skips = partial(_unread, self._policy), float(skips_nonfinite)
        decision, new, withheld = self._decided(rule, norms, state, number, in_a_row, skips)
        return decision, new, Withheld(*withheld)

    def _decided(self, rule: Ruling, norms: Norms, state: Any, *more: Scalar) -> tuple[Decision, Any, Any]:
        may_have = self._is_fixed and not is_known(norms.total)
        decided = self._by_kernels(rule, norms, state, more) if may_have else None
        return rule(norms, state, *more) if decided is None else decided

    def _by_kernels(
        self, rule: Ruling, norms: Norms, state: Any, more: tuple[Scalar, ...]
    ) -> tuple[Decision, Any, Any] | None:
        device = norms.total.device  # pyrefly: ignore[missing-attribute] -- a tensor
        kernels, learned = registry.kernels_for_rules(device), list(map(_numbers_of, leaves(state)))
        if kernels is None or any(x is None or (isinstance(x, Tensor) and x.dtype != torch.float64) for x in learned):
            return None
        if self._rule is None or self._rule.device != device:
            self._rule = kernels.rule(device)
        if norms.loss is not None:
            norms = norms._replace(loss=as_float64(norms.loss, device))
        names = [name for name in MEASURED if getattr(norms, name) is not None]
        given = [*more, *(getattr(norms, name) for name in names), *learned]

        def flat(given: list[Any]) -> tuple[list[Any], Any]:
            left = iter(given)
            own_more = list(islice(left, len(more)))
            own = norms._replace(present=present, **dict(zip(names, left, strict=False)))
            decision, new, found = rule(own, _with_numbers(state, list(left)), *own_more)
            return [*decision, *map(_numbers_of, leaves(new)), *found], new

        present: Sequence[int] | None = None
        if norms.present is not None:  # a total norm is seldom asked of which parameters, others at each step, it is
            present = UNASKED if norms.each is None else tuple(norms.present)
        way = (present, norms.complete, norms.order, len(more), *map(_form_of, given), *names)
        found = None if self._rule is None else self._rule(flat, way, given)
        if found is None:
            return None
        returned, template = found
        rest = iter(returned[len(Decision._fields) :])
        return Decision(*returned[: len(Decision._fields)]), _with_numbers(template, rest), tuple(rest)


def _read(policy: Policy, norms: Norms, state: Any) -> tuple[Decision, Any, tuple[Scalar, ...]]:
    return *policy.decide(norms, state), ()


def _unread(
    policy: Policy, norms: Norms, state: Any, number: Scalar, in_a_row: Scalar, skips_nonfinite: float
) -> tuple[Decision, Any, Withheld]:
    overflow = withheld = number != 0.0
    if skips_nonfinite:
        withheld = (norms.total - norms.total != 0.0) | withheld  # in fewer launches than `isfinite` takes
    asked, new = policy.decide(norms, state)
    skip = withheld | truth(asked.skip)
    coef = asked.coef if is_known(asked.coef) and asked.coef == 1.0 else where(skip, 1.0, asked.coef)
    clamp = None if asked.clamp is None else where(skip, math.inf, asked.clamp)
    decision = asked._replace(coef=coef, clamp=clamp, skip=skip)
    return decision, unless(withheld, state, new), withheld_of(skip, overflow, in_a_row)


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


def _numbers_of(x: Any) -> Any:
    """Return the numbers of a part of a state: None for a history that grows, or is on the host still."""
    if isinstance(x, History):
        return None if x.window is None else x.rows
    return x


def _with_numbers(template: Any, numbers: Iterable[Any]) -> Any:
    """Return a state with other numbers, the first of these."""
    pairs = zip(leaves(template), numbers, strict=False)
    return filled(template, (own.with_rows(new) if isinstance(own, History) else new for own, new in pairs))


def _form_of(x: Any) -> Any:
    """Return a number of the host, with which the rule is another, or the shape of numbers on a device."""
    return x if is_known(x) else x.shape
