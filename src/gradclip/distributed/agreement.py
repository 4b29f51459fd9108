"""What the ranks of a mesh agree on about gradients that are yet to be summed: which they are, and how placed.

Whoever meets one that was not agreed on says so in the collective that all take part in anyway; then all agree anew.
A `GradClipper` keeps its own agreement; calls of functions on the same layout share one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias, final
from weakref import WeakKeyDictionary

from gradclip.distributed.layout import RankLayout
from gradclip.distributed.span import Span

Placements: TypeAlias = tuple[Any, ...]


class Placed(NamedTuple):
    """The spec of a gradient: that of its parameter, with placements of its own."""

    mesh: Any
    shape: Any
    placements: Placements


@final
class Agreement:
    """How those gradients are placed that are known to be unsummed; copies know nothing yet."""

    def __init__(self) -> None:
        self._placed: dict[int, tuple[Any, Placed]] = {}  # by the place of the parameter, with its spec then

    def __reduce__(self) -> tuple[type["Agreement"], tuple[()]]:
        return Agreement, ()

    def known(self, layout: RankLayout) -> dict[int, Placed]:
        """Return them by the place of the parameter, in order; what was agreed on of another spec is none."""
        return {
            place: placed
            for place, (spec, placed) in sorted(self._placed.items())
            if place < len(layout.specs) and (spec is layout.specs[place] or spec == layout.specs[place])
        }

    def renew(self, layout: RankLayout, mesh: Span, met: Mapping[int, Placements]) -> None:
        """Agree with the ranks of a mesh, all of which have to call this, from what each has met."""
        places = layout.meshes[mesh]
        together: dict[int, Placements] = {}
        for theirs in mesh.gather({number: met[place] for number, place in enumerate(places) if place in met}):
            together |= theirs
        for number, place in enumerate(places):
            self._placed.pop(place, None)
            if number in together:
                spec = layout.specs[place]
                self._placed[place] = spec, Placed(spec.mesh, spec.shape, together[number])


_of_calls: "WeakKeyDictionary[RankLayout, Agreement]" = WeakKeyDictionary()


def agreement_of_calls(layout: RankLayout) -> Agreement:
    """Return the agreement that calls of functions on a layout share."""
    return _of_calls.setdefault(layout, Agreement())
