"""What a backend does: tensors of one device, opened as a batch, and the operations that clipping needs on it."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from gradclip.numbers import WIDE, Scalar, coefficient, sqrt


class Batch(ABC):
    """Tensors that are worked on as one: the only object that knows pointers, chunks, dtypes and where numbers live.

    Tensors are real or complex floating point, of any shape. A *unit* is one index of dimension 0 of a tensor of two
    dimensions or more: an output row of a linear layer, a filter of a convolution. A tensor of fewer dimensions is one
    unit. Units count through all tensors, in their order.

    A *scalar* is a float from the host, or a 0-dim float64 tensor elsewhere. A vector is a float64 tensor where the
    numbers of the batch live; one that is given may be anywhere.

    Nothing is recorded by autograd. What is written has its version counter raised, as by torch's own in-place
    operations; what is known not to be written has not.

    Attributes:
        tensors: The tensors, in order.
    """

    __slots__ = ()

    tensors: list[Tensor]

    @property
    def is_wide(self) -> bool:
        """Whether any tensor has the precision of float64."""
        return any(x.dtype in WIDE for x in self.tensors)

    def numels(self) -> list[int]:
        """Return the number of elements of each tensor."""
        return [x.numel() for x in self.tensors]

    @abstractmethod
    def partial(self, order: float, factor: Scalar = 1.0) -> Scalar:
        """Return the partial of `factor` times all elements."""

    @abstractmethod
    def partials(self, order: float, factors: Tensor | None = None) -> Tensor:
        """Return the partial of each tensor, times a factor each if there are any: of shape (tensors,)."""

    def norm(self) -> Scalar:
        """Return the 2-norm of all elements."""
        return sqrt(self.partial(2.0))

    def norm_and_coefficient(self, max_norm: Scalar, eps: float) -> tuple[Scalar, Scalar]:
        """Return the same, and what brings it down to a bound; see `numbers.coefficient`."""
        norm = self.norm()
        return norm, coefficient(norm, max_norm, eps)

    def unit_counts(self) -> list[int]:
        """Return the number of units of each tensor."""
        return [count_units(x) for x in self.tensors]

    @abstractmethod
    def unit_partials(self, order: float = 2.0) -> Tensor:
        """Return the partial of each unit, of an order > 0: of shape (units,)."""

    @abstractmethod
    def scale_(self, coef: Scalar) -> None:
        """Multiply in float64 and round once: by one number, or by one a tensor; 1 changes no byte."""

    @abstractmethod
    def scale_units_(self, coefs: Tensor) -> None:
        """Multiply each unit by its own coefficient, of shape (units,), as `scale_` does."""

    @abstractmethod
    def clamp_(self, bound: Scalar) -> None:
        """Limit every element, or real and imaginary part, to [-bound, bound], the bound rounded to the dtype.

        One bound, or one a tensor; an infinite one changes nothing.
        """

    def forget(self) -> None:  # noqa: B027 -- most remember nothing
        """Forget what was measured, where tensors were written in another way."""

    @abstractmethod
    def count_nonfinite(self, unless_finite: Scalar = math.nan) -> Tensor:
        """Return how many elements of each tensor are NaN, and how many infinite: int64, of shape (2, tensors).

        Where a number, such as their norm, is finite, none counts, and kernels read none.
        """

    @abstractmethod
    def sanitize_(self) -> None:
        """Set every element that is NaN or infinite to 0."""

    @abstractmethod
    def as_tensor(self, number: Scalar, *, wide: bool | None = None) -> Tensor:
        """Return a number as torch returns a norm: 0-dim, where the numbers live, float64 if `wide`, else float32.

        By default, it is as wide as the widest tensor.
        """


def count_units(x: Tensor) -> int:
    """Return how many units a tensor has."""
    return x.shape[0] if x.ndim > 1 else 1


class Backend(ABC):
    """One implementation of the operations, for the devices that `registry.KERNELS` names it for."""

    name: str

    @abstractmethod
    def takes(self, tensors: list[Tensor]) -> bool:
        """Whether all of some tensors are on one device, and it can work on them, in place."""

    @abstractmethod
    def open(self, tensors: list[Tensor], chunks: Any = None) -> Batch | None:
        """Open tensors; None if it does not take them all.

        Args:
            tensors: Tensors of one device.
            chunks: Their table of chunks, if the walk has made it: then it takes them.
        """

    def rule(self, device: torch.device) -> Any:  # noqa: ARG002 -- most have none
        """Return what asks a rule about numbers of a device in few launches, as `triton.rule.Rule`; None if nothing."""
        return None
