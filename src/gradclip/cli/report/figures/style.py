"""What all charts share: how they look, and what the page has to know of them.

Colours are names of the style sheet; the page puts in what they are in its scheme.
"""

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from gradclip.cli.words import shortened

INK, QUIET, CUT, BAD, PALE = "var(--ink)", "var(--quiet)", "var(--cut)", "var(--bad)", "var(--pale)"

AXIS = {
    "gridcolor": "var(--grid)",
    "linecolor": "var(--grid)",
    "zeroline": False,
    "tickfont": {"color": QUIET},
    "minorloglabels": "complete",
}

LOOK = go.layout.Template(
    layout={
        "paper_bgcolor": "var(--panel)",
        "plot_bgcolor": "var(--panel)",
        "font": {"family": "inherit", "size": 12, "color": INK},
        "hoverlabel": {"bgcolor": "var(--panel)", "bordercolor": QUIET, "font": {"color": INK}, "namelength": 28},
        "margin": {"l": 60, "r": 36, "t": 8, "b": 44},
        "showlegend": False,
        "xaxis": {**AXIS, "title": {"font": {"color": QUIET}, "standoff": 8}},
        "yaxis": {**AXIS, "title": {"font": {"color": QUIET}, "standoff": 8}, "fixedrange": True},
    }
)

STEPS = {"title": {"text": "step"}, "tickformat": ",d", "tickangle": 0, "ticks": "outside", "showgrid": False}
"""The axis of the charts over steps; the page sets what it shows of them."""


def figure(traces: Sequence[Any], *, meta: dict[str, Any], **layout: Any) -> go.Figure:
    """Return a chart.

    Args:
        traces: What it shows.
        meta: What the page has to know: `steps`, the first and the last of a chart over steps, and `log`, the box that
            makes its vertical axis logarithmic.
        layout: How it is laid out.
    """
    return go.Figure(traces, {"template": LOOK, "meta": meta, **layout})


def run_colour(place: int, *, clear: bool = False) -> str:
    """Return the colour of a run, or a clear one that others shine through."""
    return f"var(--run-{place % 6 + 1}{'-clear' if clear else ''})"


def plain(name: str) -> str:
    """Return a name out of a file as plotly shows it as it is: it reads markup in texts."""
    return html.escape(shortened(name), quote=False)
