"""The part of a recording that advice is taken from, and what is left out."""

import math
from collections.abc import Iterable
from os import PathLike
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from gradclip.analysis.series import Series, spacing
from gradclip.validation import check_number, real

Recorded: TypeAlias = Series | str | PathLike[str] | Tensor | Iterable[float]
"""A series, a file of one, or total norms step by step: a tensor, or numbers."""

LEAST_WARMUP, SHARE_OF_WARMUP, MOST_WARMUP = 20, 0.05, 1.0 / 3.0
"""Steps at the beginning that are left out: so many, or the first share where it is more, and at most the last one."""


@final
class Judged(NamedTuple):
    """The norms that are judged.

    Attributes:
        norms: Finite norms > 0 in the order of their steps: float64, of shape (n,).
        places: Where they are in the series: int64, of shape (n,).
        warmup: How many rows at the beginning are left out.
        nonfinite: How many norms after that are not finite.
        zero: How many are 0: a step without gradients.
    """

    norms: Tensor
    places: Tensor
    warmup: int
    nonfinite: int
    zero: int


def series_of(recorded: Recorded) -> Series:
    """Return what people have recorded as a series.

    Raises:
        TypeError: If it is no recording of total norms.
        ValueError: If norms are negative or not in a row, or a file cannot be read.
    """
    if isinstance(recorded, (str, PathLike)):
        from gradclip.analysis.reading import read_series  # noqa: PLC0415 -- only files need the readers

        series = read_series(recorded)
    else:
        series = recorded if isinstance(recorded, Series) else _from_norms(recorded)
    if bool((series.norms < 0.0).any()):
        first = int(series.steps[series.norms < 0.0][0])
        msg = f"`advise(run=...)` must hold norms >= 0, got a negative one at step {first}. Pass norms, not logarithms."
        raise ValueError(msg)
    return series


def judged(series: Series, warmup: int | None) -> Judged:
    """Choose the norms to judge; a warm-up of None is 20 steps, or 5 % where that is more, and at most a third."""
    apart = spacing(series.steps)
    if warmup is None:
        recorded = len(series) * apart
        steps = min(max(LEAST_WARMUP, math.ceil(SHARE_OF_WARMUP * recorded)), int(MOST_WARMUP * recorded))
    else:
        steps = int(check_number("advise", "warmup", warmup, at_least=0, integer=True))
    over = series.steps - series.steps[:1] + apart
    first = int((over <= steps).sum())
    norms = series.norms[first:]
    finite = norms.isfinite()
    kept = finite & (norms > 0.0)
    return Judged(
        norms=norms[kept].to(torch.float64),
        places=first + kept.nonzero().flatten(),
        warmup=first,
        nonfinite=int((~finite).sum()),
        zero=int((norms == 0.0).sum()),
    )


def _from_norms(recorded: Any) -> Series:
    if isinstance(recorded, Tensor) and recorded.ndim == 1 and not recorded.is_complex():
        norms = recorded.detach().to("cpu", torch.float64)
        return Series("norms", torch.arange(1, len(norms) + 1), norms)
    numbers = recorded.tolist() if hasattr(recorded, "tolist") else recorded  # what numpy and pandas make
    if not isinstance(numbers, Iterable):
        msg = (
            f"`advise(run=...)` must be a recording, got {type(recorded).__name__}. Pass one total norm for each step."
        )
        raise TypeError(msg)
    listed = list(numbers)
    if any(isinstance(x, list) for x in listed):
        msg = "`advise(run=...)` must hold one total norm for each step, got rows of several. Pass the total norms."
        raise ValueError(msg)
    norms = torch.tensor([real("advise", "run", x) for x in listed], dtype=torch.float64)
    return Series("norms", torch.arange(1, len(norms) + 1), norms)
