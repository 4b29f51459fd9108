"""Which gradients hold NaN or infinite elements: counts, and the words for them."""

from itertools import islice
from typing import NamedTuple

from torch import Tensor

SHOWN = 3
"""How many gradients a message names."""


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

    def found(self) -> dict[int, tuple[int, int]]:
        """Return the counts of those gradients that have any such element, by their places; waits for the counts."""
        counted = enumerate(zip(*self.counts.tolist(), strict=True))
        return {place: (int(nan), int(inf)) for place, (nan, inf) in counted if nan or inf}

    def by_name(self, at_most: int) -> dict[str, tuple[int, int]]:
        """Return the counts of the first of them; waits too."""
        return {self.names[place]: counts for place, counts in islice(self.found().items(), at_most)}

    def described(self, numels: list[int]) -> str:
        """Name the first of them with their counts, of so many elements; nothing where there is none. Waits too."""
        said = [
            f"{self.names[place]} ({nan} NaN, {inf} Inf of {numels[place]} elements)"
            for place, (nan, inf) in self.found().items()
        ]
        more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
        return f"Found in {', '.join(said[:SHOWN])}{more}." if said else ""
