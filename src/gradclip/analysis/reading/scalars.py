"""Scalars by tag, as TensorBoard keeps them, and the rows that they make."""

import math
from array import array
from collections.abc import Mapping
from typing import NamedTuple, final

import torch
from torch import Tensor

from gradclip.analysis.reading.rows import CLIPPED, FLAGS, NO_STATUS, NUMBERS, OK, SKIPPED, Rows


@final
class Points(NamedTuple):
    """The scalars of a tag: the place of each among all that were read, its step, its value and when it was."""

    places: Tensor
    steps: Tensor
    values: Tensor
    times: Tensor


@final
class Track:
    """The scalars of a tag while they are read."""

    def __init__(self) -> None:
        self._whole = array("q")
        self._real = array("d")

    def add(self, place: int, step: int, value: float, when: float) -> None:
        """Take one more."""
        self._whole.extend((place, step))
        self._real.extend((value, when))

    def points(self) -> Points:
        """Return what there is, of which there must be some."""
        whole = torch.frombuffer(self._whole, dtype=torch.int64).view(-1, 2)
        real = torch.frombuffer(self._real, dtype=torch.float64).view(-1, 2)
        return Points(whole[:, 0], whole[:, 1].contiguous(), real[:, 0], real[:, 1])


def rows_of_tags(tracks: Mapping[str, Track]) -> Rows:
    """Return a row for each norm, and for each flag at a step without one: a norm that was not finite is not logged.

    Args:
        tracks: The scalars by what they become, `"norms"` among them.
    """
    points = {role: track.points() for role, track in tracks.items()}
    rows = points["norms"]
    for flags in (points[role] for role in FLAGS if role in points):
        alone = ~torch.isin(flags.steps, rows.steps)
        unknown = flags._replace(values=torch.full_like(flags.values, math.nan))
        rows = Points(*(torch.cat([old, new[alone]]) for old, new in zip(rows, unknown, strict=True)))
    rows = Points(*(column[rows.places.argsort()] for column in rows))
    clipped, skipped = (_at(points.get(role), rows.steps) for role in FLAGS)
    known = ~(clipped.isnan() & skipped.isnan())
    statuses = torch.full(rows.steps.shape, NO_STATUS, dtype=torch.int8)
    for status, where in ((OK, known), (CLIPPED, clipped > 0.0), (SKIPPED, skipped > 0.0)):
        statuses[where] = status
    return Rows(
        lines=rows.places,
        norms=rows.values,
        steps=rows.steps,
        numbers={role: _at(points[role], rows.steps) for role in NUMBERS if role in points} | {"times": rows.times},
        statuses=statuses if known.any() else None,
    )


def _at(points: Points | None, steps: Tensor) -> Tensor:
    """Return the last value of a tag at each step; NaN where it has none."""
    if points is None:
        return torch.full(steps.shape, math.nan, dtype=torch.float64)
    there, order = points.steps.sort(stable=True)
    last = torch.searchsorted(there, steps, right=True).sub(1).clamp(min=0)
    return points.values[order][last].where(there[last] == steps, math.nan)
