"""From what this rank measures to what all ranks know: one collective for each span of ranks.

With the numbers travel flags, so that whatever goes wrong on one rank is known to all that wait for it, and all raise.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from gradclip.distributed.dtensor import local_of
from gradclip.distributed.flags import NAN, Flags, exchange, exchange_each
from gradclip.distributed.held import Held
from gradclip.distributed.plan import Chain, Plan
from gradclip.distributed.span import Span
from gradclip.exceptions import RemoteError
from gradclip.numbers import (
    CPU,
    LARGEST_PLAIN_ORDER,
    Scalar,
    as_float64,
    combine,
    finish,
    finish_each,
    identity,
    is_extremum,
    is_power,
    unit,
)
from gradclip.units import Units

Measure: TypeAlias = Callable[[list[Tensor] | None, float, Scalar], Scalar]
"""(local tensors, None for all, order of the norm, factor) -> the partial of all their elements times the factor."""

MeasureEach: TypeAlias = Callable[[list[Tensor]], Tensor]
"""(local tensors) -> one number, or one for each unit, of each in order: float64."""

Partials: TypeAlias = dict[Chain, list[Scalar]]
"""Partials of norms, by the spans that are ahead of them."""

T = TypeVar("T")


class Known(NamedTuple):
    """The norms of single parameters, or of their units, and of everything: the same bits on every rank.

    Attributes:
        norms: One or two rows of norms: float64.
        present: Which parameters have a gradient on any rank: bool, of shape (P,).
        total: The total norm.
    """

    norms: Tensor
    present: Tensor
    total: Scalar


@final
class Reduction:
    """The gradients of one clip on this rank, and what all ranks make of them.

    Args:
        plan: How their norms are reduced.
        owners: The parameters.
        held: What this rank holds of their gradients.
        failure: Why the gradients could not be collected, if so: raised once every rank knows.
        loss: The loss of the step on this rank.

    Attributes:
        plan: The same.
        held: The same.
        loss: From a reduction on, the mean of the losses of all ranks that know one; for norms that are extrema, the
            largest.
    """

    def __init__(
        self, plan: Plan, owners: list[Tensor], held: Held, failure: BaseException | None, loss: Scalar | None
    ) -> None:
        self.plan = plan
        self.held = held
        self.loss = self._own_loss = loss
        self._owners = owners
        self._failure = failure
        self._flags = Flags()
        self._passed: list[tuple[Span, Flags]] = []

    # What comes out.

    def total_norm(self, measure: Measure, norm_type: float, *, in_units: bool) -> Scalar:
        """Return the p-norm of all elements on all ranks, each counted once: the same bits on every rank."""
        if not in_units or not is_power(norm_type):
            return self._total(measure, norm_type, 1.0)
        scale = unit(self._total(measure, math.copysign(math.inf, norm_type), 1.0))
        return scale * self._total(measure, norm_type, 1.0 / scale)

    def norms_each(self, measure_norms: MeasureEach, norm_type: float, device: torch.device) -> Known:
        """Return the norm of each parameter, of shape (1, P), on a device; `measure_norms` gives those of tensors."""
        count = len(self._owners)
        units = torch.ones(count, dtype=torch.float64, device=device)

        def fill(places: list[int], values: Tensor, order: float = norm_type) -> None:
            there, tensors = self.held.tensors(places)
            if order < 0.0:  # the norm of nothing is 0, but so is that of a zero
                there = [place for place, x in zip(there, tensors, strict=True) if x.numel()]
                tensors = [x for x in tensors if x.numel()]
            if not there:
                return
            own = measure_norms(tensors).to(device)
            if is_power(order):
                own = (own / units[there]) ** order
            values[0, there] = own if is_extremum(order) else own / self.held.copies(there, device)

        def whole(order: float) -> tuple[Tensor, Tensor]:
            values = torch.full((1, count), identity(order), dtype=torch.float64, device=device)
            return self._whole(values, torch.tensor, partial(fill, order=order), order)

        if is_power(norm_type) and abs(norm_type) > LARGEST_PLAIN_ORDER:
            extrema, _ = whole(math.copysign(math.inf, norm_type))
            units.copy_(as_float64(unit(extrema[0]), device))
        values, present = whole(norm_type)
        total = self._total_of_each(values[0] * units**norm_type, present, norm_type)
        norms = units * finish_each(values, norm_type)
        if norm_type < 0.0:  # that of no element is 0
            norms[:, [place for place in range(count) if self.plan.is_empty(place, self._owners[place])]] = 0.0
        return Known(norms, present, total)

    def unit_norms(
        self, measure_units: MeasureEach, units: Units, columns: list[Tensor], device: torch.device
    ) -> Known:
        """Return the norm of each unit of each gradient, and of the same of its parameter, of shape (2, U).

        Args:
            measure_units: Returns the partials of the units of some tensors.
            units: What these are.
            columns: Where the units of each parameter are among all.
            device: Where to return them.
        """
        order = units.order

        def fill(places: list[int], values: Tensor) -> None:
            there, gradients = self.held.tensors(places)
            weights = [local_of(self._owners[place]) for place in places]
            rows = (
                [self.held.rows(place, units) for place in there],
                [self.plan.rows(place, units) for place in places],
            )
            copies = self.held.copies(there, device), self.plan.copies(places, device)
            for row, which, tensors in ((0, there, gradients), (1, places, weights)):
                if tensors:
                    where = torch.cat([columns[place][held] for place, held in zip(which, rows[row], strict=True)])
                    own = measure_units(tensors).to(device)
                    if not is_extremum(order):
                        counts = [units.count(tuple(x.shape)) for x in tensors]
                        own = own / copies[row].repeat_interleave(torch.tensor(counts, device=device))
                    values[row, where] = own

        values = torch.zeros((2, sum(map(len, columns))), dtype=torch.float64, device=device)
        values, present = self._whole(values, lambda places: torch.cat([columns[i] for i in places]), fill, order)
        together = [values[0, own] for own in columns]
        if is_extremum(order):
            each = [own.amax() if len(own) else own.sum() for own in together]
        else:
            each = [own.sum() for own in together]
        total = self._total_of_each(torch.stack(each) if each else values[0], present, order)
        return Known(finish_each(values, order), present, total)

    @property
    def any_found(self) -> bool:
        """Whether any rank has any element of a gradient; taken for granted where only a device knows."""
        return isinstance(self._flags.elements, Tensor) or self._flags.elements > 0.0

    def describe(self, own: str) -> str:
        """Return what all ranks have to say about numbers that are not finite, where this rank says `own`."""
        spans = [span for span, flags in self._passed if float(flags.nonfinite) and not float(flags.failed)]
        return _told(spans, own)

    # How the norm of everything is found.

    def _total(self, measure: Measure, norm_type: float, factor: Scalar) -> Scalar:
        def measured() -> Partials:
            found: Partials = {}
            for chain, copies, places in self.held.scopes():
                tensors = None if self.held.is_everything(places) else self.held.tensors(places)[1]
                value = self._try(partial(measure, tensors, norm_type, factor), identity(norm_type))
                found.setdefault(chain, []).append(value if copies == 1 or is_extremum(norm_type) else value / copies)
            return found

        self._start(norm_type)
        self.held.sum_partials(self.plan.mesh_order)
        return self._through(self.plan.order, measured, norm_type)

    def _total_of_each(self, partials: Tensor, present: Tensor, norm_type: float) -> Scalar:
        """Return the norm of everything from the partials of each parameter, known as a whole."""

        def measured() -> Partials:
            found: Partials = {}
            for chain, seen, places in self.plan.known_scopes:
                found.setdefault(chain, []).append(together(partials[places][present[places]], seen))
            return found

        def together(own: Tensor, seen: int) -> Scalar:
            if len(own) == 0:
                return identity(norm_type)
            value = own.sum() / seen
            if is_extremum(norm_type):
                value = own.amax() if norm_type > 0.0 else own.amin()
            return value.item() if value.device == CPU else value

        return self._through(self.plan.known_order, measured, norm_type)

    def _through(self, order: list[Span], measured: Callable[[], Partials], norm_type: float) -> Scalar:
        """Send partials through the chains that are ahead of them, and return the norm of all.

        Args:
            order: The spans, in order.
            measured: Returns what this rank has to add; once more if that changes on the way.
            norm_type: The order of the norm.
        """
        own = measured()
        arrived: Partials = {}
        # Noted before the first span, so that all along the way hear of it.
        self._flags = self._flags.noting([value for values in own.values() for value in values], norm_type)

        def renew() -> None:
            nonlocal own
            own = measured()

        for span in order:
            tails = self.plan.tails[span]

            def step(span: Span = span, tails: list[Chain] = tails) -> list[Scalar]:
                ways = [(span, *tail) for tail in tails]
                sent = [_combined([*arrived.get(way, ()), *own.get(way, ())], norm_type) for way in ways]
                summed, self._flags = exchange(span, sent, self._flags_for(span), norm_type)
                return summed

            for tail, value in zip(tails, self._until_agreed(span, step, renew), strict=True):
                arrived.setdefault(tail, []).append(value)
        norm = finish(_combined([*own.get((), ()), *arrived.get((), ())], norm_type), norm_type)
        self._raise_failure()
        self.loss = self._flags.common_loss(norm_type, own=self._own_loss)
        return self._flags.judged(norm, norm_type)

    # How those of single parameters are.

    def _whole(
        self,
        values: Tensor,
        where: Callable[[list[int]], Tensor],
        fill: Callable[[list[int], Tensor], None],
        norm_type: float,
    ) -> tuple[Tensor, Tensor]:
        """Return partials of each parameter as a whole, and which have a gradient on any rank.

        Args:
            values: Rows of partials of nothing.
            where: Returns the columns of some parameters.
            fill: Measures what this rank has of some parameters, and writes it where it belongs.
            norm_type: The order of the norms.
        """
        present = torch.zeros(len(self._owners), dtype=torch.float64, device=values.device)
        present[self.held.places] = 1.0
        self._start(norm_type)
        self._try(lambda: fill(self.plan.alone, values), None)
        for span in self.plan.whole_order:
            members = self.plan.members[span]
            columns = where(members)

            def step(span: Span = span, columns: Tensor = columns) -> tuple[Tensor, Tensor]:
                self._try(lambda: fill(self.plan.heads[span], values), None)
                own = values[:, columns].reshape(-1), present[self.plan.members[span]]
                *arrived, self._flags = exchange_each(span, *own, self._flags_for(span), norm_type)
                return arrived[0], arrived[1]

            partials, there = self._until_agreed(span, step)
            values[:, columns], present[members] = partials.view(len(values), -1), there
        return values, present > 0.0

    # What goes along.

    def _start(self, norm_type: float) -> None:
        self._flags = Flags.of(self._own_loss, norm_type, has_elements=self.held.has_elements)
        self._passed = []

    def _flags_for(self, span: Span) -> Flags:
        if self._failure is not None:
            return self._flags._replace(failed=1.0, nonfinite=NAN, unexpected=0.0)
        if not self.plan.partial:
            return self._flags
        return self._flags._replace(unexpected=float(self.held.is_unexpected(self._meshes(span))))

    def _until_agreed(self, span: Span, step: Callable[[], T], renew: Callable[[], None] = lambda: None) -> T:
        """Take a step; once more, if a rank of the span has met a gradient that is partial and was not known to be."""
        meshes = self._meshes(span)
        self.held.sum_partials(meshes)
        arrived = step()
        if self.plan.partial and float(self._flags.unexpected):
            self.held.agree(meshes)
            self.held.sum_partials(meshes)
            if self.held.is_unexpected(meshes):  # still
                self._failure = self._failure or ValueError("a gradient is placed otherwise than on other ranks.")
            renew()
            arrived = step()
        self._passed.append((span, self._flags))
        return arrived

    def _meshes(self, span: Span) -> list[Span]:
        """Return the meshes whose gradients are first reduced over a span."""
        return self.plan.mesh_order if span is self.plan.group else [span]

    def _try(self, measured: Callable[[], T], otherwise: T) -> T:
        """Measure, or remember why that failed: the others are waiting."""
        if self._failure is None:
            try:
                return measured()
            except BaseException as error:  # noqa: BLE001 -- raised once all know, whatever it is
                self._failure = error
        return otherwise

    def _raise_failure(self) -> None:
        """Raise on every rank what any rank has failed with; of a device, nobody waits for the answer."""
        spans = [span for span, flags in self._passed if not isinstance(flags.failed, Tensor) and flags.failed]
        if not spans and self._failure is None:
            return
        said = _told(spans, "" if self._failure is None else f"{type(self._failure).__name__}: {self._failure}")
        raise self._failure or RemoteError(said)


def _told(spans: list[Span], own: str) -> str:
    """Return what ranks say, if this one says `own`; all ranks of these spans have to ask."""
    said = {dist.get_rank(): own} if own else {}
    for span in spans:
        for theirs in span.gather(said):
            said |= theirs
    return " ".join(f"Rank {rank}: {text}" for rank, text in sorted(said.items()))


def _combined(values: list[Scalar], norm_type: float) -> Scalar:
    return combine(values, norm_type) if values else identity(norm_type)
