"""What a backend does: the operations that clipping needs, on lists of tensors of one device."""

from abc import ABC, abstractmethod

from torch import Tensor

from gradclip.numbers import Scalar


class Backend(ABC):
    """One implementation of the operations. Tensors are real or complex floating point, of any shape, on one device.

    A *unit* is one index of dimension 0 of a tensor of two dimensions or more: an output row of a linear layer, a
    filter of a convolution. A tensor of fewer dimensions is one unit. Units count through all tensors, in their order.

    Nothing is recorded by autograd; writing raises the version counter of what is written, as torch's own in-place
    operations do.
    """

    name: str

    @abstractmethod
    def measure(self, tensors: list[Tensor], norm_type: float, factor: float | Tensor = 1.0, /) -> Scalar:
        """Return the partial of `factor` times all elements: a float from the host, a 0-dim float64 tensor else."""

    @abstractmethod
    def measure_each(self, tensors: list[Tensor], norm_type: float) -> Tensor:
        """Return the partial of each tensor: float64, of shape (number of tensors,), on their device."""

    @abstractmethod
    def unit_square_sums(self, tensors: list[Tensor]) -> Tensor:
        """Return the sum of squares of each unit: float64, of shape (number of units,), on their device."""

    @abstractmethod
    def scale_(self, tensors: list[Tensor], coef: Scalar) -> None:
        """Multiply in float64 and round once; a coefficient of 1 changes no byte.

        `coef` is one number for all tensors, or a float64 tensor of shape (number of tensors,).
        """

    @abstractmethod
    def scale_units_(self, tensors: list[Tensor], coefs: Tensor) -> None:
        """Multiply each unit by its own coefficient, as `scale_` does; a coefficient of 1 changes no byte of its unit.

        `coefs` is a float64 tensor of shape (number of units,), on their device.
        """

    @abstractmethod
    def clamp_(self, tensors: list[Tensor], bound: float) -> None:
        """Limit every element, or real and imaginary part, to [-bound, bound], the bound rounded to the dtype."""
