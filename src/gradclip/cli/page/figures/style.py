"""What all charts share: how they look, and what the page has to know of them."""

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from gradclip.cli.words import shortened

COLOURS = {
    "page": "#ffffff",
    "sunken": "#f5f6f8",
    "ink": "#1a1d23",
    "quiet": "#59606b",
    "line": "#d9dde3",
    "control": "#7d8590",
    "grid": "#e6e9ed",
    "accent": "#0a569f",
    "good": "#0b6b4f",
    "look": "#8a4b00",
    "bad": "#b3261e",
    "cut": "#dd6b00",
    "pale": "#9dbbd9",
    "run-1": "#0a569f",
    "run-2": "#dd6b00",
    "run-3": "#0aa37f",
    "run-4": "#c766c9",
    "run-5": "#6b3a00",
    "run-6": "#16182b",
}
"""The colours of the page in the light, of which it makes those in the dark.

Text has a contrast of 4.5 and more, lines of 3; the runs stay apart for every kind of colour vision. The pale one is
the first run's, for curves that have a line over them.
"""

AXIS = {
    "gridcolor": COLOURS["grid"],
    "linecolor": COLOURS["grid"],
    "zeroline": False,
    "tickfont": {"color": COLOURS["quiet"]},
    "title": {"font": {"color": COLOURS["quiet"]}, "standoff": 8},
    "minorloglabels": "complete",
}

LOOK = go.layout.Template(
    layout={
        "font": {"family": "inherit", "size": 12, "color": COLOURS["ink"]},
        "hoverlabel": {"bgcolor": COLOURS["page"], "bordercolor": COLOURS["quiet"], "namelength": 28},
        "modebar": {"color": COLOURS["quiet"], "activecolor": COLOURS["accent"], "bgcolor": COLOURS["page"]},
        "margin": {"l": 60, "r": 36, "t": 30, "b": 44},
        "showlegend": False,
        "xaxis": AXIS,
        "yaxis": {**AXIS, "fixedrange": True},
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
    return COLOURS[f"run-{place % 6 + 1}"] + ("66" if clear else "")


def plain(name: str) -> str:
    """Return a name out of a file as plotly shows it as it is: it reads markup in texts."""
    return html.escape(shortened(name), quote=False)
