"""The operations where a device has no float64: float32 on the device, and float64 for what is read of it.

Elements are taken in units of their extremum, so that no power of them leaves float32, and added up in pairs, so that
no sum drifts: 2048 of them by 11 additions each. These sums are read, and added up in float64 on the host, where all
numbers live then. A norm is right within 4 units in the last place of float32.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, final

import torch
from torch import Tensor

from gradclip.numbers import CPU, Scalar, from_device, identity, is_extremum, on_host
from gradclip.ops.backend import Batch, count_units
from gradclip.ops.reference import count_bad, norm_tensor, parts_of, sanitize_
from gradclip.ops.rounding import rounded

PAIRINGS = 11
"""How often neighbours are added up before the rest is read."""

FEW = 64
"""Numbers that are read as they are."""

PIECE = 2**24
"""Elements that are measured at a time: 64 MiB of scratch."""

SMALLEST_FACTOR = 2.0**-100
"""A smaller coefficient, which float32 may not hold, is several factors."""


class Rows(NamedTuple):
    """What a device says of rows of elements: all float32.

    Attributes:
        units: Numbers whose product the elements of each row were divided by: of shape (rows, any).
        sums: Sums of the powers of what is left of them: of shape (rows, any).
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

    def partial(self, order: float, factor: Scalar = 1.0) -> Scalar:
        return _combined([self._each(order, [float(factor)] * len(self.tensors))], order).item()

    def partials(self, order: float, factors: Tensor | None = None) -> Tensor:
        return self._each(order, [1.0] * len(self.tensors) if factors is None else factors.tolist())

    def unit_partials(self, order: float = 2.0) -> Tensor:
        with torch.no_grad():
            rows = (_in_units(x) for x in self.tensors)
            return torch.cat([_none(order)[:0], *_partials(rows, order, [1.0] * len(self.tensors))])

    def scale_(self, coef: Scalar) -> None:
        coef = from_device(coef)
        each = coef.tolist() if isinstance(coef, Tensor) else [coef] * len(self.tensors)
        with torch.no_grad():
            for x, own in zip(self.tensors, each, strict=True):
                if own != 1.0:
                    _multiply_(parts_of(x), torch.tensor(own, dtype=torch.float64, device=CPU))

    def scale_units_(self, coefs: Tensor) -> None:
        with torch.no_grad():
            for x, own in zip(self.tensors, coefs.to(CPU, torch.float64).split(self.unit_counts()), strict=True):
                if not bool((own == 1.0).all()):
                    parts = parts_of(x)
                    shaped = own.view(-1, *[1] * (parts.ndim - 1)) if x.ndim > 1 else own.view(())
                    _multiply_(parts, shaped)

    def clamp_(self, bound: Scalar) -> None:
        bound = from_device(bound)
        each = bound.tolist() if isinstance(bound, Tensor) else [bound] * len(self.tensors)
        with torch.no_grad():
            for x, own in zip(self.tensors, each, strict=True):
                if own < math.inf:
                    parts = parts_of(x)
                    limit = rounded(torch.tensor(own, dtype=torch.float64, device=CPU), parts.dtype)
                    limit = limit.to(parts.dtype).item()
                    parts.clamp_(-limit, limit)

    def count_nonfinite(self, unless_finite: Scalar = math.nan) -> Tensor:
        with torch.no_grad():
            asks = not math.isfinite(on_host(unless_finite))
            counts = [count_bad(x) for x in self.tensors if asks]
            none = torch.zeros((2, len(self.tensors)), dtype=torch.int64, device=CPU)
            return torch.stack(counts, dim=1).to(CPU) if counts else none

    def sanitize_(self) -> None:
        with torch.no_grad():
            for x in self.tensors:
                sanitize_(x)

    def _each(self, order: float, factors: list[float]) -> Tensor:
        """Return the partial of each tensor, times a factor each."""
        with torch.no_grad():
            counts = [-(-x.numel() // PIECE) for x in self.tensors]
            by = [factor for count, factor in zip(counts, factors, strict=True) for _ in range(count)]
            found = iter(_partials((piece for x in self.tensors for piece in _pieces(x)), order, by))
            each = [_combined([next(found) for _ in range(count)], order) for count in counts]
            return torch.stack(each) if each else _none(order)[:0]

    def as_tensor(self, number: Scalar, *, wide: bool | None = None) -> Tensor:
        return norm_tensor(number, bool(wide), CPU if wide or not self.tensors else self.tensors[0].device)


# On the device.


def _sizes(x: Tensor) -> Tensor:
    """Return the magnitudes of elements; of complex ones, those of both parts, in a dimension more."""
    return parts_of(x.to(torch.complex64) if x.is_complex() else x).abs().to(torch.float32)


def _pieces(x: Tensor) -> Iterator[Tensor]:
    """Yield the magnitudes of all elements, as rows of one; nothing of no elements."""
    for piece in x.reshape(-1).split(PIECE):
        if piece.numel():
            yield _sizes(piece).unsqueeze(0)


def _in_units(x: Tensor) -> Tensor:
    """Return the magnitudes of a tensor as rows, one a unit."""
    units, sizes = count_units(x), _sizes(x)
    return sizes.reshape(units, x.numel() // max(1, units), *sizes.shape[x.ndim :])


def _measured(x: Tensor, order: float) -> Rows:
    """Measure the rows of a matrix of magnitudes, or of those of parts, none of which is empty."""
    if x.ndim > 2 and order == 2.0:  # noqa: PLR2004 -- whose squares are added up anyway
        x = x.flatten(1)
    if x.ndim > 2:  # noqa: PLR2004
        units = _usable(x.flatten(1).amax(dim=1))
        found = _measured((x / units.view(-1, 1, 1)).square().sum(dim=2).sqrt(), order)
        return Rows(torch.cat([units.view(-1, 1), found.units], dim=1), found.sums)
    ones = x.new_ones((len(x), 1))
    if order == 0.0:
        return Rows(ones, _paired((x != 0.0).to(torch.float32)))
    extremum = x.amax(dim=1) if order > 0.0 else x.amin(dim=1)
    if is_extremum(order):  # of which a NaN may be left out
        return Rows(extremum.masked_fill(x.isnan().any(dim=1), math.nan).view(-1, 1), ones)
    units = _usable(extremum).view(-1, 1)
    return Rows(units, _paired(_power(x / units, order)))


def _usable(extremum: Tensor) -> Tensor:
    """Return what to divide by: the extremum, or 1 where a division by it would make no number."""
    return torch.where((extremum > 0.0) & (extremum < math.inf), extremum, torch.ones_like(extremum))


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
        scaled = scaled * (factor.to(x.device) if factor.ndim else factor.item())  # one number goes with the launch
    x.copy_(torch.where((coef != 1.0).to(x.device), scaled.to(x.dtype), x) if coef.ndim else scaled)


def _factors(coef: Tensor) -> list[Tensor]:
    """Return numbers as float32 numbers with this product."""
    factors: list[Tensor] = []
    while bool((small := (coef != 0.0) & (coef.abs() < SMALLEST_FACTOR)).any()):
        factors.append(torch.where(small, SMALLEST_FACTOR, 1.0).to(torch.float32))
        coef = torch.where(small, coef / SMALLEST_FACTOR, coef)
    return [*factors, coef.to(torch.float32)]


# On the host.


def _none(order: float) -> Tensor:
    """Return the partial of nothing, as a vector."""
    return torch.full((1,), identity(order), dtype=torch.float64, device=CPU)


def _partials(matrices: Iterable[Tensor], order: float, factors: list[float]) -> list[Tensor]:
    """Return the partial of each row of matrices of magnitudes, times a factor each; all are read at once.

    A matrix is made when it is measured, so that there is but one at a time.
    """
    lengths: list[int] = []
    found: list[Rows | None] = []
    for x in matrices:
        lengths.append(len(x))
        found.append(_measured(x, order) if x.numel() else None)
    said = [part.reshape(-1) for rows in found if rows is not None for part in rows]
    numbers = iter(torch.cat(said).to(CPU, torch.float64).split([len(x) for x in said]) if said else ())
    partials: list[Tensor] = []
    for length, rows, factor in zip(lengths, found, factors, strict=True):
        if rows is None:
            partials.append(_none(order).expand(length))
            continue
        units, sums = next(numbers).view(rows.units.shape).prod(dim=1), next(numbers).view(rows.sums.shape).sum(dim=1)
        units = units * abs(factor)
        partials.append(units if is_extremum(order) else sums if order == 0.0 else sums * units.pow(order))
    return partials


def _combined(parts: list[Tensor], order: float) -> Tensor:
    """Return the partial of all; of none, that of nothing."""
    partials = torch.cat([_none(order), *parts])
    if is_extremum(order):
        return partials.amax() if order > 0.0 else partials.amin()
    return partials.sum()
