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
    """How those gradients are placed that are known to be unsummed, by the place of the parameter."""

    def __init__(self) -> None:
        self.placed: dict[int, Placed] = {}

    def on(self, layout: RankLayout, mesh: Span) -> dict[int, Placed]:
        """Return those of a mesh, in order; what was agreed on of another mesh is none."""
        known = {place: self.placed[place] for place in layout.meshes.get(mesh, ()) if place in self.placed}
        return {place: placed for place, placed in known.items() if placed.mesh is layout.specs[place].mesh}

    def renew(self, layout: RankLayout, mesh: Span, met: Mapping[int, Placements]) -> None:
        """Agree with the ranks of a mesh, all of which have to call this, from what each has met."""
        places = layout.meshes[mesh]
        together: dict[int, Placements] = {}
        for theirs in mesh.gather({number: met[place] for number, place in enumerate(places) if place in met}):
            together |= theirs
        for number, place in enumerate(places):
            self.placed.pop(place, None)
            if number in together:
                spec = layout.specs[place]
                self.placed[place] = Placed(spec.mesh, spec.shape, together[number])


_of_calls: "WeakKeyDictionary[RankLayout, Agreement]" = WeakKeyDictionary()


def agreement_of_calls(layout: RankLayout) -> Agreement:
    """Return the agreement that calls of functions on a layout share."""
    return _of_calls.setdefault(layout, Agreement())
