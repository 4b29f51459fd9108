"""The parameters that norms belong to, in parts and in units."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from gradclip.numbers import CPU
from gradclip.sending import indices, sent

Scope: TypeAlias = Literal["total", "parameter", "unit"]
"""What has a norm, and so a coefficient, of its own: everything together, each parameter, or each unit.

A unit is an output row: one index of dimension 0 of a parameter with two dimensions or more, else the parameter.
"""

SCOPES: tuple[Scope, ...] = ("total", "parameter", "unit")
"""From coarse to fine."""


def finest(scopes: Iterable[Scope]) -> Scope:
    """Return the finest of some scopes."""
    return max(scopes, key=SCOPES.index)


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """The parameters that norms belong to: P of them, with U units in all.

    Attributes:
        names: The names of the parameters, all different.
        numels: The number of elements of each.
        units: The number of units of each.
        ndims: The number of dimensions of each; empty if it is not known.
        has_complex: Whether any parameter is complex.
        groups: The index of the optimizer's parameter group of each; None if there are no groups.
        group_count: How many groups there are.
        device: The device of vectors of norms.
    """

    names: tuple[str, ...]
    numels: tuple[int, ...]
    units: tuple[int, ...]
    groups: tuple[int, ...] | None = None
    group_count: int = 0
    device: torch.device = CPU
    ndims: tuple[int, ...] = ()
    has_complex: bool = False

    @cached_property
    def sizes(self) -> Tensor:
        """The number of elements of each parameter: float64, of shape (P,)."""
        return sent(self.numels, self.device)

    @cached_property
    def owners(self) -> Tensor:
        """The index of the parameter that each unit belongs to: int64, of shape (U,)."""
        return indices([place for place, count in enumerate(self.units) for _ in range(count)], self.device)

    @cached_property
    def _known_groups(self) -> "dict[str, Groups]":
        return {}

    @cached_property
    def columns(self) -> list[Tensor]:
        """The indices of the units of each parameter among all units: int64, of shape (units of the parameter,)."""
        return list(torch.arange(sum(self.units), device=self.device).split(self.units))

    def subset(self, places: list[int]) -> "Subset":
        """Return some of the parameters, by their indices."""
        ends = list(accumulate(self.units))
        units = [unit for place in places for unit in range(ends[place] - self.units[place], ends[place])]
        layout = replace(
            self,
            names=tuple(self.names[i] for i in places),
            numels=tuple(self.numels[i] for i in places),
            units=tuple(self.units[i] for i in places),
            groups=None if self.groups is None else tuple(self.groups[i] for i in places),
            ndims=tuple(self.ndims[i] for i in places) if self.ndims else (),
        )
        return Subset(layout, places, indices(places, self.device), indices(units, self.device))


class Subset(NamedTuple):
    """Some parameters: their layout, and where they and their units are in the whole, as int64."""

    layout: Layout
    listed: Sequence[int]
    places: Tensor
    units: Tensor


class Part(NamedTuple):
    """Some parameters that have a policy of their own, and what that has learned.

    Attributes:
        name: What it is called.
        member: Which of the policies is its own.
        subset: The parameters.
        state: What the policy has learned.
    """

    name: str
    member: int
    subset: Subset
    state: Any


class Groups(NamedTuple):
    """Which units belong together, as int64.

    Attributes:
        places: The group of each unit, of shape (U,).
        order: The units, group by group.
        starts: Where each group starts among these, and where the last ends.
    """

    places: Tensor
    order: Tensor
    starts: Tensor


def units_by(layout: Layout, what: Literal["parameter", "layer", "total"]) -> Groups:
    """Return which units belong together."""
    if (found := layout._known_groups.get(what)) is not None:
        return found
    keys = {
        "parameter": layout.names,
        "layer": [name.rpartition(".")[0] for name in layout.names],
        "total": [""] * len(layout.names),
    }[what]
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    of_units = [numbers[key] for key, units in zip(keys, layout.units, strict=True) for _ in range(units)]
    order = sorted(range(len(of_units)), key=of_units.__getitem__)
    starts = [bisect_left(order, group, key=of_units.__getitem__) for group in range(len(numbers) + 1)]
    found = layout._known_groups[what] = Groups(*(indices(x, layout.device) for x in (of_units, order, starts)))
    return found
