"""Tensors of several devices or backends, as one batch."""

import math
from collections.abc import Sequence
from typing import TypeAlias, final

import torch
from torch import Tensor

from gradclip.numbers import Scalar, combine
from gradclip.ops.backend import Batch
from gradclip.sending import indices

Part: TypeAlias = tuple[Batch, Sequence[int]]
"""A batch, and where its tensors are among all."""


@final
class Several(Batch):
    """Parts that are worked on one after the other; numbers live where those of the first tensor do.

    Args:
        tensors: All tensors, in order.
        parts: The batches that they are in.
    """

    def __init__(self, tensors: list[Tensor], parts: list[Part]) -> None:
        self.tensors = tensors
        self._parts = sorted(parts, key=lambda part: part[1][0])

    @property
    def is_wide(self) -> bool:
        return any(batch.is_wide for batch, _ in self._parts)

    def partial(self, order: float, factor: Scalar = 1.0) -> Scalar:
        return combine([batch.partial(order, factor) for batch, _ in self._parts], order)

    def partials(self, order: float, factors: Tensor | None = None) -> Tensor:
        own = [None if factors is None else factors[indices(at, factors.device)] for _, at in self._parts]
        found = [batch.partials(order, some) for (batch, _), some in zip(self._parts, own, strict=True)]
        return self._in_order(found, [1] * len(self.tensors))

    def numels(self) -> list[int]:
        return self._listed([batch.numels() for batch, _ in self._parts])

    def unit_counts(self) -> list[int]:
        return self._listed([batch.unit_counts() for batch, _ in self._parts])

    def unit_partials(self, order: float = 2.0) -> Tensor:
        return self._in_order([batch.unit_partials(order) for batch, _ in self._parts], self.unit_counts())

    def scale_(self, coef: Scalar) -> None:
        for batch, at in self._parts:
            batch.scale_(_own(coef, at))

    def scale_units_(self, coefs: Tensor) -> None:
        pieces = coefs.split(self.unit_counts())
        for batch, at in self._parts:
            batch.scale_units_(torch.cat([pieces[i] for i in at]))

    def clamp_(self, bound: Scalar) -> None:
        for batch, at in self._parts:
            batch.clamp_(_own(bound, at))

    def forget(self) -> None:
        for batch, _ in self._parts:
            batch.forget()

    def count_nonfinite(self, unless_finite: Scalar = math.nan) -> Tensor:
        found = [batch.count_nonfinite(unless_finite).t() for batch, _ in self._parts]
        return self._in_order(found, [1] * len(self.tensors)).t()

    def sanitize_(self) -> None:
        for batch, _ in self._parts:
            batch.sanitize_()

    def as_tensor(self, number: Scalar, *, wide: bool | None = None) -> Tensor:
        return self._parts[0][0].as_tensor(number, wide=self.is_wide if wide is None else wide)

    def _listed(self, found: list[list[int]]) -> list[int]:
        numbers = {i: x for own, (_, at) in zip(found, self._parts, strict=True) for i, x in zip(at, own, strict=True)}
        return [numbers[i] for i in range(len(self.tensors))]

    def _in_order(self, found: list[Tensor], counts: list[int]) -> Tensor:
        """Put what the parts have, so many numbers a tensor, in the order of the tensors."""
        pieces: dict[int, Tensor] = {}
        for numbers, (_, at) in zip(found, self._parts, strict=True):
            pieces.update(zip(at, numbers.to(found[0].device).split([counts[i] for i in at]), strict=True))
        return torch.cat([pieces[i] for i in range(len(self.tensors))])


def _own(number: Scalar, at: Sequence[int]) -> Scalar:
    """Return one number for all, or those of a part."""
    return number[indices(at, number.device)] if isinstance(number, Tensor) and number.ndim else number
