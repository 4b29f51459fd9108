"""What a unit of a parameter is, where each has a norm of its own: an output row, a filter, a column."""

from dataclasses import dataclass
from math import prod
from typing import final

from torch import Tensor


@final
@dataclass(frozen=True)
class Units:
    """How parameters of two dimensions or more are cut into units; one of fewer is a unit by itself.

    Args:
        axis: The dimensions that the norm of a unit is taken over, counted from the end where they are negative; None
            for all but the first. Those that a parameter does not have are passed over.
        order: The order p of the norm, > 0.
    """

    axis: tuple[int, ...] | None = None
    order: float = 2.0

    def kept(self, ndim: int) -> tuple[int, ...]:
        """Return the dimensions whose indices tell units apart."""
        if ndim < 2:  # noqa: PLR2004
            return ()
        if self.axis is None:
            return (0,)
        reduced = {dim % ndim for dim in self.axis if -ndim <= dim < ndim}
        return tuple(dim for dim in range(ndim) if dim not in reduced)

    def count(self, shape: tuple[int, ...]) -> int:
        """Return the number of units of a tensor."""
        return prod(shape[dim] for dim in self.kept(len(shape)))

    def rows(self, x: Tensor) -> Tensor:
        """Return a tensor as one whose dimension 0 counts units: itself, a view, or where none can be, a copy."""
        if self.axis is None or x.ndim < 2:  # noqa: PLR2004
            return x
        count = self.count(tuple(x.shape))
        return self._first(x).reshape(count, x.numel() // count if count else 0)

    def write_back(self, rows: Tensor, x: Tensor) -> None:
        """Write what `rows` has returned for a tensor back, if it was a copy."""
        if rows is not x and rows.untyped_storage().data_ptr() != x.untyped_storage().data_ptr():
            first = self._first(x)
            first.copy_(rows.view(first.shape))

    def _first(self, x: Tensor) -> Tensor:
        kept = self.kept(x.ndim)
        return x.permute(*kept, *(dim for dim in range(x.ndim) if dim not in kept))
