"""A policy of its own for each part of a model."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, final

import torch

from gradclip.numbers import as_float64
from gradclip.parameters import matches, refuse_pattern
from gradclip.policies.combine import Composed
from gradclip.policies.fixed import FixedNorm
from gradclip.policies.layout import Layout, Part, Scope, finest
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy, check_policies
from gradclip.policies.together import decided, spread, taught
from gradclip.units import Units


def by_name(policies: Mapping[str, Policy], default: Policy | None = None) -> Policy:
    """Give the parameters whose names match a pattern their own policy.

    Args:
        policies: Maps patterns with shell wildcards, such as `"encoder.*"` or `"*.bias"`, to policies. A parameter
            belongs to the first pattern that matches. The parameters of a pattern have their own total norm.
        default: The policy of all other parameters together; None leaves them unchanged.

    Raises:
        ValueError: From `GradClipper`, if a pattern matches no parameter, or the policies use norms of two orders.

    Example:
        >>> from gradclip.policies import AGC, FixedNorm, by_name
        >>> policy = by_name({"head.*": FixedNorm(1.0)}, default=AGC())
    """
    if not isinstance(policies, Mapping) or not all(isinstance(pattern, str) for pattern in policies):
        raise TypeError(
            f"`by_name(policies=...)` must map patterns of names to policies, got {policies!r}. Pass a dict."
        )
    check_policies("by_name", (*policies.values(), *([] if default is None else [default])), one_stage=True)
    return ByName(tuple(policies.items()), default)


def by_group(policies: Policy | Sequence[Policy]) -> Policy:
    """Give each parameter group of an optimizer its own policy.

    Args:
        policies: One for each group, in order; or one for all, which is then applied to each group separately.

    Raises:
        ValueError: From `GradClipper`, if it was not made from an optimizer, or the number of groups differs.

    Example:
        >>> import torch, gradclip
        >>> from gradclip.policies import FixedNorm, by_group
        >>> layer = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD([{"params": [layer.weight]}, {"params": [layer.bias]}], lr=0.1)
        >>> clipper = gradclip.GradClipper(optimizer, by_group([FixedNorm(1.0), FixedNorm(0.1)]))
    """
    alike = isinstance(policies, Policy)
    listed = (policies,) if alike else policies
    if not isinstance(listed, Iterable) or isinstance(listed, (str, Mapping)):
        raise TypeError(f"`by_group(policies=...)` must be a policy or a list of policies, got {policies!r}.")
    listed = tuple(listed)
    check_policies("by_group", listed, one_stage=True)
    return ByGroup(listed, alike)


class Partition(Composed):
    """Parameters in parts, each with a policy."""

    @abstractmethod
    def member(self, index: int) -> Policy:
        """Return one of the policies."""

    @abstractmethod
    def split(self, layout: Layout) -> list[tuple[str, int, list[int]]]:
        """Return the parts: a name, which policy it has, and the places of the parameters."""

    @property
    @final
    def norm_type(self) -> float | None:
        orders = {policy.norm_type for policy in self.members if policy.norm_type is not None}
        if len(orders) > 1:
            listed = ", ".join(f"{order:g}" for order in sorted(orders))
            raise ValueError(
                f"`{type(self).__name__}` must have policies of one `norm_type`, got {listed}. Make a `chain` of two."
            )
        return next(iter(orders), None)

    @property
    @final
    def scope(self) -> Scope:
        return finest(("parameter", *(policy.scope for policy in self.members)))

    @property
    @final
    def units(self) -> Units:
        found = {policy.units for policy in self.members if policy.scope == "unit"}
        if len(found) > 1:
            axes = " and ".join(sorted({str(units.axis) for units in found}))
            raise ValueError(
                f"`{type(self).__name__}` must have policies of one `axis`, got {axes}. Make a `chain` of two."
            )
        return next(iter(found), Units())

    @final
    def init(self, layout: Layout) -> tuple[Part, ...]:
        parts: list[Part] = []
        for name, member, places in self.split(layout):
            subset = layout.subset(places)
            parts.append(Part(name, member, subset, self.member(member).init(subset.layout)))
        return tuple(parts)

    @final
    def decide(self, norms: Norms, state: tuple[Part, ...]) -> tuple[Decision, tuple[Part, ...]]:
        decisions: list[Decision] = []
        parts: list[Part] = []
        present = None if norms.present is None else frozenset(norms.present)
        for part in state:
            own = norms.subset(part.subset, present)
            decision, after = Decision(), part.state
            if own.present is None or own.present:  # a part without a gradient has nothing to learn from
                decision, after = decided(self.member(part.member), own, part.state)
            decisions.append(decision)
            parts.append(part._replace(state=after))
        together = _merged(decisions, parts, norms)
        return together, taught(together.skip, decisions, state, parts)


@final
@dataclass(frozen=True)
class ByName(Partition):
    """What `by_name` returns."""

    patterns: tuple[tuple[str, Policy], ...]
    default: Policy | None

    @property
    def members(self) -> tuple[Policy, ...]:
        return (*(policy for _, policy in self.patterns), *(() if self.default is None else (self.default,)))

    @property
    def state_kind(self) -> tuple[Any, ...]:
        default = None if self.default is None else self.default.state_kind
        return (ByName, default, *((pattern, policy.state_kind) for pattern, policy in self.patterns))

    def member(self, index: int) -> Policy:
        if index < len(self.patterns):
            return self.patterns[index][1]
        return FixedNorm(math.inf) if self.default is None else self.default

    def split(self, layout: Layout) -> list[tuple[str, int, list[int]]]:
        places: dict[str, list[int]] = {pattern: [] for pattern, _ in self.patterns}
        rest: list[int] = []
        for place, name in enumerate(layout.names):
            owner = next((pattern for pattern, _ in self.patterns if matches(name, pattern)), None)
            (rest if owner is None else places[owner]).append(place)
        for pattern, found in places.items():
            if not found:
                refuse_pattern("by_name", pattern, layout.names)
        parts = [(pattern, i, places[pattern]) for i, (pattern, _) in enumerate(self.patterns)]
        return [*parts, ("(default)", len(parts), rest)] if rest else parts


@final
@dataclass(frozen=True)
class ByGroup(Partition):
    """What `by_group` returns."""

    policies: tuple[Policy, ...]
    alike: bool

    @property
    def members(self) -> tuple[Policy, ...]:
        return self.policies

    @property
    def state_kind(self) -> tuple[Any, ...]:
        return (ByGroup, self.alike, *(policy.state_kind for policy in self.policies))

    def member(self, index: int) -> Policy:
        return self.policies[0 if self.alike else index]

    def split(self, layout: Layout) -> list[tuple[str, int, list[int]]]:
        count = layout.group_count
        if layout.groups is None:
            raise ValueError(
                "`by_group` must know the parameter groups. Make the clipper from them: `GradClipper(optimizer, ...)`."
            )
        if not self.alike and count != len(self.policies):
            raise ValueError(
                "`by_group` must have one policy for each parameter group, or one for all, got "
                f"{len(self.policies)} for {count}."
            )
        places = [[i for i, group in enumerate(layout.groups) if group == g] for g in range(count)]
        return [(f"group {g}", g, found) for g, found in enumerate(places) if found]


def _merged(decisions: list[Decision], parts: list[Part], norms: Norms) -> Decision:
    scope = finest(("parameter", *(decision.scope for decision in decisions)))
    size = len(norms.layout.names) if scope == "parameter" else len(norms.layout.owners)
    coef = torch.ones(size, dtype=torch.float64, device=norms.layout.device)
    threshold = torch.full_like(coef, math.inf)
    for decision, part in zip(decisions, parts, strict=True):
        places = part.subset.places if scope == "parameter" else part.subset.units
        for whole, own in ((coef, decision.coef), (threshold, decision.threshold)):
            whole[places] = as_float64(spread(own, decision.scope, scope, part.subset.layout), whole.device)
    clamp = None
    if any(decision.clamp is not None for decision in decisions):
        clamp = torch.full((len(norms.layout.names),), math.inf, dtype=torch.float64, device=coef.device)
        for decision, part in zip(decisions, parts, strict=True):
            if decision.clamp is not None:
                clamp[part.subset.places] = as_float64(decision.clamp, coef.device)
    return Decision(coef, threshold, scope, reduce(or_, [decision.skip for decision in decisions]), clamp)
