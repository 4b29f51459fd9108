"""What a policy sees of a model: the norms of one step, and of what they are."""

import math
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from gradclip.numbers import LARGEST_PLAIN_ORDER, Scalar, from_device, is_known, is_one, isnan, minimum
from gradclip.policies.layout import Groups, Layout, Scope, Subset, units_by
from gradclip.sending import indices
from gradclip.torch_private import sums_of_groups


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
