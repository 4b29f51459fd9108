"""All norms of a run that has more of them than its chart has points, for whoever looks closer: small, and exact."""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradclip.cli.page.figures.curves import MOST_POINTS, picked, single
from gradclip.cli.page.run import Run

MOST_STEPS = 1_500_000
"""Steps whose norms are kept, in all runs together: about 10 MB. Of more, the smallest and the largest of every few."""

ROWS = ("before", "after", "threshold")
"""What is kept of each step."""


def details_of(runs: Sequence[Run]) -> dict[int, dict[str, str]]:
    """Return the norms for the page, by the place of a run, of those whose chart has not all of them."""
    most = MOST_STEPS // len(runs)
    return {place: _detail(run, most) for place, run in enumerate(runs) if run.steps > MOST_POINTS}


def deflated(data: bytes) -> str:
    """Return bytes as text that a page can hold: deflated, in base64."""
    return base64.b64encode(zlib.compress(data)).decode("ascii")


def packed(values: NDArray[Any]) -> str:
    """Return numbers as text: little-endian, deflated."""
    return deflated(values.astype(values.dtype.newbyteorder("<")).tobytes())


def _detail(run: Run, most: int) -> dict[str, str]:
    """Return the steps as distances, and the rows: of the second, what is not the lesser of the others, in bits."""
    series = run.series
    before = single(series.norms.numpy())
    after = before if series.norms_after is None else single(series.norms_after.numpy())
    threshold = np.full_like(before, np.nan) if series.thresholds is None else single(series.thresholds.numpy())
    kept = picked(before, most)
    rows = np.stack([before, after, threshold])[:, kept].view(np.uint32)
    lesser = np.where(threshold < before, threshold, before)[kept]  # which the norm after clipping mostly is
    rows[1] ^= lesser.view(np.uint32)
    steps = series.steps.numpy()[kept].astype(np.float64)
    return {"steps": packed(np.diff(steps, prepend=0.0)), "rows": packed(rows)}
