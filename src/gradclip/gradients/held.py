"""What this rank holds of the gradients of one clip, and what it makes of those that are yet to be summed."""

from collections.abc import Collection
from functools import cached_property
from typing import Any, final

from torch import Tensor

from gradclip.devices import first_with_numbers
from gradclip.distributed.agreement import Agreement, Placements, agreement_of_calls
from gradclip.distributed.dtensor import copies_of, is_unsummed, local_of, local_rows
from gradclip.distributed.layout import RankLayout, Scope, scopes_of
from gradclip.distributed.span import Span
from gradclip.distributed.unsummed import summed
from gradclip.numbers import CPU, Scalar, as_float64, home, is_known
from gradclip.ops.backend import Batch
from gradclip.ops.registry import open_
from gradclip.units import Units


@final
class Held:
    """Local parts of gradients.

    Args:
        layout: Who holds what.
        owners: The parameters.
        places: Which of them have a gradient here.
        batch: The local part of each of these gradients.
        placed: The specs of those gradients that are placed otherwise than their parameters, by their places.
        agreement: What the ranks know of unsummed gradients; by default, what they agreed on in earlier calls.

    Attributes:
        unsummed_place: The place of a parameter whose gradient stands for a part of a sum; None if there is none.
    """

    def __init__(
        self,
        layout: RankLayout,
        owners: list[Tensor],
        places: list[int],
        batch: Batch,
        placed: dict[int, Any],
        agreement: Agreement | None,
    ) -> None:
        self.places = places
        self.batch = batch
        self.layout = layout
        self._owners = owners
        self._placed = placed
        self._agreement = agreement or agreement_of_calls(layout)
        self._known = self._agreement.known(layout)
        self._unsummed: dict[int, Placements] = {i: tuple(x.placements) for i, x in placed.items() if is_unsummed(x)}
        self._summed: dict[Span, dict[int, Tensor]] = {}
        self.unsummed_place = next(iter(self._unsummed), None)
        self._home = home(local_of(first_with_numbers(owners)).device) if owners else CPU
        if not owners and layout.group is not None:
            self._home = layout.group.serves(CPU)

    def at_home(self, number: Scalar) -> Scalar:
        """Return a number where those of this rank are, measured or not: all ranks send theirs from alike devices."""
        return number if self._home == CPU or not is_known(number) else as_float64(number, self._home)

    @cached_property
    def _found(self) -> dict[int, Tensor]:
        """The local parts by their places."""
        return dict(zip(self.places, self.batch.tensors, strict=True))

    @property
    def has_elements(self) -> bool:
        """Whether there is any element here."""
        return any(x.numel() for x in self.batch.tensors)

    def open(self, places: list[int]) -> tuple[list[int], Batch]:
        """Return which parameters have a gradient here, and these, those that were unsummed as they are once summed."""
        if len(places) == len(self._owners) and not self._summed:
            return self.places, self.batch  # measured already perhaps
        known = self._found
        for of_mesh in self._summed.values():
            known = known | of_mesh
        there = [place for place in places if place in known]
        return there, open_([known[place] for place in there])

    def scopes(self) -> list[Scope]:
        """Return the parameters that are measured together."""
        if not self._placed and not self._known:
            return self.layout.scopes
        return scopes_of(self.layout.shares, self.copies(list(range(len(self._owners)))))

    def copies(self, places: list[int]) -> list[int]:
        """Return how many ranks hold each element of parameters, once sums that are due are made."""
        found = [(place, self._other_spec(place)) for place in places]
        return [self.layout.shares[place].copies if spec is None else copies_of(spec) for place, spec in found]

    def rows(self, place: int, units: Units) -> Tensor | slice:
        """Return which units of a parameter this rank has the gradient of."""
        spec = self._other_spec(place)
        return self.layout.rows(place, units) if spec is None else local_rows(spec, units)

    def _other_spec(self, place: int) -> Any:
        """Return how a gradient is placed, if otherwise than its parameter."""
        return self._known.get(place) or self._placed.get(place)

    # Gradients that are unsummed.

    def sum_up(self, meshes: Collection[Span]) -> None:
        """Sum those gradients that all ranks of these meshes know to be unsummed."""
        for mesh in meshes:
            if self._known and mesh in self.layout.meshes and mesh not in self._summed:
                due = {i: self._known[i] for i in self.layout.meshes[mesh] if i in self._known}
                there = {i: x for i, x in self._found.items() if self._unsummed.get(i) == self._agreed(i)}
                self._summed[mesh] = summed(mesh, due, there, self._owners)
                self.unsummed_place = next(iter(self._summed[mesh]), self.unsummed_place)

    def is_unexpected(self, meshes: Collection[Span]) -> bool:
        """Whether a gradient is unsummed and was not known to be, or the other way round."""
        places = [i for mesh in meshes for i in self.layout.meshes.get(mesh, ()) if i in self._found]
        return any(self._unsummed.get(i) != self._agreed(i) for i in places)

    def has_all(self, meshes: Collection[Span]) -> bool:
        """Whether this rank has each gradient of these meshes that any of their ranks can have."""
        places = [i for mesh in meshes for i in self.layout.meshes.get(mesh, ())]
        return all(i in self._found or not self._owners[i].requires_grad for i in places)

    def agree(self, meshes: Collection[Span]) -> None:
        """Agree with all ranks of these meshes on which gradients are unsummed."""
        for mesh in meshes:
            self._agreement.renew(self.layout, mesh, self._unsummed)
            self._summed.pop(mesh, None)
        self._known = self._agreement.known(self.layout)

    def forget_sums(self) -> None:
        """Forget sums of gradients that were written since."""
        self._summed.clear()

    def _agreed(self, place: int) -> Placements | None:
        spec = self._known.get(place)
        return None if spec is None else spec.placements
