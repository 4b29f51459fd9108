"""Which gradients hold NaN or infinite elements: counts, and the words for them."""

from typing import NamedTuple

from torch import Tensor

SHOWN = 3
"""How many gradients a message names."""


class Bad(NamedTuple):
    """A gradient with elements that are NaN or infinite."""

    place: int
    name: str
    nan: int
    inf: int


class Counts(NamedTuple):
    """Counts of NaN and of infinite elements, which may be on a device.

    Attributes:
        names: Those of the gradients.
        counts: Of shape (2, gradients).
        is_bad: Whether the total norm is known not to be finite: elements of other ranks may make it so.
    """

    names: list[str]
    counts: Tensor
    is_bad: bool = False

    def found(self) -> list[Bad]:
        """Return the gradients that have any such element, in order; waits for the counts."""
        counted = enumerate(zip(self.names, *self.counts.tolist(), strict=True))
        return [Bad(place, name, int(nan), int(inf)) for place, (name, nan, inf) in counted if nan or inf]

    def by_name(self, at_most: int) -> dict[str, tuple[int, int]]:
        """Return the counts of the first of them; waits too."""
        return {x.name: (x.nan, x.inf) for x in self.found()[:at_most]}

    def described(self, numels: list[int]) -> str:
        """Name the first of them with their counts, of so many elements; nothing where there is none. Waits too."""
        if not (found := self.found()):
            return ""
        shown = [f"{x.name} ({x.nan} NaN, {x.inf} Inf of {numels[x.place]} elements)" for x in found[:SHOWN]]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"Found in {', '.join(shown)}{more}."
