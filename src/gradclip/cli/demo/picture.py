"""The picture of the demo: loss and gradient norm of both runs, step by step."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from gradclip.cli import target
from gradclip.cli.demo.outcome import Outcome

COLORS = ("#D55E00", "#0072B2")
"""Vermilion and blue of Okabe and Ito: told apart with every kind of colour vision, and in grey."""

GREY = "#555555"


def draw(outcomes: Sequence[Outcome], *, guessing_bits: float, max_norm: float, title: str, path: Path) -> None:
    """Draw the runs into a PNG file.

    Figure and canvas are made directly: pyplot would pick a backend for whoever imports this.

    Args:
        outcomes: The runs, in the order of `COLORS`.
        guessing_bits: The loss of guessing, drawn for reference.
        max_norm: The bound of the clipped run, drawn for reference; `math.inf` for none.
        title: What was trained, in a line.
        path: The file.
    """
    figure = Figure(figsize=(8.0, 6.0), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    losses, norms = figure.subplots(2, 1, sharex=True)
    for outcome, color in zip(outcomes, COLORS, strict=False):
        steps = [record.step for record in outcome.records]
        line(losses, steps, (record.bits for record in outcome.records), color, _label(outcome))
        line(norms, steps, (record.norm for record in outcome.records), color, _label(outcome))
    _frame(losses, "loss, bits per character", guessing_bits, f"guessing: {guessing_bits:.2f}")
    _frame(norms, "gradient norm before clipping", max_norm, f"max_norm = {max_norm:g}")
    losses.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    losses.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    norms.set_xlabel("training step")
    norms.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.set_title(title, loc="left", fontsize=11)
    figure.legend(*losses.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure into a PNG file."""
    png = io.BytesIO()
    figure.savefig(png)
    target.write("--out", path, png.getvalue(), force=True)


def _label(outcome: Outcome) -> str:
    return f"{outcome.name} (ended at step {len(outcome.records)})" if outcome.ended else outcome.name


def line(axes: Axes, steps: Sequence[int], values: Iterable[float], color: str, label: str) -> None:
    """Draw a line with gaps, or the one point that there is."""
    # A gap is where a value is not finite: no scale has a place for it.
    shown = [value if math.isfinite(value) else math.nan for value in values]
    marker = "." if sum(map(math.isfinite, shown)) == 1 else ""  # one point makes no line
    axes.plot(steps, shown, color=color, linewidth=1.1, label=label, marker=marker)


def _frame(axes: Axes, ylabel: str, level: float, name: str) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(ylabel)
    axes.margins(x=0.01)
    axes.grid(visible=True, axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if level == math.inf:
        return
    axes.axhline(level, color=GREY, linewidth=1.0, linestyle="--")
    axes.annotate(
        name,
        (1.0, level),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=GREY,
        fontsize=9,
    )
