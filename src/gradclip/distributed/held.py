"""What this rank holds of the gradients of one clip, and what it makes of those that are yet to be summed."""

from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from gradclip.distributed.dtensor import copies_of, is_partial, local_rows
from gradclip.distributed.partial import Placements, agree, reduced
from gradclip.distributed.plan import Plan, Scope, scopes_of
from gradclip.distributed.span import Span
from gradclip.units import Units


@final
class Held:
    """Local parts of gradients.

    Args:
        plan: How their norms are reduced.
        owners: The parameters.
        places: Which of them have a gradient here.
        found: The local part of each of these gradients.
        placed: The specs of those gradients that are placed otherwise than their parameters, by their places.

    Attributes:
        places: The same.
    """

    def __init__(
        self, plan: Plan, owners: list[Tensor], places: list[int], found: list[Tensor], placed: dict[int, Any]
    ) -> None:
        self.places = places
        self._plan = plan
        self._owners = owners
        self._local = found
        self._placed = placed
        self._partial: dict[int, Placements] = {i: tuple(x.placements) for i, x in placed.items() if is_partial(x)}
        self._summed: dict[Span, dict[int, Tensor]] = {}
        self._part_of_a_sum = next(iter(self._partial), None)

    @cached_property
    def _found(self) -> dict[int, Tensor]:
        """The local parts by their places."""
        return dict(zip(self.places, self._local, strict=True))

    @property
    def has_elements(self) -> bool:
        """Whether there is any element here."""
        return any(x.numel() for x in self._local)

    def is_everything(self, places: list[int]) -> bool:
        """Whether some parameters are all there are, with their gradients as they were found."""
        return len(places) == len(self._owners) and not self._summed

    def tensors(self, places: list[int]) -> tuple[list[int], list[Tensor]]:
        """Return which parameters have a gradient here, and these, those that were partial as they are once summed."""
        known = self._found
        for summed in self._summed.values():
            known = known | summed
        there = [place for place in places if place in known]
        return there, [known[place] for place in there]

    def scopes(self) -> list[Scope]:
        """Return the parameters that are measured together."""
        if not self._placed and not self._plan.agreed:
            return self._plan.scopes
        return scopes_of(self._plan.shares, [self._copies(place) for place in range(len(self._owners))])

    def copies(self, places: list[int], device: torch.device) -> Tensor:
        """Return how many ranks hold each element of parameters, once sums that are due are made: float64."""
        counts = [float(self._copies(place)) for place in places]
        return torch.tensor(counts, dtype=torch.float64, device=device)

    def rows(self, place: int, units: Units) -> Tensor | slice:
        """Return which units of a parameter this rank has the gradient of."""
        spec = self._other_spec(place)
        return self._plan.rows(place, units) if spec is None else local_rows(spec, units)

    def _copies(self, place: int) -> int:
        spec = self._other_spec(place)
        return self._plan.shares[place].copies if spec is None else copies_of(spec)

    def _other_spec(self, place: int) -> Any:
        """Return how a gradient is placed, if otherwise than its parameter."""
        return self._plan.agreed.get(place) or self._placed.get(place)

    # Gradients that are partial.

    def partial_place(self) -> int | None:
        """Return the place of a parameter whose gradient stands for a part of a sum; None if there is none."""
        return self._part_of_a_sum

    def sum_partials(self, meshes: list[Span]) -> None:
        """Sum those gradients that all ranks of these meshes know to be partial."""
        for mesh in meshes:
            if self._plan.agreed and mesh in self._plan.meshes and mesh not in self._summed:
                there = {i: x for i, x in self._found.items() if self._partial.get(i) == self._agreed(i)}
                self._summed[mesh] = reduced(self._plan, mesh, there, self._owners)
                self._part_of_a_sum = next(iter(self._summed[mesh]), self._part_of_a_sum)

    def is_unexpected(self, meshes: list[Span]) -> bool:
        """Whether a gradient is partial and was not known to be, or the other way round."""
        places = [i for mesh in meshes for i in self._plan.meshes.get(mesh, ()) if i in self._found]
        return any(self._partial.get(i) != self._agreed(i) for i in places)

    def agree(self, meshes: list[Span]) -> None:
        """Agree with all ranks of these meshes on which gradients are partial."""
        for mesh in meshes:
            agree(self._plan, mesh, self._partial)
            self._summed.pop(mesh, None)

    def forget_sums(self) -> None:
        """Forget sums of gradients that were written since."""
        self._summed.clear()

    def _agreed(self, place: int) -> Placements | None:
        spec = self._plan.agreed.get(place)
        return None if spec is None else spec.placements
