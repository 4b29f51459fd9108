"""Which gradients hold NaN or infinite elements: counts, and the words for them."""

from typing import NamedTuple

from gradclip.ops.backend import Batch

SHOWN = 3
"""How many gradients a message names."""


class Bad(NamedTuple):
    """A gradient with elements that are NaN or infinite."""

    position: int
    nan: int
    inf: int
    numel: int


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
