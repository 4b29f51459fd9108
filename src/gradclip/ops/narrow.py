"""The operations where a device has no float64: float32 on the device, and float64 for what is read of it.

Elements are taken in units of their extremum, so that no power of them leaves float32, and added up in pairs, so that
no sum drifts: 2048 of them by 11 additions each. These sums are read, and added up in float64 on the host, where all
numbers live then. A norm is right within 4 units in the last place of float32.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, final

import torch
from torch import Tensor

from gradclip.numbers import CPU, Scalar, from_device, identity, is_extremum
from gradclip.ops.backend import Backend, Batch
from gradclip.ops.reference import count_bad, count_units, norm_tensor, sanitize_

PAIRINGS = 11
"""How often neighbours are added up before the rest is read."""

FEW = 64
"""Numbers that are read as they are."""

PIECE = 2**24
"""Elements that are measured at a time: 64 MiB of scratch."""

SMALLEST_FACTOR = 2.0**-100
"""A smaller coefficient, which float32 may not hold, is two factors."""


class Rows(NamedTuple):
    """What a device says of rows of elements: all float32.

    Attributes:
        units: What the elements of each row were divided by: of shape (rows,).
        sums: Sums of their powers: of shape (rows, any).
    """

    units: Tensor
    sums: Tensor


@final
class NarrowBatch(Batch):
    """Tensors of one device without float64; every number that is asked for is read, once for all tensors.

    Args:
        tensors: Strided tensors of at most float32.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    @property
    def is_wide(self) -> bool:
        return False

    def partial(self, order: float, factor: Scalar = 1.0) -> Scalar:
        return _combined([self._each(order, [float(factor)] * len(self.tensors))], order).item()

    def partials(self, order: float, factors: Tensor | None = None) -> Tensor:
        return self._each(order, [1.0] * len(self.tensors) if factors is None else factors.tolist())

    def unit_counts(self) -> list[int]:
        return [count_units(x) for x in self.tensors]

    def unit_partials(self, order: float = 2.0) -> Tensor:
        with torch.no_grad():
            rows = [_magnitudes(x).reshape(count_units(x), x.numel() // max(1, count_units(x))) for x in self.tensors]
            return torch.cat([_none(order)[:0], *_partials(rows, order, [1.0] * len(rows))])

    def scale_(self, coef: Scalar) -> None:
        coef = from_device(coef)
        each = coef.tolist() if isinstance(coef, Tensor) else [coef] * len(self.tensors)
        with torch.no_grad():
            for x, own in zip(self.tensors, each, strict=True):
                if own != 1.0:
                    _multiply_(_parts(x), torch.tensor(own, dtype=torch.float64, device=CPU))

    def scale_units_(self, coefs: Tensor) -> None:
        with torch.no_grad():
            for x, own in zip(self.tensors, coefs.to(CPU, torch.float64).split(self.unit_counts()), strict=True):
                if not bool((own == 1.0).all()):
                    parts = _parts(x)
                    shaped = own.view(-1, *[1] * (parts.ndim - 1)) if x.ndim > 1 else own.view(())
                    _multiply_(parts, shaped)

    def clamp_(self, bound: Scalar) -> None:
        bound = from_device(bound)
        each = bound.tolist() if isinstance(bound, Tensor) else [bound] * len(self.tensors)
        with torch.no_grad():
            for x, own in zip(self.tensors, each, strict=True):
                if own < math.inf:
                    parts = _parts(x)
                    limit = torch.tensor(own, dtype=torch.float64, device=CPU).to(parts.dtype).item()
                    parts.clamp_(-limit, limit)

    def count_nonfinite(self) -> Tensor:
        with torch.no_grad():
            counts = [count_bad(x) for x in self.tensors]
            return torch.stack(counts, dim=1).to(CPU) if counts else torch.zeros((2, 0), dtype=torch.int64, device=CPU)

    def sanitize_(self) -> None:
        with torch.no_grad():
            for x in self.tensors:
                sanitize_(x)

    def _each(self, order: float, factors: list[float]) -> Tensor:
        """Return the partial of each tensor, times a factor each."""
        with torch.no_grad():
            pieces = [list(_pieces(x)) for x in self.tensors]
            by = [factor for own, factor in zip(pieces, factors, strict=True) for _ in own]
            found = iter(_partials([piece for own in pieces for piece in own], order, by))
            each = [_combined([next(found) for _ in own], order) for own in pieces]
            return torch.stack(each) if each else _none(order)[:0]

    def as_tensor(self, number: Scalar, *, wide: bool | None = None) -> Tensor:
        return norm_tensor(number, bool(wide)).to(self.tensors[0].device if not wide and self.tensors else CPU)


@final
class Narrow(Backend):
    """Plain torch without float64."""

    name = "reference"

    def takes(self, tensors: list[Tensor]) -> bool:
        return all(x.device == tensors[0].device and x.layout == torch.strided for x in tensors)

    def open(self, tensors: list[Tensor], chunks: object = None) -> NarrowBatch | None:  # noqa: ARG002 -- of kernels
        return NarrowBatch(tensors) if self.takes(tensors) else None


NARROW = Narrow()


# On the device.


def _parts(x: Tensor) -> Tensor:
    """Return the real numbers that a tensor is made of; a conjugate that is lazy differs by signs alone."""
    return torch.view_as_real(x.conj() if x.is_conj() else x) if x.is_complex() else x


def _magnitudes(x: Tensor) -> Tensor:
    return x.abs().to(torch.float32)


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """Yield the magnitudes of all elements, as rows of one; nothing of no elements."""
    for piece in x.reshape(-1).split(PIECE):
        if piece.numel():
            yield _magnitudes(piece).view(1, -1)


def _measured(x: Tensor, order: float) -> Rows:
    """Measure the rows of a matrix of magnitudes, none of which is empty."""
    ones = x.new_ones(len(x))
    if order == 0.0:
        return Rows(ones, _paired((x != 0.0).to(torch.float32)))
    extremum = x.amax(dim=1) if order > 0.0 else x.amin(dim=1)
    if is_extremum(order):  # of which a NaN may be left out
        return Rows(extremum.masked_fill(x.isnan().any(dim=1), math.nan), ones.view(-1, 1))
    units = torch.where((extremum > 0.0) & (extremum < math.inf), extremum, ones)
    return Rows(units, _paired(_power(x / units.view(-1, 1), order)))


def _power(x: Tensor, order: float) -> Tensor:
    return x * x if order == 2.0 else x if order == 1.0 else x.pow(order)  # noqa: PLR2004


def _paired(x: Tensor) -> Tensor:
    """Return fewer numbers of the same sum in each row."""
    left: list[Tensor] = []
    for _ in range(PAIRINGS):
        half, odd = divmod(x.shape[1], 2)
        if x.shape[1] <= FEW:
            break
        one, other, rest = x.split([half, half, odd], dim=1)
        left.append(rest)
        x = one + other
    return torch.cat([x, *left], dim=1)


def _multiply_(x: Tensor, coef: Tensor) -> None:
    """Multiply by numbers of the host that broadcast; no byte changes where one of many is 1."""
    scaled = x.to(torch.float32)
    for factor in _factors(coef):
        scaled = scaled * factor.to(x.device)
    x.copy_(torch.where((coef != 1.0).to(x.device), scaled.to(x.dtype), x) if coef.ndim else scaled)


def _factors(coef: Tensor) -> list[Tensor]:
    """Return numbers as float32 numbers with this product."""
    small = torch.where(coef.abs() < SMALLEST_FACTOR, SMALLEST_FACTOR, 1.0).to(torch.float64)
    rest = (coef / small).to(torch.float32)
    return [rest] if bool((small == 1.0).all()) else [small.to(torch.float32), rest]


# On the host.


def _none(order: float) -> Tensor:
    """Return the partial of nothing, as a vector."""
    return torch.full((1,), identity(order), dtype=torch.float64, device=CPU)


def _partials(matrices: list[Tensor], order: float, factors: list[float]) -> list[Tensor]:
    """Return the partial of each row of matrices of magnitudes, times a factor each; all are read at once."""
    found = [_measured(x, order) if x.numel() else None for x in matrices]
    said = [part.reshape(-1) for rows in found if rows is not None for part in rows]
    numbers = iter(torch.cat(said).to(CPU, torch.float64).split([len(x) for x in said]) if said else ())
    partials: list[Tensor] = []
    for x, rows, factor in zip(matrices, found, factors, strict=True):
        if rows is None:
            partials.append(_none(order).expand(len(x)))
            continue
        units, sums = next(numbers) * abs(factor), next(numbers).view(rows.sums.shape).sum(dim=1)
        partials.append(units if is_extremum(order) else sums if order == 0.0 else sums * units.pow(order))
    return partials


def _combined(parts: list[Tensor], order: float) -> Tensor:
    """Return the partial of all; of none, that of nothing."""
    partials = torch.cat([_none(order), *parts])
    if is_extremum(order):
        return partials.amax() if order > 0.0 else partials.amin()
    return partials.sum()
