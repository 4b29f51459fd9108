"""The gradients of one clip, and all that is done with them."""

import math
from collections.abc import Callable
from functools import partial
from typing import final

import torch
from torch import Tensor

from gradclip import numbers
from gradclip.distributed.reduction import Reduction
from gradclip.gradients.kinds import values_of
from gradclip.numbers import CPU, LARGEST_PLAIN_ORDER, Scalar, finish
from gradclip.ops import dispatch
from gradclip.ops.reference import unit_partials
from gradclip.parameters import name_at
from gradclip.units import Units
from gradclip.validation import refuse_partial

SHOWN = 3
"""How many gradients with non-finite elements a message names."""


@final
class GradientSet:
    """The gradients of one clip: each counted once, with a name, in buckets that one backend takes in one call.

    A sparse gradient stands for its values. Where it is not coalesced, what has a norm is the sum of its duplicates: a
    coalesced copy is measured, and scaling the values of the original scales that sum.

    Where several ranks hold a model, these are the local parts of the gradients, and norms are those of all ranks.

    Attributes:
        gradients: The gradients as they were found.
        device: That of their norm: the device of the first gradient.
        wide: Whether their norm is float64 instead of float32: where any gradient has this precision.
        reduction: What makes the norms of all ranks of those of this one; None where this one holds everything.
    """

    __slots__ = (
        "_argument",
        "_known",
        "_measured",
        "_names",
        "_owners",
        "_places",
        "_scalar",
        "_uncoalesced",
        "_written",
        "device",
        "gradients",
        "reduction",
        "wide",
    )

    def __init__(
        self,
        argument: str,
        owners: list[Tensor],
        names: list[str] | None,
        gradients: list[Tensor],
        device: torch.device,
        buckets: list[dispatch.Bucket],
        wide: bool,  # noqa: FBT001 -- made in one place for each kind of input
        scalar: Callable[[float, bool], Tensor],
        known: tuple[float | None, Scalar] = (None, 0.0),
        reduction: Reduction | None = None,
    ) -> None:
        """Take gradients, who owns them, the buckets they are in, and a partial that is known already, by its order.

        `scalar` makes a 0-dim CPU tensor of a number: (number, whether as float64) -> tensor.
        """
        self._places = None if reduction is None else reduction.held.places
        self.reduction = reduction
        self._argument = argument
        self._owners = owners
        self._scalar = scalar
        self._names = names
        self._measured = self._written = buckets
        self._known = known
        self._uncoalesced: list[tuple[Tensor, Tensor]] | None = None
        self.gradients = gradients
        self.device = device
        self.wide = wide

    def bucket(self) -> None:
        """Put the gradients in buckets, sparse ones by their values."""
        self._uncoalesced = [(x, x.coalesce()) for x in self.gradients if x.is_sparse and not x.is_coalesced()]
        self._measured = self._written = dispatch.bucket([values_of(x) for x in self.gradients])
        if self._uncoalesced:
            summed = {id(original): coalesced for original, coalesced in self._uncoalesced}
            self._measured = dispatch.bucket([values_of(summed.get(id(x), x)) for x in self.gradients])

    def names(self) -> list[str]:
        """Return the name of each gradient: that of the first tensor that owns it, or a place like `parameters[3]`."""
        if self._places is not None:
            return [self._name(place) for place in self._places]
        found: dict[int, str] = {}
        for place, owner in enumerate(self._owners):
            gradient = owner if self._argument == "tensors" else owner.grad
            found.setdefault(id(gradient), self._name(place))
        return [found[id(gradient)] for gradient in self.gradients]

    def _name(self, place: int) -> str:
        return name_at(self._names, place, self._argument)

    @property
    def any_found(self) -> bool:
        """Whether there is any gradient, on any rank."""
        return bool(self.gradients) if self.reduction is None else self.reduction.any_found

    @property
    def dtype(self) -> torch.dtype:
        """That of the norm."""
        return torch.float64 if self.wide else torch.float32

    def as_tensor(self, norm: Scalar) -> Tensor:
        """Return a norm as torch does: 0-dim, on the device of the first gradient, rounded to `dtype` once."""
        if isinstance(norm, Tensor):
            return norm.to(self.device, self.dtype)
        number = self._scalar(norm, self.wide)
        return number if self.device is CPU else number.to(self.device)

    def total_norm(self, norm_type: float, *, in_units: bool = False) -> Scalar:
        """Return the p-norm of all elements as one vector, in float64; 0 where there is no element.

        In units of its extremum, the norm of float64 elements cannot overflow either; that takes a second pass.
        """
        if self.reduction is not None:
            in_units = in_units or abs(norm_type) > LARGEST_PLAIN_ORDER
            return self.reduction.total_norm(self._measure, norm_type, in_units=in_units)
        if norm_type < 0.0 and all(x.numel() == 0 for _, tensors, _ in self._measured for x in tensors):
            return 0.0
        if in_units or abs(norm_type) > LARGEST_PLAIN_ORDER:
            return _norm_in_units(self._measured, norm_type)
        order, partial = self._known
        return finish(partial if order == norm_type else _partial(self._measured, norm_type), norm_type)

    def _measure(self, tensors: list[Tensor] | None, norm_type: float, factor: Scalar) -> Scalar:
        if tensors is None and norm_type == self._known[0] and factor == 1.0:
            return self._known[1]
        buckets = self._measured if tensors is None else dispatch.bucket([_summed(x) for x in tensors])
        return _partial(buckets, norm_type, factor)

    def norms(self, norm_type: float) -> list[tuple[str, Tensor]]:
        """Return the p-norm of each gradient with its name, in order: 0-dim, of `dtype`, on the gradient's device."""
        names, each, devices = self._named_norms(norm_type)
        pairs = zip(names, each.to(self.dtype).unbind(), devices, strict=True)
        return [(name, norm.to(device)) for name, norm, device in pairs]

    def copied_norms(self, norm_type: float) -> dict[str, float]:
        """Return the same as numbers, in float64, but for parameters that were declared to be others on other ranks."""
        names, each, _ = self._named_norms(norm_type)
        if self.reduction is None:
            return dict(zip(names, each.tolist(), strict=True))
        apart = {self._name(place) for place, share in enumerate(self.reduction.plan.shares) if share.apart}
        return {name: norm for name, norm in zip(names, each.tolist(), strict=True) if name not in apart}

    def _named_norms(self, norm_type: float) -> tuple[list[str], Tensor, list[torch.device]]:
        if self.reduction is None:
            return self.names(), self.norms_each(norm_type), [x.device for x in self.gradients]
        known = self.reduction.norms_each(partial(norms_of, norm_type), norm_type, self.device)
        places = known.present.nonzero().flatten().tolist()
        devices = [self._owners[place].device for place in places]
        return [self._name(place) for place in places], known.norms[0, places], devices

    def norms_each(self, norm_type: float) -> Tensor:
        """Return the p-norm of each gradient in order: float64, of shape (number of gradients,), on `device`."""
        return _norms_each(self._measured, norm_type, self.gradients, self.device)

    def unit_norms(self, units: Units) -> Tensor:
        """Return the norm of each unit of each gradient: float64, of shape (number of units,), on `device`."""
        if units.axis is None and units.order == 2.0:  # noqa: PLR2004
            parts = [backend.unit_square_sums(tensors) for backend, tensors, _ in self._measured]
        else:
            parts = [unit_partials_of(units, tensors) for _, tensors, _ in self._measured]
        counts = [units.count(tuple(x.shape)) for x in self.gradients] if len(parts) > 1 else []
        return numbers.finish_each(_in_order(parts, self._measured, counts, self.device), units.order)

    def scale_(self, coef: Scalar) -> None:
        """Multiply every gradient by one coefficient; 1 changes no byte."""
        if not isinstance(coef, Tensor) and coef == 1.0:
            return
        self._changed()
        for backend, tensors, _ in self._written:
            backend.scale_(tensors, coef)

    def scale_each_(self, coefs: Tensor) -> None:
        """Multiply each gradient by its own coefficient: float64, of shape (number of gradients,)."""
        self._changed()
        for backend, tensors, positions in self._written:
            own = coefs if len(tensors) == len(self.gradients) else coefs[list(positions)]
            backend.scale_(tensors, own.to(tensors[0].device))

    def scale_units_(self, coefs: Tensor, units: Units) -> None:
        """Multiply each unit of each gradient by its own coefficient: float64, of shape (number of units,)."""
        self._changed()
        if units.axis is None and len(self._written) == 1:
            ((backend, tensors, _),) = self._written
            backend.scale_units_(tensors, coefs.to(tensors[0].device))
            return
        counts = [units.count(tuple(x.shape)) for x in self.gradients]
        for backend, tensors, positions in self._written:
            own = coefs
            if len(tensors) != len(self.gradients):
                pieces = coefs.split(counts)
                own = torch.cat([pieces[i] for i in positions])
            own = own.to(tensors[0].device)
            if units.axis is None:
                backend.scale_units_(tensors, own)
                continue
            for x, of_x in zip(tensors, own.split([counts[i] for i in positions]), strict=True):
                rows = units.rows(x)
                for rest, (taken,), _ in dispatch.bucket([rows]):
                    rest.scale_units_([taken], of_x)
                units.write_back(rows, x)

    def clamp_(self, bound: float) -> None:
        """Limit every element, or real and imaginary part, to [-bound, bound]."""
        self._check_summed()
        for backend, tensors, _ in self._measured:
            backend.clamp_(tensors, bound)
        self._settle()

    def clamp_each_(self, bounds: list[float]) -> None:
        """Limit every element of each gradient to its own bound; an infinite one changes nothing."""
        self._check_summed()
        for backend, tensors, positions in self._measured:
            for bound in {bounds[i] for i in positions} - {math.inf}:
                backend.clamp_([x for x, i in zip(tensors, positions, strict=True) if bounds[i] == bound], bound)
        self._settle()

    def positions(self) -> list[int] | None:
        """Return the place of the owner of each gradient among all; None where every one has a gradient of its own."""
        if len(self.gradients) == len(self._owners):
            return None
        if self._places is not None:
            return self._places
        first: dict[int, int] = {}
        for place, owner in enumerate(self._owners):
            first.setdefault(id(owner.grad), place)
        return [first[id(gradient)] for gradient in self.gradients]

    def zero_nonfinite_(self) -> None:
        """Set every NaN or infinite element to 0."""
        with torch.no_grad():
            for _, tensors, _ in self._measured:
                for x in tensors:
                    x.masked_fill_(~x.isfinite(), 0.0)
        self._settle()

    def _check_summed(self) -> None:
        """Check that no element stands for a part of a sum: the clamped parts would not make a clamped sum."""
        if self.reduction is not None and (place := self.reduction.held.partial_place()) is not None:
            refuse_partial(self._name(place))

    def _changed(self) -> None:
        self._known = None, 0.0
        if self.reduction is not None:
            self.reduction.held.forget_sums()

    def _settle(self) -> None:
        """Write what was done to coalesced copies back; the gradients are coalesced from then on."""
        self._changed()
        if self._uncoalesced:
            with torch.no_grad():
                for original, coalesced in self._uncoalesced:
                    original.copy_(coalesced)
            self.bucket()

    def describe_nonfinite(self) -> str:
        """Say which gradients hold NaN or infinite elements, the first by name and with their counts, on each rank."""
        own = self._describe_own()
        said = own if self.reduction is None else self.reduction.describe(own)
        what = "the sum of powers overflows float64" if self.reduction is None else "a sum overflows"
        return said or f"No element is NaN or infinite: {what}."

    def count_nonfinite(self, at_most: int) -> dict[str, tuple[int, int]]:
        """Return the counts of NaN and of infinite elements by name, of the first gradients here that have any."""
        return {name: _count_nonfinite(x) for name, x in self._nonfinite()[:at_most]}

    def _describe_own(self) -> str:
        found = self._nonfinite()
        if not found:
            return ""
        counted = [(name, *_count_nonfinite(x), x.numel()) for name, x in found[:SHOWN]]
        shown = [f"{name} ({nan} NaN, {inf} Inf of {numel} elements)" for name, nan, inf, numel in counted]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"Found in {', '.join(shown)}{more}."

    def _nonfinite(self) -> list[tuple[str, Tensor]]:
        """Return the gradients with NaN or infinite elements and their names, in order."""
        found: dict[int, Tensor] = {}
        for backend, tensors, positions in self._measured:
            largest = backend.measure_each(tensors, math.inf).tolist()
            found |= {p: x for p, x, most in zip(positions, tensors, largest, strict=True) if not math.isfinite(most)}
        names = self.names() if found else []
        return [(names[p], x) for p, x in sorted(found.items())]


