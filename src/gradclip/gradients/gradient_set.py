"""The gradients of one clip, and all that is done with them."""

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from gradclip import norms
from gradclip.norms import CPU, LARGEST_PLAIN_ORDER, Scalar, finish
from gradclip.ops import dispatch

SHOWN = 3
"""How many gradients with non-finite elements a message names."""


@final
class GradientSet:
    """The gradients of one clip: each counted once, with a name, in buckets that one backend takes in one call.

    A sparse gradient stands for its values. Where it is not coalesced, what has a norm is the sum of its duplicates: a
    coalesced copy is measured, and scaling the values of the original scales that sum.

    Attributes:
        gradients: The gradients as they were found.
        device: That of their norm: the device of the first gradient.
        wide: Whether their norm is float64 instead of float32: where any gradient has this precision.
    """

    __slots__ = (
        "_argument",
        "_known",
        "_measured",
        "_names",
        "_owners",
        "_scalar",
        "_uncoalesced",
        "_written",
        "device",
        "gradients",
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
        known: tuple[float | None, Scalar],
    ) -> None:
        """Take gradients, who owns them, the buckets they are in, and a partial that is known already, by its order.

        `scalar` makes a 0-dim CPU tensor of a number: (number, whether as float64) -> tensor.
        """
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
        found: dict[int, str] = {}
        for place, owner in enumerate(self._owners):
            gradient = owner if self._argument == "tensors" else owner.grad
            found.setdefault(id(gradient), self._names[place] if self._names else f"{self._argument}[{place}]")
        return [found[id(gradient)] for gradient in self.gradients]

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
        if norm_type < 0.0 and all(x.numel() == 0 for _, tensors, _ in self._measured for x in tensors):
            return 0.0
        if in_units or abs(norm_type) > LARGEST_PLAIN_ORDER:
            return _norm_in_units(self._measured, norm_type)
        order, partial = self._known
        return finish(partial if order == norm_type else _partial(self._measured, norm_type), norm_type)

    def norms(self, norm_type: float) -> list[Tensor]:
        """Return the p-norm of each gradient in order: 0-dim, of `dtype`, on the gradient's device."""
        each = self.norms_each(norm_type).to(self.dtype).unbind()
        return [norm.to(x.device) for norm, x in zip(each, self.gradients, strict=True)]

    def norms_each(self, norm_type: float) -> Tensor:
        """Return the p-norm of each gradient in order: float64, of shape (number of gradients,), on `device`."""
        parts: list[Tensor] = []
        for backend, tensors, _ in self._measured:
            if abs(norm_type) > LARGEST_PLAIN_ORDER:
                own = [_norm_in_units([(backend, [x], [0])], norm_type) for x in tensors]
                parts.append(
                    torch.stack([norms.as_float64(norm, x.device) for norm, x in zip(own, tensors, strict=True)])
                )
            else:
                parts.append(norms.finish_each(backend.measure_each(tensors, norm_type), norm_type))
        each = self._in_order(parts, [1] * len(self.gradients))
        if norm_type < 0.0:  # the norm of no element is 0, of whatever order
            empty = torch.tensor([values_of(x).numel() == 0 for x in self.gradients], device=each.device)
            each = each.masked_fill(empty, 0.0)
        return each

    def unit_norms(self) -> Tensor:
        """Return the 2-norm of each unit of each gradient: float64, of shape (number of units,), on `device`."""
        parts = [backend.unit_square_sums(tensors) for backend, tensors, _ in self._measured]
        return self._in_order(parts, [units_of(x) for x in self.gradients]).sqrt()

    def _in_order(self, parts: list[Tensor], counts: list[int]) -> Tensor:
        """Put what was measured in each bucket, so many numbers a gradient, in the order of the gradients."""
        if len(parts) == 1:
            return parts[0].to(self.device)
        each: dict[int, Tensor] = {}
        for part, (_, _, positions) in zip(parts, self._measured, strict=True):
            each.update(zip(positions, part.to(self.device).split([counts[i] for i in positions]), strict=True))
        ordered = [each[position] for position in range(len(counts))]
        return torch.cat(ordered) if ordered else torch.zeros(0, dtype=torch.float64, device=self.device)

    def scale_(self, coef: Scalar) -> None:
        """Multiply every gradient by one coefficient; 1 changes no byte."""
        if not isinstance(coef, Tensor) and coef == 1.0:
            return
        self._known = None, 0.0
        for backend, tensors, _ in self._written:
            backend.scale_(tensors, coef)

    def scale_each_(self, coefs: Tensor) -> None:
        """Multiply each gradient by its own coefficient: float64, of shape (number of gradients,)."""
        self._known = None, 0.0
        for backend, tensors, positions in self._written:
            own = coefs if len(tensors) == len(self.gradients) else coefs[list(positions)]
            backend.scale_(tensors, own.to(tensors[0].device))

    def scale_units_(self, coefs: Tensor) -> None:
        """Multiply each unit of each gradient by its own coefficient: float64, of shape (number of units,)."""
        self._known = None, 0.0
        pieces = None
        for backend, tensors, positions in self._written:
            own = coefs
            if len(tensors) != len(self.gradients):
                pieces = pieces or coefs.split([units_of(x) for x in self.gradients])
                own = torch.cat([pieces[i] for i in positions])
            backend.scale_units_(tensors, own.to(tensors[0].device))

    def clamp_(self, bound: float) -> None:
        """Limit every element, or real and imaginary part, to [-bound, bound]."""
        for backend, tensors, _ in self._measured:
            backend.clamp_(tensors, bound)
        self._settle()

    def clamp_each_(self, bounds: list[float]) -> None:
        """Limit every element of each gradient to its own bound; an infinite one changes nothing."""
        for backend, tensors, positions in self._measured:
            for bound in {bounds[i] for i in positions} - {math.inf}:
                backend.clamp_([x for x, i in zip(tensors, positions, strict=True) if bounds[i] == bound], bound)
        self._settle()

    def positions(self) -> list[int] | None:
        """Return the place of the owner of each gradient among all; None where every one has a gradient of its own."""
        if len(self.gradients) == len(self._owners):
            return None
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

    def _settle(self) -> None:
        """Write what was done to coalesced copies back; the gradients are coalesced from then on."""
        self._known = None, 0.0
        if self._uncoalesced:
            with torch.no_grad():
                for original, coalesced in self._uncoalesced:
                    original.copy_(coalesced)
            self.bucket()

    def describe_nonfinite(self) -> str:
        """Say which gradients hold NaN or infinite elements, the first by name and with their counts."""
        found: dict[int, Tensor] = {}
        for backend, tensors, positions in self._measured:
            largest = backend.measure_each(tensors, math.inf).tolist()
            found |= {p: x for p, x, most in zip(positions, tensors, largest, strict=True) if not math.isfinite(most)}
        if not found:
            return "No element is NaN or infinite: the sum of powers overflows float64."
        names = self.names()
        shown = [
            f"{names[p]} ({int(x.isnan().sum())} NaN, {int(x.isinf().sum())} Inf of {x.numel()} elements)"
            for p, x in sorted(found.items())[:SHOWN]
        ]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"Found in {', '.join(shown)}{more}."


def _partial(buckets: list[dispatch.Bucket], norm_type: float, factor: Scalar = 1.0) -> Scalar:
    partials = [backend.measure(tensors, norm_type, factor) for backend, tensors, _ in buckets]
    return norms.combine(partials, norm_type) if partials else norms.identity(norm_type)


def _norm_in_units(buckets: list[dispatch.Bucket], norm_type: float) -> Scalar:
    if not norms.is_power(norm_type):
        return _partial(buckets, norm_type)
    unit = norms.unit(_partial(buckets, math.copysign(math.inf, norm_type)))
    return unit * finish(_partial(buckets, norm_type, 1.0 / unit), norm_type)


def units_of(x: Tensor) -> int:
    """Return the number of units of a tensor: indices of dimension 0, or one where it has fewer than two dimensions."""
    return x.shape[0] if x.ndim > 1 else 1


def values_of(x: Tensor) -> Tensor:
    """Return the elements that a tensor stores: those of a sparse one, or itself."""
    return x._values() if x.is_sparse else x
