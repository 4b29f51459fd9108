"""What a policy sees of a model: the norms of one step, and of what they are."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias, final

import torch
from torch import Tensor

from gradclip.numbers import CPU, LARGEST_PLAIN_ORDER, Scalar, from_device, is_known, is_one, isnan, minimum
from gradclip.sending import indices, sent
from gradclip.torch_private import sums_of_groups

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


class Norms(NamedTuple):
    """The norms of the gradients of one step, in float64.

    Attributes:
        layout: The parameters that the norms belong to.
        order: The order p of the norms.
        total: The norm of everything.
        each: The norm of each parameter, of shape (P,), if the scope of the policy asks for it; NaN for a parameter
            without a gradient.
        units: The norm of each unit, of shape (U,), if the scope asks for it.
        weights: With `units`, the norm of the same unit of the parameter itself.
        present: The indices of the parameters that have a gradient, in order; None if all have one.
        loss: The loss of the step, or None if there is none. NaN if no rank was given one and only a device knows that.
        complete: Whether `total` is the norm of `each`; False if other ranks hold other parameters.
    """

    layout: Layout
    order: float
    total: Scalar
    each: Tensor | None = None
    units: Tensor | None = None
    weights: Tensor | None = None
    present: Sequence[int] | None = None
    loss: Scalar | None = None
    complete: bool = True

    def at(self, scope: Scope) -> Scalar:
        """Return the norms of a scope: one number, or a tensor of shape (P,) or (U,)."""
        return self.total if scope == "total" else self.of_parameters() if scope == "parameter" else self.of_units()

    def total_after(self, before: "Norms") -> Scalar:
        """Return the norm of everything after parameters were scaled, for a policy that depends on it.

        Raises:
            ValueError: If each parameter was scaled by its own factor and other ranks hold other parameters.
        """
        is_lost = not self.complete and _is_nan(self.total)
        if is_lost and not _is_nan(before.total):  # a number of a device may be anything
            refuse_parts()
        return self.total

    def of_parameters(self) -> Tensor:
        """Return the norm of each parameter, of shape (P,)."""
        return _known(self.each)

    def of_units(self) -> Tensor:
        """Return the norm of each unit, of shape (U,)."""
        return _known(self.units)

    def of_weights(self) -> Tensor:
        """Return the norms of the units of the parameters themselves, of shape (U,)."""
        return _known(self.weights)

    def subset(self, part: "Subset", has: frozenset[int] | None = None) -> "Norms":
        """Return the norms of some parameters; the norm of each must be known.

        Args:
            part: The parameters.
            has: `present` as a set, if it was already made for several parts.
        """
        if not self.complete:
            refuse_parts()
        present = self.present
        if present is not None:
            has = frozenset(present) if has is None else has
            present = [i for i, place in enumerate(part.listed) if place in has]
        rows = None if self.units is None else self.units[part.units]
        weights = None if self.weights is None else self.weights[part.units]
        some = self._replace(layout=part.layout, present=present, units=rows, weights=weights)
        return some.with_each(self.of_parameters()[part.places])

    def scaled(self, coef: Scalar) -> "Norms":
        """Return the norms after all gradients are multiplied by one coefficient."""
        each, units = (None if x is None else x * coef for x in (self.each, self.units))
        return self._replace(total=self.total * coef, each=each, units=units)

    def scaled_each(self, coefs: Tensor) -> "Norms":
        """Return the norms after each gradient is multiplied by its own coefficient, of shape (P,)."""
        units = None if self.units is None else self.units * coefs[self.layout.owners]
        return self._replace(units=units).with_each(self.of_parameters() * coefs)

    def scaled_units(self, coefs: Tensor) -> "Norms":
        """Return the norms after each unit is multiplied by its own coefficient, of shape (U,)."""
        return self.with_units(self.of_units() * coefs)

    def with_each(self, each: Tensor) -> "Norms":
        """Return all norms that follow from the norm of each parameter, of shape (P,)."""
        if not self.complete:
            return self._replace(total=math.nan, each=each)
        counted = each if self.present is None else each[indices(self.present, each.device)]
        return self._replace(total=from_device(_norm_of(counted, self.order)), each=each)

    def with_units(self, units: Tensor) -> "Norms":
        """Return all norms that follow from the norm of each unit, of shape (U,)."""
        each = gathered(units, units_by(self.layout, "parameter"), self.order)
        return self._replace(units=units).with_each(each)

    @property
    def are_maxima(self) -> bool:
        """Whether the norms tell what a limit on elements does: not so if a parameter is complex."""
        return self.order == math.inf and not self.layout.has_complex

    def clamped(self, bound: Scalar) -> "Norms":
        """Return the norms after elements are limited to a bound, one or of shape (P,): NaN if they are not maxima."""
        if not self.are_maxima:
            return self.unknown()
        if self.each is None:
            return self._replace(total=minimum(self.total, bound) if is_one(bound) else self.total)
        return self.with_each(self.each.clamp(max=bound))

    def unknown(self) -> "Norms":
        """Return norms of NaN, which no policy learns from."""
        each, units = (None if x is None else torch.full_like(x, math.nan) for x in (self.each, self.units))
        return self._replace(total=math.nan, each=each, units=units)


def gathered(norms: Tensor, groups: Groups, order: float) -> Tensor:
    """Return the norms of groups of units: the same bits each time.

    Args:
        norms: The norms of units: float64, of shape (U,).
        groups: Which belong together.
        order: The order of the norms, > 0.
    """
    if order == math.inf:
        return norms.new_zeros(len(groups.starts) - 1).scatter_reduce_(0, groups.places, norms, "amax")
    powers = norms.square() if order == 2.0 else norms.pow(order)  # noqa: PLR2004
    sums = sums_of_groups(powers, *groups)
    return sums.sqrt() if order == 2.0 else sums.pow(1.0 / order)  # noqa: PLR2004


def _norm_of(norms: Tensor, order: float) -> Tensor:
    """Return the norm of everything from those of parts."""
    if norms.numel() == 0:
        return norms.sum()
    if order <= LARGEST_PLAIN_ORDER or order == math.inf:
        return torch.linalg.vector_norm(norms, order)
    largest = norms.amax()  # in units of which powers of a high order stay in the range of float64
    unit = torch.where((largest > 0.0) & (largest < math.inf), largest, 1.0)
    return unit * torch.linalg.vector_norm(norms / unit, order)


def _is_nan(total: Scalar) -> bool:
    return is_known(total) and bool(isnan(total))


def _known(norms: Tensor | None) -> Tensor:
    if norms is None:
        raise RuntimeError("these norms were not measured: the `scope` of the policy does not ask for them.")
    return norms


def refuse_parts() -> NoReturn:
    """Refuse a policy that needs a norm which is not known on a rank that has but some of the parameters."""
    msg = (
        "`GradClipper(policy=...)` must not need the norm of some parameters together, or that of all once each is "
        "scaled by its own factor, where other ranks hold parameters of their own: it is not known there. Use a policy "
        "for the total norm or for each parameter alone, or a `GradClipper` for each part."
    )
    raise ValueError(msg)
