"""Sparse tensors that are not coalesced: an element is the sum of its duplicates."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from gradclip.numbers import Scalar, is_known
from gradclip.ops.backend import Batch
from gradclip.torch_private import stored_values


@final
class Uncoalesced(Batch):
    """What is measured, or limited, is a coalesced copy; scaling the values of the original scales the sums.

    Args:
        tensors: Sparse COO tensors.
        opened: Opens dense tensors.
    """

    def __init__(self, tensors: list[Tensor], opened: Callable[[list[Tensor]], Batch]) -> None:
        self.tensors = tensors
        self._opened = opened
        self._written = opened([stored_values(x) for x in tensors])

    @cached_property
    def _summed(self) -> list[Tensor]:
        return [x.coalesce() for x in self.tensors]

    @cached_property
    def _measured(self) -> Batch:
        return self._opened([stored_values(x) for x in self._summed])

    def forget(self) -> None:
        for name in ("_summed", "_measured"):
            self.__dict__.pop(name, None)

    def numels(self) -> list[int]:
        return self._measured.numels()

    def partial(self, order: float, factor: Scalar = 1.0) -> Scalar:
        return self._measured.partial(order, factor)

    def partials(self, order: float, factors: Tensor | None = None) -> Tensor:
        return self._measured.partials(order, factors)

    def unit_counts(self) -> list[int]:
        return self._measured.unit_counts()

    def unit_partials(self, order: float = 2.0) -> Tensor:
        return self._measured.unit_partials(order)

    def scale_(self, coef: Scalar) -> None:
        self._written.scale_(coef)
        self.forget()

    def scale_units_(self, coefs: Tensor) -> None:
        self._measured.scale_units_(coefs)
        self._write_back()

    def clamp_(self, bound: Scalar) -> None:
        if is_known(bound) and bound == math.inf:  # which leaves duplicates as they are too
            return
        self._measured.clamp_(bound)
        self._write_back()

    def count_nonfinite(self, unless_finite: Scalar = math.nan) -> Tensor:
        return self._measured.count_nonfinite(unless_finite)

    def sanitize_(self) -> None:
        self._measured.sanitize_()
        self._write_back()

    def as_tensor(self, number: Scalar, *, wide: bool | None = None) -> Tensor:
        return self._measured.as_tensor(number, wide=wide)

    def _write_back(self) -> None:
        """Make the originals what their coalesced copies are; they are coalesced from then on."""
        with torch.no_grad():
            for original, summed in zip(self.tensors, self._summed, strict=True):
                original.copy_(summed)
        self._written = self._opened([stored_values(x) for x in self.tensors])
        self.forget()
