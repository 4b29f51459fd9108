"""The gradients of one clip, and all that is done with them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from gradclip.distributed.span import Span
from gradclip.exceptions import RemoteError
from gradclip.gradients.nonfinite import Counts
from gradclip.gradients.norms import scale_units_
from gradclip.numbers import Scalar, as_float64, coefficient, is_bad, is_one
from gradclip.ops.backend import Batch
from gradclip.parameters import name_at
from gradclip.sending import indices, placed
from gradclip.units import Units


class Parts(NamedTuple):
    """The norms of P owners, or of their U units: float64, the same bits on every rank.

    Attributes:
        norms: Of shape (P,) or (U,); NaN for an owner without a gradient.
        present: The places of the owners that have a gradient; None where all have.
        total: The norm of everything; None where it is that of `norms`.
        weights: The norms of the same units of the owners themselves, where these were asked for.
    """

    norms: Tensor
    present: Sequence[int] | None
    total: Scalar | None = None
    weights: Tensor | None = None


class GradientSet(ABC):
    """The gradients of one clip: each counted once, with a name, opened as a batch.

    Where several ranks hold a model, these are the local parts of the gradients, and norms are those of all ranks.

    Attributes:
        owners: Whose gradients they are.
        gradients: The gradients as they were found, or their local parts.
        batch: The same, open for work.
        loss: The loss of the step, once norms are measured that of all ranks.
        complete: Whether the norms of all owners make the total.
        is_shared: Whether norms are made of those of several ranks.
    """

    __slots__ = ("_argument", "_names", "_places", "batch", "gradients", "loss", "owners")

    complete = True
    is_shared = False

    def __init__(
        self,
        argument: str,
        owners: list[Tensor],
        names: list[str] | None,
        gradients: list[Tensor],
        batch: Batch,
        places: Sequence[int] | None,
        loss: Scalar | None = None,
    ) -> None:
        """Take gradients, and the places of their owners; None where every owner has one of them."""
        self.owners = owners
        self.gradients = gradients
        self.batch = batch
        self.loss = loss
        self._argument = argument
        self._names = names
        self._places = places

    # What is known of them.

    @property
    def places(self) -> Sequence[int]:
        """The place of the owner of each gradient."""
        return range(len(self.gradients)) if self._places is None else self._places

    def names(self) -> list[str]:
        """Return the name of each gradient: that of the first tensor that owns it, or a place like `parameters[3]`."""
        return [self.name_of(place) for place in self.places]

    def name_of(self, place: int) -> str:
        """Return the name of an owner."""
        return name_at(self._names, place, self._argument)

    @property
    @abstractmethod
    def any_found(self) -> bool:
        """Whether there is any gradient, on any rank."""

    @property
    def any_failed(self) -> bool:
        """Whether any rank could not measure its gradients: a read that waits, where only a device knows."""
        return False

    def check_others(self) -> None:
        """Check that all could.

        Raises:
            RemoteError: If another rank could not.
        """
        if self.any_failed:
            raise RemoteError("Another rank could not clip, and says itself why. No gradient was changed on this one.")

    @property
    def is_heard(self) -> bool:
        """Whether all ranks know without a read if any could not."""
        return True

    is_wide: bool | None = None
    """Whether their norm is float64 instead of float32; None for: where any gradient here has this precision."""

    def as_tensor(self, norm: Scalar) -> Tensor:
        """Return a norm as torch does: 0-dim, on the device of the first gradient, rounded to its dtype once."""
        return self.batch.as_tensor(norm, wide=self.is_wide)

    # Norms.

    @abstractmethod
    def total_norm(self, order: float, *, in_units: bool = False) -> Scalar:
        """Return the p-norm of all elements as one vector, in float64; 0 where there is no element.

        In units of its extremum, the norm of float64 elements cannot overflow either; that takes a second pass.
        """

    def norm_and_coefficient(self, order: float, max_norm: Scalar, eps: float) -> tuple[Scalar, Scalar]:
        """Return the same, and what brings it down to a bound: see `numbers.coefficient`."""
        norm = self.total_norm(order)
        return norm, coefficient(norm, max_norm, eps)

    @abstractmethod
    def norms(self, order: float) -> Parts:
        """Return the p-norm of the gradient of each owner."""

    @abstractmethod
    def unit_norms(self, units: Units, columns: list[Tensor]) -> Parts:
        """Return the norm of each unit of each gradient, and of the same unit of its owner.

        Args:
            units: What a unit is.
            columns: Where the units of each owner are among all.

        Raises:
            TypeError: If a gradient is sparse.
            ValueError: If an owner is a piece that does not say which rows it holds.
        """

    def forget_loss(self, unless_all_of: Span) -> None:  # noqa: ARG002 -- none is told here
        """Forget the loss of this rank, unless all ranks of a span are told each other's with the norms."""
        self.loss = None

    def check_dense(self) -> None:
        """Check that every gradient has units.

        Raises:
            TypeError: If one is sparse.
        """
        for position, x in enumerate(self.gradients):
            if x.is_sparse:
                name = self.names()[position]
                raise TypeError(
                    f"A policy per unit must be given dense gradients, got a sparse one at {name}. Give that parameter "
                    f"another policy: `by_name({{{name!r}: FixedNorm(1.0)}}, ...)` with a policy per parameter for the "
                    "rest, or ignore it."
                )

    def named_norms(self, order: float) -> list[tuple[str, Tensor]]:
        """Return the norm of each gradient with its name, in order: 0-dim, on its device, of the dtype of a norm."""
        norms, present, *_ = self.norms(order)
        places = range(len(self.owners)) if present is None else present
        each = norms.to(self.as_tensor(0.0).dtype).unbind()
        return [(self.name_of(i), placed(each[i], self.owners[i].device)) for i in places]

    def copied_norms(self, order: float) -> dict[str, float]:
        """Return the norm of each owner as a number, 0 for one without a gradient, which others may have.

        Those are left out that were declared to be others on other ranks.
        """
        norms, present, *_ = self.norms(order)
        each, places = norms.tolist(), range(len(self.owners))
        there = frozenset(places if present is None else present)
        return {self.name_of(i): each[i] if i in there else 0.0 for i in places if not self._is_apart(i)}

    @abstractmethod
    def _is_apart(self, place: int) -> bool:
        """Whether other ranks hold other parameters in the place of an owner."""

    # Changes.

    def scale_(self, coef: Scalar) -> None:
        """Multiply every gradient by one coefficient; 1 changes no byte."""
        self.batch.scale_(coef)

    def scale_each_(self, coefs: Tensor) -> None:
        """Multiply the gradient of each owner by its own coefficient: float64, of shape (P,)."""
        self.batch.scale_(coefs if self._places is None else coefs[indices(self.places, coefs.device)])

    def scale_units_(self, coefs: Tensor, units: Units, columns: list[Tensor]) -> None:
        """Multiply each unit of each gradient by its own coefficient: float64, of shape (U,)."""
        scale_units_(self.batch, self._own_units(coefs, units, columns), units)

    @abstractmethod
    def _own_units(self, coefs: Tensor, units: Units, columns: list[Tensor]) -> Tensor:
        """Return the numbers of those units that are here, in order."""

    def clamp_(self, bound: Scalar) -> None:
        """Limit every element, or real and imaginary part, to [-bound, bound]: one, or of shape (P,) one an owner."""
        if not is_one(bound) and self._places is not None:
            bounds = as_float64(bound)
            bound = bounds[indices(self.places, bounds.device)]
        self.batch.clamp_(bound)

    def sanitize_(self) -> None:
        """Set every NaN or infinite element to 0."""
        self.batch.sanitize_()

    # What is not finite.

    def describe_nonfinite(self) -> str:
        """Say which gradients hold NaN or infinite elements, the first by name and with their counts, on each rank."""
        said = self._said(self.count_nonfinite().described(self.batch.numels()))
        what = "a sum overflows" if self.is_shared else "the sum of powers overflows float64"
        return said or f"No element is NaN or infinite: {what}."

    def _said(self, own: str) -> str:
        """Return what all ranks say, where this one says `own`."""
        return own

    def count_nonfinite(self, unless_finite: Scalar = math.nan) -> Counts:
        """Return the counts of NaN and of infinite elements of each gradient here; see `Batch.count_nonfinite`."""
        return Counts(self.names(), self.batch.count_nonfinite(unless_finite), is_bad(unless_finite))
