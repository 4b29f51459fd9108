"""Curves over steps: every point where there is room, and where there is not, all the smallest and largest.

Of the norms of longer runs, the page has the other points too, small and exact, for whoever looks closer.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from tsdownsample import MinMaxDownsampler

from gradclip.cli.page.figures.style import plain
from gradclip.cli.page.run import Run

MOST_POINTS = 20_000
"""Points of a curve at most."""

DENSE, MEDIANS = 3_000, 500
"""Points from which on a curve covers more than it shows, and the medians that it then has over it."""

MOST_STEPS = 1_500_000
"""Steps whose norms the page has, in all runs together: about 10 MB. Of more, the smallest and largest of every few."""


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
    stretches = [each[np.isfinite(each)] for each in np.array_split(points, MEDIANS)]
    medians = np.array([np.median(each) if len(each) else np.nan for each in stretches])
    middles = np.array([each[len(each) // 2] for each in np.array_split(steps, MEDIANS)])
    over = f"{name}: median of {len(steps) // MEDIANS:,} steps"
    show = {"show": meta["show"]}
    return [
        drawn.update(line_color=pale),
        *curve(middles, medians, name=over, meta=show, line={**line, "dash": "solid"}),
    ]


def details_of(runs: Sequence[Run]) -> dict[int, dict[str, str]]:
    """Return the norms for the page, by the place of a run, of those whose chart has not all of them."""
    most = MOST_STEPS // len(runs)
    return {place: _detail(run, most) for place, run in enumerate(runs) if run.steps > MOST_POINTS}


def _detail(run: Run, most: int) -> dict[str, str]:
    """Return the steps as distances, and rows: the norms before clipping, after it, and the thresholds.

    Of the second is kept what is not the lesser of the others, in bits: mostly nothing.
    """
    series = run.series
    before = single(series.norms.numpy())
    after = before if series.norms_after is None else single(series.norms_after.numpy())
    threshold = np.full_like(before, np.nan) if series.thresholds is None else single(series.thresholds.numpy())
    kept = picked(before, most)
    rows = np.stack([before, after, threshold])[:, kept].view(np.uint32)
    rows[1] ^= np.where(threshold < before, threshold, before)[kept].view(np.uint32)
    steps = series.steps.numpy()[kept].astype(np.float64)
    return {"steps": packed(np.diff(steps, prepend=0.0)), "rows": packed(rows)}


def packed(values: NDArray[Any]) -> str:
    """Return numbers as text: little-endian, deflated."""
    return deflated(values.astype(values.dtype.newbyteorder("<")).tobytes())


def deflated(data: bytes) -> str:
    """Return bytes as text that a page can hold: deflated, in base64."""
    return base64.b64encode(zlib.compress(data)).decode("ascii")
