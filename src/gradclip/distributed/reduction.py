"""From what this rank measures to what all ranks know: one collective for each span of ranks.

With the numbers travel flags, so that whatever goes wrong on one rank is known to all that wait for it, and all raise.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from gradclip.distributed.dtensor import copies_of, is_partial, local_of, local_rows
from gradclip.distributed.flags import Flags, exchange, exchange_each
from gradclip.distributed.partial import Placements, agree, reduced
from gradclip.distributed.plan import Chain, Plan, Scope, scopes_of, size_of
from gradclip.distributed.span import Span
from gradclip.exceptions import RemoteError
from gradclip.norms import (
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
from gradclip.parameters import units_of

Measure: TypeAlias = Callable[[list[Tensor] | None, float, Scalar], Scalar]
"""(local tensors, None for all, order of the norm, factor) -> the partial of all their elements times the factor."""

MeasureEach: TypeAlias = Callable[[list[Tensor]], Tensor]
"""(local tensors) -> one number, or one for each unit, of each in order: float64."""

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
        found: The local parts of their gradients, by the place of the parameter.
        placed: The specs of those gradients that are placed otherwise than their parameters.
        failure: Why the gradients could not be collected, if so: raised once every rank knows.
        loss: The loss of the step on this rank.

    Attributes:
        plan: The same.
        found: The same.
        loss: From a reduction on, the mean of the losses of all ranks that know one; for norms that are extrema, the
            largest.
    """

    def __init__(
        self,
        plan: Plan,
        owners: list[Tensor],
        found: dict[int, Tensor],
        placed: dict[int, Any],
        failure: Exception | None,
        loss: Scalar | None,
    ) -> None:
        self.plan = plan
        self.found = found
        self.loss = self._own_loss = loss
        self._owners = owners
        self._failure = failure
        self._placed = placed
        self._partial: dict[int, Placements] = {i: tuple(x.placements) for i, x in placed.items() if is_partial(x)}
        self._summed: dict[Span, dict[int, Tensor]] = {}
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
        columns = [torch.tensor([i]) for i in range(len(self._owners))]
        units = torch.ones(len(columns), dtype=torch.float64, device=device)

        def fill(places: list[int], values: Tensor, order: float = norm_type) -> None:
            there, tensors = self._tensors(places)
            if order < 0.0:  # the norm of nothing is 0, but so is that of a zero
                there = [place for place, x in zip(there, tensors, strict=True) if x.numel()]
                tensors = [x for x in tensors if x.numel()]
            if not there:
                return
            own = measure_norms(tensors).to(device)
            if is_power(order):
                own = (own / units[there]) ** order
            values[0, there] = own if is_extremum(order) else own / self._copies(there, device)

        if is_power(norm_type) and abs(norm_type) > LARGEST_PLAIN_ORDER:
            order = math.copysign(math.inf, norm_type)
            extrema, _ = self._whole(1, columns, partial(fill, order=order), order, device)
            units.copy_(as_float64(unit(extrema[0]), device))
        values, present = self._whole(1, columns, fill, norm_type, device)
        total = self._total_of_each(values[0] * units**norm_type, present, norm_type)
        return Known(units * finish_each(values, norm_type), present, total)

    def unit_norms(self, measure_units: MeasureEach, columns: list[Tensor], device: torch.device) -> Known:
        """Return the 2-norm of each unit of each gradient, and of the same of its parameter, of shape (2, U).

        Args:
            measure_units: Returns the sums of the squares of the units of some tensors.
            columns: Where the units of each parameter are among all.
            device: Where to return them.
        """

        def fill(places: list[int], values: Tensor) -> None:
            there, gradients = self._tensors(places)
            weights = [local_of(self._owners[place]) for place in places]
            own = [(place, self._spec(place)) for place in there], [(place, self.plan.specs[place]) for place in places]
            for row, which, tensors in ((0, own[0], gradients), (1, own[1], weights)):
                sums = measure_units(tensors).to(device).split([units_of(x) for x in tensors]) if tensors else ()
                for (place, spec), x in zip(which, sums, strict=True):
                    values[row, columns[place][_rows(spec)]] = x if spec is None else x / copies_of(spec)

        values, present = self._whole(2, columns, fill, 2.0, device)
        squares = torch.stack([values[0, own].sum() for own in columns]) if columns else values[0]
        total = self._total_of_each(squares, present, 2.0)
        return Known(values.sqrt(), present, total)

    def rows(self, place: int) -> Tensor | slice:
        """Return which units of a parameter this rank has the gradient of."""
        return _rows(self._spec(place))

    def describe(self, own: str) -> str:
        """Return what all ranks have to say about numbers that are not finite, where this rank says `own`."""
        said = {dist.get_rank(): own} if own else {}
        for span, flags in self._passed:
            if float(flags.nonfinite):
                for theirs in span.gather(said):
                    said |= theirs
        return " ".join(f"Rank {rank}: {text}" for rank, text in sorted(said.items()))

    @property
    def any_found(self) -> bool:
        """Whether any rank has any element of a gradient; taken for granted where only a device knows."""
        return isinstance(self._flags.elements, Tensor) or self._flags.elements > 0.0

    def partial_place(self) -> int | None:
        """Return the place of a parameter whose gradient stands for a part of a sum; None if there is none."""
        return next(iter({**self._partial, **self.plan.agreed}), None)

    def changed(self) -> None:
        """Forget sums of gradients that were written since."""
        self._summed.clear()

    # How.

    def _total(self, measure: Measure, norm_type: float, factor: Scalar) -> Scalar:
        def measured(scope: Scope) -> Scalar:
            is_all = len(scope.places) == len(self._owners) and not self._summed
            tensors = None if is_all else self._tensors(scope.places)[1]
            value = self._try(lambda: measure(tensors, norm_type, factor), identity(norm_type))
            return value if is_extremum(norm_type) or scope.copies == 1 else value / scope.copies

        def contributions(span: Span | None) -> list[tuple[Chain, Scalar]]:
            return [
                (scope.chain, measured(scope))
                for scope in self._scopes()
                if (scope.chain[0] if scope.chain else None) is span
            ]

        self._start(norm_type)
        return self._through(self.plan.order, contributions, norm_type)

    def _through(
        self,
        order: list[Span],
        contributions: Callable[[Span | None], list[tuple[Chain, Scalar]]],
        norm_type: float,
    ) -> Scalar:
        """Send partials through the chains that are ahead of them, and return the norm of all.

        Args:
            order: The spans, in order.
            contributions: Returns what this rank adds at a span, the first of a chain, or where there is no chain.
            norm_type: The order of the norm.
        """
        pending: dict[Chain, list[Scalar]] = {(): [value for _, value in contributions(None)]}
        self._flags = self._flags.noting(pending[()], norm_type)
        for span in order:
            tails = self.plan.tails[span]

            def step(span: Span = span, tails: list[Chain] = tails) -> list[Scalar]:
                ways = {tail: list(pending.get((span, *tail), [])) for tail in tails}
                for chain, value in contributions(span):
                    ways[chain[1:]].append(value)
                sent = [_combined(values, norm_type) for values in ways.values()]
                flags = self._flags.noting(sent, norm_type)
                flags = flags._replace(failed=self._failed(), unexpected=self._is_unexpected(span))
                arrived, self._flags = exchange(span, sent, flags, norm_type)
                return arrived

            for tail, value in zip(tails, self._until_agreed(span, step), strict=True):
                pending.setdefault(tail, []).append(value)
        norm = finish(_combined(pending[()], norm_type), norm_type)
        self._raise_failure()
        self.loss = None if self._own_loss is None else self._flags.common_loss(norm_type)
        return self._flags.judged(norm, norm_type)

    def _whole(
        self,
        count: int,
        columns: list[Tensor],
        fill: Callable[[list[int], Tensor], None],
        norm_type: float,
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """Return partials of each parameter as a whole, in so many rows, and which have a gradient anywhere.

        Args:
            count: How many rows.
            columns: The columns of each parameter.
            fill: Measures what this rank has of the parameters at some places, and writes it where it belongs.
            norm_type: The order of the norms.
            device: Where to return them.
        """
        shares = self.plan.shares
        width = sum(map(len, columns))
        values = torch.full((count, width), identity(norm_type), dtype=torch.float64, device=device)
        present = torch.tensor(
            [place in self.found for place in range(len(shares))], dtype=torch.float64, device=device
        )
        self._start(norm_type)
        self._try(lambda: fill([i for i, share in enumerate(shares) if not share.whole], values), None)
        for span in self.plan.whole_order:
            members = self.plan.members[span]
            where = torch.cat([columns[place] for place in members])
            heads = [place for place in members if shares[place].whole[0] is span]

            def step(span: Span = span, where: Tensor = where, heads: list[int] = heads) -> tuple[Tensor, Tensor]:
                self._try(lambda: fill(heads, values), None)
                flags = self._flags._replace(failed=self._failed(), unexpected=self._is_unexpected(span))
                own = values[:, where].reshape(-1), present[self.plan.members[span]]
                *arrived, self._flags = exchange_each(span, *own, flags, norm_type)
                return arrived[0], arrived[1]

            partials, there = self._until_agreed(span, step)
            values[:, where], present[members] = partials.view(count, -1), there
        return values, present > 0.0

    def _total_of_each(self, partials: Tensor, present: Tensor, norm_type: float) -> Scalar:
        """Return the norm of everything from the partials of each parameter."""
        group = self.plan.group
        together: dict[tuple[Chain, int], list[int]] = {}
        for place, share in enumerate(self.plan.shares):
            if share.counted:
                tail = share.chain[len(share.whole) :] if group is None else (group,)
                seen = 1 if group is None else size_of(share.whole) * share.replicas
                together.setdefault((tail, seen), []).append(place)

        def contributions(span: Span | None) -> list[tuple[Chain, Scalar]]:
            found: list[tuple[Chain, Scalar]] = []
            for (tail, seen), places in together.items():
                if (tail[0] if tail else None) is span:
                    own = partials[places][present[places]]
                    value = _combined(list(own.unbind()), norm_type) / (1 if is_extremum(norm_type) else seen)
                    found.append((tail, value.item() if isinstance(value, Tensor) and not value.is_cuda else value))
            return found

        ahead = {span for tail, _ in together for span in tail} | ({group} - {None})
        return self._through([span for span in self.plan.order if span in ahead], contributions, norm_type)

    def _start(self, norm_type: float) -> None:
        elements = float(any(x.numel() for x in self.found.values()))
        self._flags = Flags.of(elements, self._own_loss, norm_type)
        self._passed = []

    def _try(self, measured: Callable[[], T], otherwise: T) -> T:
        """Measure, or remember why that failed: the others are waiting."""
        if self._failure is None:
            try:
                return measured()
            except RuntimeError as error:
                self._failure = error
        return otherwise

    def _failed(self) -> Scalar:
        return self._flags.failed if self._failure is None else 1.0

    def _raise_failure(self) -> None:
        """Raise on every rank what any rank has failed with."""
        said: dict[int, str] = {}
        if self._failure is not None:
            said[dist.get_rank()] = f"{type(self._failure).__name__}: {self._failure}"
        failed = False
        for span, flags in self._passed:
            if not isinstance(flags.failed, Tensor) and flags.failed:  # of a device, nobody waits for the answer
                failed = True
                for theirs in span.gather(said):
                    said |= theirs
        if self._failure is not None:
            raise self._failure
        if failed:
            raise RemoteError(" ".join(f"On rank {rank}: {text}" for rank, text in sorted(said.items())))

    # Gradients that are partial.

    def _until_agreed(self, span: Span, step: Callable[[], T]) -> T:
        """Take a step; once more, if a rank of the span has met a gradient that is partial and was not known to be."""
        for mesh in self._meshes(span):
            self._sum(mesh)
        arrived = step()
        if self.plan.partial and float(self._flags.unexpected):
            for mesh in self._meshes(span):
                agree(self.plan, mesh, self._partial)
                self._summed.pop(mesh, None)
                self._sum(mesh)
            arrived = step()
        self._passed.append((span, self._flags))
        return arrived

    def _meshes(self, span: Span) -> list[Span]:
        return sorted(self.plan.meshes, key=lambda x: x.ranks) if span is self.plan.group else [span]

    def _sum(self, mesh: Span) -> None:
        if self.plan.agreed and mesh in self.plan.meshes and mesh not in self._summed:
            there = {i: x for i, x in self.found.items() if self._partial.get(i) == self._agreed(i)}
            self._summed[mesh] = reduced(self.plan, mesh, there, self._owners)

    def _agreed(self, place: int) -> Placements | None:
        spec = self.plan.agreed.get(place)
        return None if spec is None else spec.placements

    def _is_unexpected(self, span: Span) -> float:
        if not self.plan.partial or self._failure is not None:
            return 0.0
        places = [i for mesh in self._meshes(span) for i in self.plan.meshes.get(mesh, ()) if i in self.found]
        return float(any(self._partial.get(i) != self._agreed(i) for i in places))

    # What this rank has.

    def _tensors(self, places: list[int]) -> tuple[list[int], list[Tensor]]:
        """Return which parameters have a gradient here, and these, those that were partial as they are once summed."""
        if not self._summed:
            there = [place for place in places if place in self.found]
            return there, [self.found[place] for place in there]
        known = self.found | {place: x for summed in self._summed.values() for place, x in summed.items()}
        there = [place for place in places if place in known]
        return there, [known[place] for place in there]

    def _spec(self, place: int) -> Any:
        return self.plan.agreed.get(place) or self._placed.get(place) or self.plan.specs[place]

    def _copies(self, places: list[int], device: torch.device) -> Tensor:
        """Return how many ranks hold each element, once sums that are due are made: float64."""
        specs = [self._spec(place) for place in places]
        counts = [1 if spec is None else copies_of(spec) for spec in specs]
        return torch.tensor(counts, dtype=torch.float64, device=device)

    def _scopes(self) -> list[Scope]:
        if not self._placed and not self.plan.agreed:
            return self.plan.scopes
        return scopes_of(self.plan.shares, [int(x) for x in self._copies([*range(len(self._owners))], CPU)])


def _combined(values: list[Scalar], norm_type: float) -> Scalar:
    return combine(values, norm_type) if values else identity(norm_type)


def _rows(spec: Any) -> Tensor | slice:
    return slice(None) if spec is None or len(spec.shape) <= 1 else local_rows(spec)
