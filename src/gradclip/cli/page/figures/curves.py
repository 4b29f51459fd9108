"""Curves over steps: every point where there is room, and where there is not, all the smallest and largest."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from tsdownsample import MinMaxDownsampler

from gradclip.cli.page.figures.style import plain

MOST_POINTS = 20_000
"""Points of a curve at most; the page has the others of the norms for whoever looks closer."""

DENSE, MEDIANS = 3_000, 500
"""Points from which on a curve covers more than it shows, and the medians that it then has over it."""


def picked(values: NDArray[Any], most: int) -> NDArray[Any]:
    """Return the places of so many points at most: the smallest and the largest of every few; NaN where all are."""
    if len(values) <= most:
        return np.arange(len(values))
    return np.unique(MinMaxDownsampler().downsample(values, n_out=most - most % 2)).astype(np.int64)


def single(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return float32 numbers: NaN where one is not finite, the nearest that float32 has where it is too large."""
    limit = np.finfo(np.float32).max
    return np.where(np.isfinite(values), np.clip(values, -limit, limit), np.nan).astype(np.float32)


def curve(
    steps: NDArray[Any],
    values: NDArray[Any],
    *,
    name: str,
    meta: dict[str, Any],
    line: dict[str, Any],
    pale: str | None = None,
    most: int = MOST_POINTS,
    **style: Any,
) -> list[go.Scatter]:
    """Return a curve; where it covers more than it shows, a pale one with its medians over it.

    Args:
        steps: Where its points are.
        values: The points; what is not finite becomes a gap.
        name: What it is called.
        meta: What the page has to know: `show`, the boxes that it is shown by, and `detail`, where all its points are.
        line: How the line is drawn.
        pale: The colour of the curve behind its medians; None to have none.
        most: How many points it may have.
        style: What else there is to say to plotly.
    """
    points = single(values)
    kept = picked(points, most)
    drawn = go.Scatter(
        x=steps[kept].astype(np.float64),
        y=points[kept],
        name=plain(name),
        meta=meta,
        mode="lines",
        line=line,
        hovertemplate="%{y:.4~g}",
    ).update(style)
    if pale is None or len(steps) <= DENSE:
        return [drawn]
    middles, found = medians(steps, points)
    over = f"{name}: median of {len(steps) // MEDIANS:,} steps"
    show = {"show": meta["show"]}
    return [drawn.update(line_color=pale), *curve(middles, found, name=over, meta=show, line={**line, "dash": "solid"})]


def medians(steps: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the steps in the middle of stretches, and the medians of the finite values there; NaN of none."""
    stretches = np.array_split(np.arange(len(values)), MEDIANS)
    known = [values[own][np.isfinite(values[own])] for own in stretches]
    found = [np.median(own) if len(own) else np.nan for own in known]
    return steps[[own[len(own) // 2] for own in stretches]], np.array(found)