def norms_of(norm_type: float, tensors: list[Tensor]) -> Tensor:
    """Return the norm of each of any tensors: float64."""
    return _norms_each(dispatch.bucket([_summed(x) for x in tensors]), norm_type, tensors, tensors[0].device)


def unit_partials_of(units: Units, tensors: list[Tensor]) -> Tensor:
    """Return the partial of each unit of tensors that one backend takes: float64."""
    rows = [units.rows(x) for x in tensors]
    if units.order != 2.0:  # noqa: PLR2004
        return unit_partials(rows, units.order)
    found = dispatch.bucket(rows)
    counts = [units.count(tuple(x.shape)) for x in tensors]
    return _in_order([backend.unit_square_sums(own) for backend, own, _ in found], found, counts, tensors[0].device)


def _partial(buckets: list[dispatch.Bucket], norm_type: float, factor: Scalar = 1.0) -> Scalar:
    partials = [backend.measure(tensors, norm_type, factor) for backend, tensors, _ in buckets]
    return numbers.combine(partials, norm_type) if partials else numbers.identity(norm_type)


def _norm_in_units(buckets: list[dispatch.Bucket], norm_type: float) -> Scalar:
    if not numbers.is_power(norm_type):
        return _partial(buckets, norm_type)
    unit = numbers.unit(_partial(buckets, math.copysign(math.inf, norm_type)))
    return unit * finish(_partial(buckets, norm_type, 1.0 / unit), norm_type)


