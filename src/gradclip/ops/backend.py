"""What a backend does: the operations that clipping needs, on lists of tensors of one device."""

from abc import ABC, abstractmethod

from torch import Tensor

from gradclip.norms import Scalar


class Backend(ABC):
    """One implementation of the operations. Tensors are real or complex floating point, of any shape, on one device.

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
    def row_square_sums(self, tensors: list[Tensor]) -> Tensor:
        """Return the sum of squares of each index of dimension 0 of each tensor, one after the other, as float64.

        A 0-dim tensor has one row.
        """

    @abstractmethod
    def scale_(self, tensors: list[Tensor], coef: Scalar) -> None:
        """Multiply in float64 and round once; a coefficient of 1 changes no byte.

        `coef` is one number for all tensors, or a float64 tensor of shape (number of tensors,).
        """

    @abstractmethod
    def clamp_(self, tensors: list[Tensor], bound: float) -> None:
        """Limit every element, or real and imaginary part, to [-bound, bound], the bound rounded to the dtype."""
