"""A norm on its way through the collectives of one clip: from what this rank measures to what all ranks know.

With the numbers travel flags, so that whatever goes wrong on one rank is known to all that wait for it, and all raise.
"""

from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias, TypeVar, final

import torch
from torch import Tensor

from gradclip.distributed.exchange import NAN, Flags, exchange, exchange_each, say_all
from gradclip.distributed.share import Chain
from gradclip.distributed.span import Span
from gradclip.exceptions import RemoteError
from gradclip.gradients.held import Held
from gradclip.numbers import Scalar, combine, finish, is_known, on_host
from gradclip.sending import indices

Partials: TypeAlias = dict[Chain, list[Scalar]]
"""Partials of norms, by the spans that are ahead of them."""

T = TypeVar("T")


@final
class Passage:
    """What this rank sends, and what arrives.

    Args:
        held: What this rank holds of the gradients.
        loss: The loss of the step on this rank.
        failure: Why the gradients could not be collected, if so: raised once every rank knows.

    Attributes:
        flags: What is known of all ranks that the last numbers came from.
        loss: From a total on, the mean of the losses of ranks that know one; the largest for norms that are extrema.
    """

    def __init__(self, held: Held, loss: Scalar | None, failure: BaseException | None) -> None:
        self.flags = Flags()
        self.loss = self._own_loss = loss
        self._held = held
        self._failure = failure
        self._passed: list[tuple[Span, Flags]] = []

    def forget_loss(self) -> None:
        """Forget the loss of this rank, before it is sent."""
        self.loss = self._own_loss = None

    def said(self, own: str) -> str:
        """Return what all ranks have to say about numbers that are not finite, where this rank says `own`."""
        return say_all(
            [span for span, flags in self._passed if on_host(flags.nonfinite) and not on_host(flags.failed)], own
        )

    def total(self, order_of_spans: Iterable[Span], measured: Callable[[], Partials], order: float) -> Scalar:
        """Send partials through the chains that are ahead of them, and return the norm of all.

        Args:
            order_of_spans: The spans, in order.
            measured: Returns what this rank has to add; once more if that changes on the way.
            order: The order of the norm.
        """
        own = measured()
        arrived: Partials = {}
        # Noted before the first span, so that all along the way hear of it.
        self.flags = self.flags.noting(_values_of(own), order)
        for span in order_of_spans:
            tails, before = self._held.layout.tails[span], self.flags
            for again in (False, True):
                ways = [(span, *tail) for tail in tails]
                sent = [self._held.at_home(combine([*arrived.get(way, ()), *own.get(way, ())], order)) for way in ways]
                summed, self.flags = exchange(span, sent, self._flags_for(span, before), order)
                if again or not self._agrees_anew(span):
                    break
                own = measured()
                before = before.noting(_values_of(own), order)
            self._passed.append((span, self.flags))
            for tail, value in zip(tails, summed, strict=True):
                arrived.setdefault(tail, []).append(value)
        norm = finish(combine([*own.get((), ()), *arrived.get((), ())], order), order)
        if self.flags.is_heard:
            self.raise_failure()
        self.loss = self.flags.common_loss(order)
        return self.flags.judged(norm, order)

    def whole(
        self,
        values: Tensor,
        where: Callable[[list[int]], Tensor],
        fill: Callable[[list[int], Tensor], None],
        order: float,
    ) -> tuple[Tensor, Tensor | None]:
        """Return partials of each parameter as a whole, and which have a gradient on any rank; None where all have.

        Args:
            values: Rows of partials of nothing.
            where: Returns the columns of some parameters, on the device.
            fill: Measures what this rank has of some parameters, and writes it where it belongs.
            order: The order of the norms.
        """
        count, own = len(self._held.layout.specs), self._held.places
        present = torch.zeros(count, dtype=torch.float64, device=values.device)
        present.index_fill_(0, indices(own, values.device), 1.0)
        self.start(order)
        self.attempt(lambda: fill(self._held.layout.alone, values), None)
        self.flags = self.flags.noting_each(values[0], order)
        for span, members in self._held.layout.members.items():
            columns, places = where(members), indices(members, values.device)
            self._held.sum_up(self._meshes(span))
            before = self.flags
            for again in (False, True):
                self.attempt(lambda span=span: fill(self._held.layout.heads[span], values), None)
                before = before.noting_each(values[0], order)
                sent = values[:, columns].reshape(-1), present[places]
                partials, there, self.flags = exchange_each(span, *sent, self._flags_for(span, before), order)
                if again or not self._agrees_anew(span):
                    break
            self._passed.append((span, self.flags))
            values[:, columns], present[places] = partials.view(len(values), -1), there
        return values, None if len(own) == count else present > 0.0

    # What goes along.

    def start(self, order: float) -> None:
        """Begin with a norm of an order, of which nothing is measured yet."""
        self.flags = Flags.of(self._own_loss, order, has_elements=self._held.has_elements)
        self._passed = []

    def _flags_for(self, span: Span, flags: Flags) -> Flags:
        """Return what goes along to a span, where so much is known."""
        if self._failure is not None:
            return flags._replace(failed=1.0, nonfinite=NAN, unexpected=0.0)
        if not self._held.layout.unsummed:
            return flags
        return flags._replace(unexpected=float(self._held.is_unexpected(self._meshes(span))))

    def _agrees_anew(self, span: Span) -> bool:
        """Agree on unsummed gradients if a rank of the span has met one that was not known to be, and sum them up."""
        said, meshes = self.flags.unexpected, self._meshes(span)
        if not self._held.layout.unsummed and not (span is self._held.layout.group and is_known(said)):
            return False
        if not is_known(said) and self._held.has_all(meshes):
            said = self._held.is_unexpected(meshes)  # as every rank has placed them alike, that has them
        if not on_host(said):
            return False
        self._held.agree(meshes)
        self._held.sum_up(meshes)
        if self._held.is_unexpected(meshes):  # still
            self._failure = self._failure or ValueError("a gradient is placed otherwise than on other ranks.")
        return True

    def _meshes(self, span: Span) -> Collection[Span]:
        """Return the meshes whose gradients are first reduced over a span."""
        return self._held.layout.meshes if span is self._held.layout.group else [span]

    def attempt(self, measured: Callable[[], T], otherwise: T) -> T:
        """Measure, or remember why that failed: the others are waiting."""
        if self._failure is None:
            try:
                return measured()
            except BaseException as error:  # noqa: BLE001 -- raised once all know, whatever it is
                self._failure = error
        return otherwise

    def raise_failure(self) -> None:
        """Raise on every rank what any rank has failed with; where a device alone knows on any, only its own.

        That is for the end of all that is measured then, as the others, who do not know, go on to it.
        """
        spans = [span for span, flags in self._passed if flags.is_heard and flags.failed]
        if spans or self._failure is not None:
            said = say_all(spans, "" if self._failure is None else f"{type(self._failure).__name__}: {self._failure}")
            failure, self._failure = self._failure, None
            try:
                raise failure or RemoteError(said)
            finally:
                del failure  # which holds this frame, and so the gradients


def _values_of(partials: Partials) -> list[Scalar]:
    return [value for values in partials.values() for value in values]