def _norms_each(
    buckets: list[dispatch.Bucket], norm_type: float, gradients: list[Tensor], device: torch.device
) -> Tensor:
    parts: list[Tensor] = []
    for backend, tensors, _ in buckets:
        if abs(norm_type) > LARGEST_PLAIN_ORDER:
            own = [_norm_in_units([(backend, [x], [0])], norm_type) for x in tensors]
            pairs = zip(own, tensors, strict=True)
            parts.append(torch.stack([numbers.as_float64(norm, x.device) for norm, x in pairs]))
        else:
            parts.append(numbers.finish_each(backend.measure_each(tensors, norm_type), norm_type))
    each = _in_order(parts, buckets, [1] * len(gradients), device)
    if norm_type < 0.0:  # the norm of no element is 0, of whatever order
        empty = torch.tensor([values_of(x).numel() == 0 for x in gradients], device=each.device)
        each = each.masked_fill(empty, 0.0)
    return each


def _in_order(parts: list[Tensor], buckets: list[dispatch.Bucket], counts: list[int], device: torch.device) -> Tensor:
    """Put what was measured in each bucket, so many numbers a gradient, in the order of the gradients."""
    if len(parts) == 1:
        return parts[0].to(device)
    each: dict[int, Tensor] = {}
    for part, (_, _, positions) in zip(parts, buckets, strict=True):
        each.update(zip(positions, part.to(device).split([counts[i] for i in positions]), strict=True))
    ordered = [each[position] for position in range(len(counts))]
    return torch.cat(ordered) if ordered else torch.zeros(0, dtype=torch.float64, device=device)


def _count_nonfinite(x: Tensor) -> tuple[int, int]:
    return int(x.isnan().sum()), int(x.isinf().sum())


def _summed(x: Tensor) -> Tensor:
    return values_of(x.coalesce()) if x.is_sparse else x
