"""How the norms are spread, on a logarithmic scale, and where thresholds lie among them."""

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradclip.analysis.amounts import several
from gradclip.cli.page.figures.style import COLOURS, figure, plain, run_colour
from gradclip.cli.page.run import Run
from gradclip.cli.words import amount

FEWEST, MOST = 24, 160
"""How many bins there are."""


def histogram(runs: Sequence[Run]) -> go.Figure | None:
    """Return the histogram of all runs in common bins; None where no norm is positive and finite."""
    logs = [np.log10(run.norms[run.norms > 0.0]) for run in runs]
    known = np.concatenate(logs)
    if not len(known):
        return None
    edges = edges_of(known)
    traces = [
        _steps(edges, np.histogram(values, edges)[0], runs[place].name if len(runs) > 1 else "steps", place)
        for place, values in enumerate(logs)
        if len(values)
    ]
    thresholds = {**runs[0].suggested, "in use": runs[0].threshold or 0.0}
    marked = [(name, value, math.log10(value)) for name, value in thresholds.items() if value > 0.0]
    ends = [edges[0], edges[-1], *(log for _, _, log in marked)]
    low, high = min(ends), max(ends)
    pad = 0.02 * (high - low)
    chart = figure(
        traces,
        meta={"log": "logCounts"},
        hovermode="closest",
        xaxis={
            "title": {"text": "gradient norm before clipping"},
            "type": "log",
            "range": [low - pad, high + pad],
            "fixedrange": True,
        },
        yaxis={
            "title": {"text": "steps"},
            "ticksuffix": " %",
            "exponentformat": "none",
            "rangemode": "tozero",
            "nticks": 5,
        },
        margin={"t": 12 + 17 * len(marked)},
    )
    for place, (name, value, log) in enumerate(marked):
        line = {"color": COLOURS["ink"], "width": 1.6, "dash": "dash" if name == "in use" else "solid"}
        label = {
            "text": plain(f"{name} {amount(value)}"),
            "x": log,
            "xanchor": "right" if log > low + 0.7 * (high - low) else "left",
            "yshift": 4 + 17 * (len(marked) - 1 - place),  # in rows of their own: near ones would cover each other
        }
        chart.add_vline(value, line=line, annotation=label, annotation_position="top")
    return chart


def edges_of(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the edges of bins that show the shape: by the rule of Freedman and Diaconis, within reason."""
    low, high = logs.min(), logs.max()
    if high - low < 1e-6:  # noqa: PLR2004 -- all alike: bins of some width all the same
        low, high = low - 0.05, high + 0.05
    middle = np.subtract(*np.quantile(logs, (0.75, 0.25)))
    wanted = (high - low) * len(logs) ** (1 / 3) / (2 * middle) if middle > 0.0 else FEWEST
    return np.linspace(low, high, 1 + int(np.clip(np.ceil(wanted), FEWEST, MOST)))


def _steps(edges: NDArray[np.float64], counts: NDArray[np.int64], name: str, place: int) -> go.Scatter:
    total = int(counts.sum())
    shares = 100.0 * counts / total
    norms = 10.0**edges
    said = [
        f"norm {amount(low)} to {amount(high)}: {count:,} of {several(total, 'step')}"
        for low, high, count in zip(norms[:-1], norms[1:], counts, strict=True)
    ]
    # The last bin ends at its edge, and at the foot.
    return go.Scatter(
        x=[*norms, norms[-1]],
        y=[*shares, shares[-1], 0.0],
        text=[*said, "", ""],
        hovertemplate="%{text}<extra></extra>",
        name=plain(name),
        meta={"show": [f"runs.{place}"]},
        mode="lines",
        line={"shape": "hv", "color": run_colour(place), "width": 1.4},
        fill="tozeroy",
        fillcolor=run_colour(place, clear=True),
    )
