"""The norms of the tensors over the steps, as a map."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradclip.cli.page.figures.curves import single
from gradclip.cli.page.figures.style import COLOURS, STEPS, figure, plain
from gradclip.cli.page.run import Run, span_of
from gradclip.cli.words import amount, shortened

MOST_ROWS, MOST_COLUMNS = 30, 1200
"""Tensors and moments in the map; each of these is the largest norm of the steps it stands for."""

WIDE, NARROW = 34, 16
"""Characters of a name beside the map on a desktop and on a phone: the last ones."""


def heat(runs: Sequence[Run]) -> go.Figure | None:
    """Return the map of the tensors with the largest shares, in the order of the model; None of none."""
    run = runs[0]
    if run.tensors is None:
        return None
    largest = set(run.tensors.ranking["name"].head(MOST_ROWS))
    names = [name for name in run.tensors.table["name"] if name in largest]
    steps, each = zip(*run.series.each, strict=True)
    norms = np.array([[row.get(name, np.nan) for name in names] for row in each])
    starts = np.arange(0, len(steps), -(-len(steps) // MOST_COLUMNS))
    cells = np.fmax.reduceat(np.where(np.isfinite(norms) & (norms > 0.0), norms, np.nan), starts).T
    logs = np.log10(cells)
    places = np.arange(len(names))
    ticks = ticks_of(logs[np.isfinite(logs)])
    trace = go.Heatmap(
        x=np.array(steps)[starts],
        y=places,
        z=logs.astype(np.float32),
        customdata=single(cells),
        text=np.tile(np.array([[plain(name)] for name in names]), len(starts)),
        hovertemplate="%{text}<br>step %{x:,d}: %{customdata:.4~g}<extra></extra>",
        hoverongaps=False,
        colorscale="Cividis",
        meta={"show": []},
        colorbar={
            "orientation": "h",
            "thickness": 10,
            "len": 0.5,
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "bottom",
            "tickvals": ticks,
            "ticktext": [amount(10.0**tick) for tick in ticks],
            "tickangle": 0,
            "tickfont": {"color": COLOURS["quiet"], "size": 11},
            "outlinewidth": 0,
        },
    )
    return figure(
        [trace],
        meta={"steps": span_of(runs), "narrow": [_end(name, NARROW) for name in names]},
        hovermode="closest",
        xaxis=STEPS,
        yaxis={
            "tickvals": places,
            "ticktext": [_end(name, WIDE) for name in names],
            "tickfont": {"size": 11},
            "autorange": "reversed",
            "automargin": True,
            "showgrid": False,
        },
    )


def ticks_of(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithms of round numbers among others: a few powers of ten, or 1, 2 and 5 times them."""
    if not len(logs):
        return logs
    low, high = logs.min(), logs.max()
    parts = np.log10((1, 2, 5) if high - low < 2.0 else (1,))  # noqa: PLR2004
    round_ones = np.add.outer(np.arange(np.floor(low), np.ceil(high) + 1), parts).ravel()
    found = round_ones[(low <= round_ones) & (round_ones <= high)]
    return found[:: 1 + len(found) // 8] if len(found) > 1 else np.array([low, high])


def _end(name: str, most: int) -> str:
    shown = shortened(name)
    return plain(shown if len(shown) <= most else f"\N{HORIZONTAL ELLIPSIS}{shown[1 - most :]}")
