"""From what this rank measures to what all ranks know: one collective for each span of ranks."""

import math
from typing import final

import torch
from torch import Tensor

from gradclip.distributed.dtensor import local_of
from gradclip.distributed.span import Span
from gradclip.gradients.gradient_set import GradientSet, Parts
from gradclip.gradients.held import Held
from gradclip.gradients.norms import extremum, needs_units, unit_partials_of
from gradclip.gradients.passage import Partials, Passage
from gradclip.numbers import (
    WIDE,
    Scalar,
    as_float64,
    finish_each,
    from_device,
    identity,
    is_extremum,
    is_known,
    is_power,
    on_host,
    unit,
)
from gradclip.ops.registry import open_
from gradclip.sending import indices, moved, sent
from gradclip.units import Units


@final
class OverRanks(GradientSet):
    """What this rank holds of the gradients, and what all ranks make of them; see `passage` for what fails."""

    __slots__ = ("_held", "_layout", "_passage", "complete", "is_wide")

    is_shared = True

    def __init__(
        self,
        argument: str,
        owners: list[Tensor],
        names: list[str] | None,
        gradients: list[Tensor],
        held: Held,
        *,
        loss: Scalar | None = None,
        failure: BaseException | None = None,
    ) -> None:
        """Take local parts, and why gradients could not be collected, if so."""
        super().__init__(argument, owners, names, gradients, held.batch, held.places, loss)
        self.complete = held.layout.complete
        self.is_wide = held.layout.wide or any(owners[place].dtype in WIDE for place in held.layout.plain)
        self._held = held
        self._layout = held.layout
        self._passage = Passage(held, loss, failure)

    @property
    def any_found(self) -> bool:
        """Whether any rank has any element of a gradient; taken for granted where only a device knows."""
        elements = self._passage.flags.elements
        return not is_known(elements) or elements > 0.0

    @property
    def is_heard(self) -> bool:
        return self._passage.flags.is_heard

    @property
    def any_failed(self) -> bool:
        return on_host(self._passage.flags.failed) > 0.0

    def _is_apart(self, place: int) -> bool:
        return self._layout.shares[place].apart

    def forget_loss(self, unless_all_of: Span) -> None:
        if not unless_all_of.is_covered_by(self._layout.tails):
            super().forget_loss(unless_all_of)
            self._passage.forget_loss()

    # Norms.

    def total_norm(self, order: float, *, in_units: bool = False) -> Scalar:
        if needs_units(order) or (in_units and is_power(order)):
            scale = unit(self._total(extremum(order), 1.0))
            total = scale * self._total(order, 1.0 / scale)
        else:
            total = self._total(order, 1.0)
        self._passage.raise_failure()
        return total

    def norms(self, order: float) -> Parts:
        count = len(self.owners)
        if needs_units(order):
            extrema, present = self._each(extremum(order), None)
            scales = as_float64(unit(extrema))
            partials, _ = self._each(order, scales)
            largest = unit(self._total_of_each(extrema, present, extremum(order)))  # one for all, as they are added up
            norms = scales * finish_each(partials, order)
            total = largest * self._total_of_each((norms / largest) ** order, present, order)
        else:
            partials, present = self._each(order, None)
            total = self._total_of_each(partials, present, order)
            norms = finish_each(partials, order)
        self._passage.raise_failure()
        if order < 0.0:  # that of no element is 0
            empty = [place for place in range(count) if self._layout.is_empty(place, self.owners[place])]
            norms.index_fill_(0, indices(empty, norms.device), 0.0)  # to assign it would wait for a copy of it
        return Parts(norms if present is None else torch.where(present, norms, math.nan), _positions(present), total)

    def unit_norms(self, units: Units, columns: list[Tensor]) -> Parts:
        self._passage.attempt(self._check_units, None)
        order = units.order

        def fill(places: list[int], values: Tensor) -> None:
            there, gradients = self._held.open(places)
            weights = open_([local_of(self.owners[place]) for place in places])
            for row, held, which, batch in ((0, self._held, there, gradients), (1, self._layout, places, weights)):
                if batch.tensors:
                    where = torch.cat([_at(columns[place], held.rows(place, units)) for place in which])
                    own = unit_partials_of(batch, units).to(values.device)
                    if not is_extremum(order):
                        pairs = zip(batch.tensors, held.copies(which), strict=True)
                        repeated = [copies for x, copies in pairs for _ in range(units.count(tuple(x.shape)))]
                        own = own / sent(repeated, own.device)
                    values[row, where] = own

        values = self._nothing(2, sum(map(len, columns)), 0.0)
        known = [own[:0] if share.in_pieces else own for own, share in zip(columns, self._layout.shares, strict=False)]
        values, present = self._passage.whole(values, lambda places: torch.cat([known[i] for i in places]), fill, order)
        together = [values[0, own] for own in columns]
        each = [own.amax() if is_extremum(order) and len(own) else own.sum() for own in together]
        total = self._total_of_each(torch.stack(each) if each else values[0], present, order)
        self._passage.raise_failure()
        norms = finish_each(values, order)
        if present is not None:
            has = [present[place].expand(len(own)) for place, own in enumerate(columns)]
            norms = torch.where(torch.cat(has), norms, math.nan)
        return Parts(norms[0], _positions(present), total, norms[1])

    def _check_units(self) -> None:
        """Check that every gradient has units, and says which of them are here."""
        self.check_dense()
        for place, share in enumerate(self._layout.shares):
            if share.in_pieces:
                raise ValueError(
                    f"`GradClipper(policy=...)` must not look at single units of {self.name_of(place)!r}: its pieces "
                    "are plain tensors, which do not say which rows they hold. Shard it as a DTensor, as `fully_shard` "
                    "and `parallelize_module` do, or use another policy for it."
                )

    # Changes.

    def _own_units(self, coefs: Tensor, units: Units, columns: list[Tensor]) -> Tensor:
        own = [coefs[_at(columns[place], self._held.rows(place, units))] for place in self._held.places]
        return torch.cat(own) if own else coefs[:0]

    def clamp_(self, bound: Scalar) -> None:
        """Do so, where no element stands for a part of a sum: clamped parts would not make a clamped sum."""
        if (place := self._held.unsummed_place) is not None:
            raise TypeError(
                "Clipping by value must be given gradients that are summed, got a Partial DTensor at "
                f"{self.name_of(place)}. Redistribute it before, or clip by norm."
            )
        super().clamp_(bound)

    def sanitize_(self) -> None:
        super().sanitize_()
        self._held.forget_sums()

    def _said(self, own: str) -> str:
        return self._passage.said(own)

    # How the norm of everything is found.

    def _total(self, order: float, factor: Scalar) -> Scalar:
        self._passage.start(order)
        self._held.sum_up(self._layout.meshes)
        total = self._passage.total(self._layout.tails, lambda: self._measured(order, factor), order)
        self.loss = self._passage.loss
        return total

    def _measured(self, order: float, factor: Scalar) -> Partials:
        """Return what this rank has to add to the total."""
        found: Partials = {}
        for chain, copies, places in self._held.scopes():
            value = self._passage.attempt(
                lambda places=places: self._held.open(places)[1].partial(order, factor), identity(order)
            )
            found.setdefault(chain, []).append(value if copies == 1 or is_extremum(order) else value / copies)
        return found

    def _total_of_each(self, partials: Tensor, present: Tensor | None, order: float) -> Scalar:
        """Return the norm of everything from the partials of each parameter, known as a whole."""
        found: Partials = {}
        for chain, seen, places in self._layout.known_scopes:
            where = indices(places, partials.device)
            own = partials[where]
            if present is not None:
                own = own.masked_fill(~present[where], identity(order))
            extreme = own.amax if order > 0.0 else own.amin
            value = extreme() if is_extremum(order) else own.sum() / seen
            found.setdefault(chain, []).append(from_device(value))
        total = self._passage.total(self._layout.known_order, lambda: found, order)
        self.loss = self._passage.loss
        return total

    # How those of single parameters are.

    def _each(self, order: float, scales: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the partial of each parameter as a whole, in units of `scales`, and which have a gradient anywhere."""

        def fill(places: list[int], values: Tensor) -> None:
            there, batch = self._held.open(places)
            if order < 0.0:  # the norm of nothing is 0, but so is that of a zero
                some = [i for i, numel in enumerate(batch.numels()) if numel]
                there, batch = [there[i] for i in some], open_([batch.tensors[i] for i in some])
            if there:
                at = indices(there, values.device)
                own = batch.partials(order, None if scales is None else 1.0 / scales[at]).to(values.device)
                values[0, at] = own if is_extremum(order) else own / sent(self._held.copies(there), own.device)

        nothing = self._nothing(1, len(self.owners), identity(order))
        values, present = self._passage.whole(nothing, lambda places: indices(places, nothing.device), fill, order)
        return values[0], present

    def _nothing(self, rows: int, columns: int, value: float) -> Tensor:
        like = self.batch.as_tensor(value, wide=True)
        return like.expand(rows, columns).clone()


def _at(columns: Tensor, rows: Tensor | slice) -> Tensor:
    return columns[rows if isinstance(rows, slice) else moved(rows, columns.device)]


def _positions(present: Tensor | None) -> list[int] | None:
    """Return which places have a gradient: where one is missing here, only the other ranks know."""
    has: list[bool] = [] if present is None else present.tolist()
    return None if all(has) else [place for place, there in enumerate(has) if there]
