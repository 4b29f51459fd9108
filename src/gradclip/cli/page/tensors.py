"""Which tensors the norm is made of."""

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from gradclip.analysis.series import Series, Worst

MOST_ROWS = 30
"""Tensors in the map."""

LISTED = 10
"""Tensors in the table."""


@final
class Listed(NamedTuple):
    """What is said of one tensor: its mean and largest share, and its median and largest norm; NaN of no norm."""

    name: str
    share: float
    largest_share: float
    median: float
    largest: float
    largest_step: int | None


@final
@dataclass(frozen=True, eq=False)
class Tensors:
    """The norms of single tensors at the steps where they were recorded.

    Attributes:
        names: The tensors, in the order of the model.
        steps: The numbers of the steps, of shape (m,).
        norms: Of shape (m, tensors); NaN where there is none.
        shares: The share of each tensor in the sum of squares of a step, in [0, 1]: of shape (m, tensors).
    """

    names: tuple[str, ...]
    steps: NDArray[np.int64]
    norms: NDArray[np.float64]
    shares: NDArray[np.float64]

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean shares, over the steps at which they are known."""
        known = ~np.isnan(self.shares[:, :1])
        return np.nansum(self.shares, 0) / max(1, int(known.sum()))

    @property
    def worst(self) -> dict[int, Worst]:
        """The tensor with the largest share, by step, where shares are known."""
        known = ~np.isnan(self.shares[:, 0])
        shares = self.shares[known]
        found = zip(self.steps[known], shares.argmax(1), shares.max(1), strict=True)
        return {int(step): ((self.names[place], float(share)),) for step, place, share in found}

    @property
    def ranking(self) -> list[int]:
        """The places of the tensors, that of the largest share first."""
        return [int(place) for place in np.argsort(-self.means, kind="stable")]

    @property
    def listed(self) -> list[Listed]:
        """The tensors with the largest shares."""
        found: list[Listed] = []
        for place in self.ranking[:LISTED]:
            share, largest_share = float(self.means[place]), float(np.nan_to_num(self.shares[:, place]).max())
            finite = np.isfinite(self.norms[:, place])
            known = self.norms[finite, place] if finite.any() else np.array([np.nan])
            step = int(self.steps[finite][known.argmax()]) if finite.any() else None
            found.append(
                Listed(self.names[place], share, largest_share, float(np.median(known)), float(known.max()), step)
            )
        return found


def tensors_of(series: Series) -> Tensors | None:
    """Return the norms of single tensors; None where none were recorded."""
    names = tuple(dict.fromkeys(name for _, norms in series.each for name in norms))
    if not names:
        return None
    norms = np.array([[row.get(name, np.nan) for name in names] for _, row in series.each])
    return Tensors(names, np.array([step for step, _ in series.each]), norms, shares_of(norms))


def shares_of(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of each tensor in the sum of squares of a step; NaN at steps with a norm that is infinite.

    Args:
        norms: Of shape (m, tensors); NaN where there is none.

    Returns:
        Of shape (m, tensors); 0 where there is no norm.
    """
    present = np.nan_to_num(norms, nan=0.0, posinf=0.0)
    largest = present.max(1, keepdims=True)
    squares = np.square(present / np.where(largest > 0.0, largest, 1.0))
    usable = (largest > 0.0) & ~np.isinf(norms).any(1, keepdims=True)
    return np.divide(squares, squares.sum(1, keepdims=True), out=np.full_like(squares, np.nan), where=usable)
