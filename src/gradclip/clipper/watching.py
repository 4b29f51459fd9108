"""Who wants to know of a step: found by its parameters, so that none of very many asks, or hears of, all others."""

import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias, final

from torch import Tensor
from torch.optim import Optimizer

from gradclip.clipper.selection import parameters_in, size_of

Unclipped: TypeAlias = Callable[[], list[tuple[str, Tensor]]]
"""Returns the parameters with a gradient that a step updates and nobody clips, with their names."""


class Watcher(Protocol):
    """What wants to know of the steps of its parameters."""

    def _step_begins(self, optimizer: Optimizer) -> None:
        """Hear of a step before it happens, and before the optimizer's own hooks."""

    def _step_ends(self, optimizer: Optimizer, unclipped: Unclipped) -> None:
        """Hear of a step after it happened, and after the optimizer's own hooks."""

    def _covers(self, parameter: Tensor) -> bool:
        """Whether it would notice that steps of this parameter are not clipped."""
        ...

    def _clips(self, parameter: Tensor) -> bool:
        """Whether it clips, or is attached and about to, with this parameter among what it works on."""
        ...


References: TypeAlias = tuple[weakref.ref[Watcher], ...]


class Hearers(NamedTuple):
    """Who hears of the steps of an optimizer, as long as neither that nor any watcher has got more parameters."""

    version: int
    size: int
    references: References


@final
class Watchers:
    """All that want to know of steps, for as long as they live."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # whoever is gone may be so while another is added
        self._about: dict[int, References] = {}  # by the identity of a parameter
        self._version = 0
        self._hearers: weakref.WeakKeyDictionary[Optimizer, Hearers] = weakref.WeakKeyDictionary()

    def add(self, watcher: Watcher, parameters: Iterable[Tensor]) -> None:
        """Have a watcher hear of the steps of parameters, which it keeps alive."""
        places = tuple(map(id, parameters))
        own = weakref.ref(watcher, partial(self._forget, places))
        with self._lock:
            for place in places:
                self._about[place] = (*self._about.get(place, ()), own)
            self._version += 1  # once they are found, so that nobody keeps who heard before as who hears after

    def _forget(self, places: tuple[int, ...], gone: "weakref.ref[Watcher]") -> None:
        with self._lock:
            for place in places:
                left = tuple(known for known in self._about.get(place, ()) if known is not gone)
                if left:
                    self._about[place] = left
                else:
                    self._about.pop(place, None)

    def of(self, parameter: Tensor) -> list[Watcher]:
        """Return those that cover a parameter."""
        return [watcher for watcher in _alive(self._about.get(id(parameter), ())) if watcher._covers(parameter)]

    def of_step(self, optimizer: Optimizer) -> list[Watcher]:
        """Return those of any parameter of an optimizer."""
        known, version, size = self._hearers.get(optimizer), self._version, size_of(optimizer)
        if known is None or known.version != version or known.size != size:
            known = self._hearers[optimizer] = Hearers(version, size, self._references(parameters_in(optimizer)))
        return _alive(known.references)

    def of_any(self, parameters: Iterable[Tensor]) -> list[Watcher]:
        """Return those of any of some parameters, each once, those of the first one first."""
        return _alive(self._references(parameters))

    def _references(self, parameters: Iterable[Tensor]) -> References:
        return tuple({reference: None for p in parameters for reference in self._about.get(id(p), ())})  # in order


def _alive(references: References) -> list[Watcher]:
    return [watcher for reference in references if (watcher := reference()) is not None]


WATCHERS = Watchers()
"""All that there are."""
