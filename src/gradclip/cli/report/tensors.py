"""Which tensors the norm is made of, and how their norms went over time."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from gradclip.analysis.series import Series
from gradclip.cli.report.facts import quantile
from gradclip.cli.report.pack import differences, pack
from gradclip.cli.report.words import shortened

MOST_ROWS = 30
"""Tensors in the heat map."""

MOST_COLUMNS = 1200
"""Moments in the heat map; each is the largest norm of the steps it stands for."""

LISTED = 10
"""Tensors in the table."""


@final
@dataclass(frozen=True, eq=False)
class Tensors:
    """The norms of single tensors at the steps where they were recorded.

    Attributes:
        names: The tensors, in the order of the model.
        steps: The numbers of the steps: int64, of shape (m,).
        norms: float64, of shape (m, tensors); NaN where there is none.
        shares: The mean share of each tensor in the sum of squares, in [0, 1]: of shape (tensors,).
    """

    names: tuple[str, ...]
    steps: Tensor
    norms: Tensor
    shares: Tensor

    @property
    def ranking(self) -> list[int]:
        """The places of the tensors, that of the largest share first."""
        return self.shares.sort(descending=True, stable=True).indices.tolist()


@final
@dataclass(frozen=True)
class Listed:
    """What is said of one tensor: its mean and largest share, and its median and largest norm."""

    name: str
    share: float
    largest_share: float
    median: float
    largest: float
    largest_step: int


def tensors_of(series: Series) -> Tensors | None:
    """Return the norms of single tensors; None where none were recorded."""
    names = tuple(dict.fromkeys(name for _, norms in series.each for name in norms))
    if not names:
        return None
    rows = [[norms.get(name, math.nan) for name in names] for _, norms in series.each]
    norms = torch.tensor(rows, dtype=torch.float64)
    shares = shares_of(norms)
    steps = torch.tensor([step for step, _ in series.each])
    return Tensors(names, steps, norms, shares.nanmean(0).nan_to_num(nan=0.0))


def shares_of(norms: Tensor) -> Tensor:
    """Return the share of each tensor in the sum of squares of a step; NaN at steps with a norm that is not finite.

    Args:
        norms: Of shape (m, tensors); NaN where there is none.

    Returns:
        Of shape (m, tensors); 0 where there is no norm.
    """
    infinite = norms.isinf().any(1, keepdim=True)
    present = norms.nan_to_num(nan=0.0, posinf=0.0)
    scaled = present / present.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    squares = scaled.square()
    return (squares / squares.sum(1, keepdim=True)).masked_fill(infinite, math.nan)


def listed(tensors: Tensors, most: int = LISTED) -> list[Listed]:
    """Return the tensors with the largest shares."""
    shares = shares_of(tensors.norms).nan_to_num(nan=0.0)
    found: list[Listed] = []
    for place in tensors.ranking[:most]:
        column = tensors.norms[:, place]
        finite = column.isfinite()
        known = column[finite]
        top = int(known.argmax()) if len(known) else -1
        found.append(
            Listed(
                name=tensors.names[place],
                share=tensors.shares[place].item(),
                largest_share=shares[:, place].max().item(),
                median=quantile(known.sort().values, 0.5),
                largest=known[top].item() if len(known) else math.nan,
                largest_step=int(tensors.steps[finite][top]) if len(known) else 0,
            )
        )
    return found


def heat_of(tensors: Tensors) -> dict[str, Any]:
    """Return the heat map for the page: the tensors with the largest shares, in the order of the model."""
    rows = sorted(tensors.ranking[:MOST_ROWS])
    bucket = -(-len(tensors.steps) // MOST_COLUMNS)
    short = -len(tensors.steps) % bucket
    norms = tensors.norms[:, rows]
    padded = torch.cat([norms, norms.new_full((short, len(rows)), math.nan)]).reshape(-1, bucket, len(rows))
    known = padded.isfinite()
    highest = padded.masked_fill(~known, -math.inf).amax(1)
    cells = torch.where(known.any(1), highest, math.nan).to(torch.float32)
    return {
        "names": [shortened(tensors.names[row]) for row in rows],
        "steps": pack(differences(tensors.steps[::bucket])),
        "last": int(tensors.steps[-1]),
        "columns": len(cells),
        "norms": pack(cells.t().reshape(-1)),
    }
