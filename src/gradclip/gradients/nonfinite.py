"""Which gradients hold NaN or infinite elements: counts, and the words for them."""

from typing import NamedTuple

from torch import Tensor

from gradclip.ops.backend import Batch

SHOWN = 3
"""How many gradients a message names."""


class Bad(NamedTuple):
    """A gradient with elements that are NaN or infinite."""

    position: int
    nan: int
    inf: int
    numel: int


class Counts(NamedTuple):
    """Counts of NaN and of infinite elements, which may be on a device: none where a norm of the gradients is finite.

    Attributes:
        names: Those of the gradients.
        counts: Of shape (2, gradients).
    """

    names: list[str]
    counts: Tensor

    def by_name(self, at_most: int) -> dict[str, tuple[int, int]]:
        """Return those of the first gradients that have any; waits for them."""
        nan, inf = self.counts.tolist()
        found = [(name, (int(x), int(y))) for name, x, y in zip(self.names, nan, inf, strict=True) if x or y]
        return dict(found[:at_most])


def bad_in(batch: Batch) -> list[Bad]:
    """Return the gradients of a batch that have any such element, in order; waits for the counts."""
    nan, inf = batch.count_nonfinite().tolist()
    counted = enumerate(zip(nan, inf, batch.numels(), strict=True))
    return [Bad(i, nans, infs, numel) for i, (nans, infs, numel) in counted if nans or infs]


def described(found: list[Bad], names: list[str]) -> str:
    """Name the first of them with their counts; nothing where there is none."""
    if not found:
        return ""
    shown = [f"{names[x.position]} ({x.nan} NaN, {x.inf} Inf of {x.numel} elements)" for x in found[:SHOWN]]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"Found in {', '.join(shown)}{more}."
