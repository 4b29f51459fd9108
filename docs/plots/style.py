"""How all figures look."""

from matplotlib.axes import Axes

INK = "#123456"
"""Stands for the colour of the text, which a page sets."""

BLUE, VERMILION, GREEN = "#0086c9", "#e0670f", "#1b9e77"
"""Told apart with every kind of colour vision, on white and on black."""

SETTINGS = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 10.0,
    "grid.alpha": 0.2,
    "grid.color": INK,
    "legend.frameon": False,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def frame(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Name the axes, and put faint lines behind what is drawn."""
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(visible=True, axis="y")
    axes.margins(x=0.01)
