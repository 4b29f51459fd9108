"""The operations in plain torch: what they mean, and the fallback on every device and for every layout."""

import math
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from gradclip.numbers import (
    CPU,
    Scalar,
    as_float64,
    combine,
    from_device,
    is_extremum,
    is_host,
    is_one,
)
from gradclip.ops import together
from gradclip.ops.backend import Batch, count_units
from gradclip.ops.rounding import rounded, scaled, widened
from gradclip.tracing import is_transformed

PIECE = 2**17
"""Elements that are widened to float64 at a time on the CPU: 1 MiB of scratch, which stays in its cache."""


@final
class ReferenceBatch(Batch):
    """Float64 arithmetic by torch operations, piece by piece.

    Args:
        tensors: Tensors of one device.
        device: Where the numbers of none of them are.
    """

    def __init__(self, tensors: list[Tensor], device: torch.device = CPU) -> None:
        self.tensors = tensors
        self._device = tensors[0].device if tensors else device

    def partial(self, order: float, factor: Scalar = 1.0) -> Scalar:
        with torch.no_grad():
            if isinstance(factor, float) and factor == 1.0 and self._has_fused_norms(order):
                each = together.fused_partials(self.tensors, order)
                partial: Scalar = each.amax() if is_extremum(order) else each.sum()
            else:
                by = factor.to(self._device) if isinstance(factor, Tensor) else factor  # from another device perhaps
                partials = [_partial(piece * by, order) for piece in _real_pieces(self.tensors)]
                partial = combine(partials, order)
            return from_device(partial)

    def partials(self, order: float, factors: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            if factors is None and self._has_fused_norms(order):
                return together.fused_partials(self.tensors, order)
            if not self.tensors:
                return torch.zeros(0, dtype=torch.float64, device=self._device)
            by = [1.0] * len(self.tensors) if factors is None else factors.to(self._device).unbind()
            own = [
                [_partial(piece * factor, order) for piece in _real_pieces([x])]
                for x, factor in zip(self.tensors, by, strict=True)
            ]
            return torch.stack([as_float64(combine(partials, order), self._device) for partials in own])

    def unit_partials(self, order: float = 2.0) -> Tensor:
        with torch.no_grad():
            if not self.tensors:
                return torch.zeros(0, dtype=torch.float64, device=self._device)
            rows = (_real(x.reshape(count_units(x), x.numel() // max(1, count_units(x)))) for x in self.tensors)
            if is_extremum(order):
                return torch.cat([x.abs().amax(dim=1) if x.shape[1] else x.new_zeros(len(x)) for x in rows])
            if order == 2.0:  # noqa: PLR2004
                return torch.cat([x.square().sum(dim=1) for x in rows])
            return torch.cat([x.abs().pow(order).sum(dim=1) for x in rows])

    def scale_(self, coef: Scalar) -> None:
        with torch.no_grad():
            pairs = [pair for pair in zip(self.tensors, self._each(coef), strict=True) if not _is_host_one(pair[1])]
            if pairs and is_one(coef) and _is_elsewhere(self._device):
                together.multiply_all_([parts_of(x) for x, _ in pairs], as_float64(pairs[0][1], self._device))
                return
            for x, own in pairs:
                for piece in _pieces(parts_of(x)):
                    _multiply_(piece, own)

    def scale_units_(self, coefs: Tensor) -> None:
        with torch.no_grad():
            for x, own in zip(self.tensors, coefs.to(self._device).split(self.unit_counts()), strict=True):
                if is_host(own) and bool((own == 1.0).all()):
                    continue
                for piece, factor in _unit_pieces(x, own):
                    _multiply_(piece, factor)

    def clamp_(self, bound: Scalar) -> None:
        with torch.no_grad():
            for x, own in zip(self.tensors, self._each(bound), strict=True):
                if isinstance(own, float) and own == math.inf:
                    continue
                parts, limit = parts_of(x), as_float64(own, x.device)
                if parts.itemsize > 1:
                    limit = rounded(limit, parts.dtype).to(parts.dtype)
                    parts.clamp_(-limit, limit)
                else:  # torch compares no numbers of 8 bits, and may make NaN of a limit that they do not hold
                    parts.copy_(rounded(widened(parts).clamp_(-limit, limit), parts.dtype))

    def count_nonfinite(self, unless_finite: Scalar = math.nan) -> Tensor:
        with torch.no_grad():
            counts = [count_bad(x) for x in self.tensors]
            found = torch.stack(counts, 1) if counts else torch.zeros((2, 0), dtype=torch.int64, device=self._device)
            return found * ~as_float64(unless_finite, found.device).isfinite()

    def sanitize_(self) -> None:
        with torch.no_grad():
            for x in self.tensors:
                sanitize_(x)

    def as_tensor(self, number: Scalar, *, wide: bool | None = None) -> Tensor:
        return norm_tensor(number, self.is_wide if wide is None else wide, self._device)

    def _has_fused_norms(self, order: float) -> bool:
        return _is_elsewhere(self._device) and together.has_fused_norms(self.tensors, order)

    def _each(self, number: Scalar) -> Sequence[Scalar]:
        """Return a number for each tensor: floats where none is to be waited for."""
        if isinstance(number, Tensor):
            number = from_device(number.to(self._device))
        if is_one(number):
            return [number] * len(self.tensors)
        each = as_float64(number)
        return each.tolist() if is_host(each) else list(each.unbind())


def norm_tensor(number: Scalar, wide: bool, device: torch.device = CPU) -> Tensor:  # noqa: FBT001 -- as the kernels' is
    """Return a number as a 0-dim tensor on a device: float64 if wide, else float32, infinite beyond its range."""
    exact = as_float64(number, device)
    return exact if wide else exact.to(torch.float32).to(device)  # which may have no float64


def count_bad(x: Tensor) -> Tensor:
    """Return how many elements are NaN, and how many infinite: int64, of shape (2,)."""
    values = widened(x) if x.itemsize == 1 else x
    return torch.stack([values.isnan().sum(), values.isinf().sum()])


def sanitize_(x: Tensor) -> None:
    """Set every element that is NaN or infinite to 0."""
    if x.itemsize > 1:
        x.masked_fill_(~x.isfinite(), 0.0)
    else:  # torch knows no such numbers of 8 bits
        wide = widened(x)
        x.copy_(torch.where(wide.isfinite(), wide, 0.0))


def _is_host(device: torch.device) -> bool:
    return device.type == "cpu"


def _piece(device: torch.device) -> int:
    return PIECE if _is_host(device) else together.PIECE


def _is_elsewhere(device: torch.device) -> bool:
    """Whether what counts is the number of launches, and how much memory they move."""
    return not _is_host(device) and not is_transformed()


def _is_host_one(number: Scalar) -> bool:
    return isinstance(number, float) and number == 1.0


def _multiply_(piece: Tensor, factor: Scalar) -> None:
    """Multiply real numbers in float64, and round once; where a factor on a device is 1, no byte changes."""
    if _is_elsewhere(piece.device) and piece.dtype in together.SCALED_DTYPES:
        together.multiply_(piece, as_float64(factor, piece.device))
        return
    piece.copy_(scaled(piece, factor))


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """Views that together hold every element once; a tensor without a flat view stays whole."""
    return x.view(-1).split(_piece(x.device)) if x.is_contiguous() else (x,)


def _unit_pieces(x: Tensor, coefs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield views of the real numbers of whole units, with coefficients that broadcast over them."""
    parts = parts_of(x)
    if x.ndim <= 1:
        yield from ((piece, coefs[0]) for piece in _pieces(parts))
        return
    units = max(1, _piece(x.device) // max(1, parts[:1].numel()))
    for piece, own in zip(parts.split(units), coefs.split(units), strict=True):
        yield piece, own.view(-1, *[1] * (piece.ndim - 1))


def parts_of(x: Tensor) -> Tensor:
    """Return the real numbers that a tensor is made of; a conjugate that is lazy differs by signs alone."""
    if not x.is_complex():
        return x
    return torch.view_as_real(x.conj() if x.is_conj() else x)


def _real(x: Tensor) -> Tensor:
    """Return float64 numbers of the same magnitudes."""
    return x.to(torch.complex128).abs() if x.is_complex() else x.to(torch.float64)


def _real_pieces(tensors: list[Tensor]) -> Iterator[Tensor]:
    """Yield all elements as flat vectors of `_real` numbers: large tensors cut, small ones of one dtype joined."""
    small: dict[torch.dtype, list[Tensor]] = {}
    sizes: dict[torch.dtype, int] = {}
    for x in tensors:
        if x.numel() > _piece(x.device):
            yield from (_real(piece).reshape(-1) for piece in _pieces(x))
        elif x.numel():
            small.setdefault(x.dtype, []).append(x.reshape(-1))
            sizes[x.dtype] = sizes.get(x.dtype, 0) + x.numel()
            if sizes[x.dtype] > _piece(x.device):
                yield _real(together.joined(small.pop(x.dtype)))
                sizes[x.dtype] = 0
    yield from (_real(together.joined(group)) for group in small.values())


def _partial(values: Tensor, norm_type: float) -> Tensor:
    if norm_type == 2.0:  # noqa: PLR2004
        return values.dot(values)
    if norm_type == 0.0:
        return values.ne(0.0).sum(dtype=torch.float64)
    magnitudes = values.abs()
    if is_extremum(norm_type):
        return magnitudes.amax() if norm_type > 0 else magnitudes.amin()
    return magnitudes.pow(norm_type).sum()
