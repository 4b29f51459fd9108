"""Which clippers hear of a step: found by its parameters, so that none of very many asks, or hears of, all others."""

import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

from torch import Tensor
from torch.optim import Optimizer

from gradclip.clipper.selection import parameters_in, size_of

if TYPE_CHECKING:
    from gradclip.clipper.attaching import Attaching

Unclipped: TypeAlias = Callable[[], list[tuple[str, Tensor]]]
"""Returns the parameters with a gradient that a step updates and nobody clips, with their names."""


References: TypeAlias = "tuple[weakref.ref[Attaching], ...]"


class Hearers(NamedTuple):
    """Who hears of the steps of an optimizer, as long as neither that nor any clipper has got more parameters."""

    version: int
    size: int
    references: References


@final
class Watchers:
    """The clippers that hear of steps, for as long as they live."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # whoever is gone may be so while another is added
        self._about: dict[int, References] = {}  # by the identity of a parameter
        self._version = 0
        self._hearers: weakref.WeakKeyDictionary[Optimizer, Hearers] = weakref.WeakKeyDictionary()

    def add(self, clipper: "Attaching", parameters: Iterable[Tensor]) -> None:
        """Have a clipper hear of the steps of parameters, which it keeps alive."""
        places = tuple(map(id, parameters))
        own = weakref.ref(clipper, partial(self._forget, places))
        with self._lock:
            for place in places:
                self._about[place] = (*self._about.get(place, ()), own)
            self._version += 1  # once they are found, so that nobody keeps who heard before as who hears after

    def _forget(self, places: tuple[int, ...], gone: "weakref.ref[Attaching]") -> None:
        with self._lock:
            for place in places:
                left = tuple(known for known in self._about.get(place, ()) if known is not gone)
                if left:
                    self._about[place] = left
                else:
                    self._about.pop(place, None)

    def of(self, parameter: Tensor) -> "list[Attaching]":
        """Return those that cover a parameter."""
        return [clipper for clipper in _alive(self._about.get(id(parameter), ())) if clipper._trust.covers(parameter)]

    def of_step(self, optimizer: Optimizer) -> "list[Attaching]":
        """Return those of any parameter of an optimizer, and those that were made from it."""
        known, version, size = self._hearers.get(optimizer), self._version, size_of(optimizer)
        if known is None or known.version != version or known.size != size:
            before = () if known is None else known.references
            follow = [x for x in before if (own := x()) is not None and own._source and own._source.is_of(optimizer)]
            references = dict.fromkeys((*self._references(parameters_in(optimizer)), *follow))
            known = self._hearers[optimizer] = Hearers(version, size, tuple(references))
        return _alive(known.references)

    def of_any(self, parameters: Iterable[Tensor]) -> "list[Attaching]":
        """Return those of any of some parameters, each once, those of the first one first."""
        return _alive(self._references(parameters))

    def _references(self, parameters: Iterable[Tensor]) -> References:
        return tuple({reference: None for p in parameters for reference in self._about.get(id(p), ())})  # in order


def _alive(references: References) -> "list[Attaching]":
    return [clipper for reference in references if (clipper := reference()) is not None]


WATCHERS = Watchers()
"""All that there are."""
