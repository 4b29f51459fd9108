"""The gradients of a model that this rank holds alone."""

from typing import final

import torch
from torch import Tensor

from gradclip import numbers
from gradclip.gradients.gradient_set import GradientSet, Parts
from gradclip.gradients.norms import norm_of, norms_of, unit_partials_of
from gradclip.numbers import CPU, Scalar
from gradclip.ops.registry import open_
from gradclip.sending import indices
from gradclip.units import Units


@final
class Here(GradientSet):
    """All that there is, is here."""

    __slots__ = ()

    @property
    def any_found(self) -> bool:
        return bool(self.gradients)

    def total_norm(self, order: float, *, in_units: bool = False) -> Scalar:
        return norm_of(self.batch, order, in_units=in_units)

    def norm_and_coefficient(self, order: float, max_norm: Scalar, eps: float) -> tuple[Scalar, Scalar]:
        if order == 2.0:  # noqa: PLR2004
            return self.batch.norm_and_coefficient(max_norm, eps)
        return super().norm_and_coefficient(order, max_norm, eps)

    def norms(self, order: float) -> Parts:
        return Parts(self._spread(norms_of(self.batch, order)), self._places)

    def unit_norms(self, units: Units, columns: list[Tensor]) -> Parts:
        self.check_dense()
        weights = open_([self.owners[place].detach() for place in self.places])
        both = [numbers.finish_each(unit_partials_of(batch, units), units.order) for batch in (self.batch, weights)]
        return Parts(self._spread(both[0], columns), self._places, weights=self._spread(both[1], columns))

    def _spread(self, values: Tensor, columns: list[Tensor] | None = None) -> Tensor:
        """Put the numbers of the gradients, one each or one for each unit, where those of their owners are."""
        if self._places is None:
            return values
        where = indices(self._places, values.device) if columns is None else self._rows(columns)
        size = len(self.owners) if columns is None else sum(map(len, columns))
        whole = torch.full((size,), torch.nan, dtype=torch.float64, device=values.device)
        whole[where] = values
        return whole

    def _rows(self, columns: list[Tensor]) -> Tensor:
        return (
            torch.cat([columns[place] for place in self.places])
            if self.gradients
            else torch.zeros(0, dtype=torch.int64, device=CPU)
        )

    def _own_units(self, coefs: Tensor, units: Units, columns: list[Tensor]) -> Tensor:  # noqa: ARG002
        return coefs if self._places is None else coefs[self._rows(columns)]

    def _is_apart(self, place: int) -> bool:  # noqa: ARG002 -- of none
        return False
