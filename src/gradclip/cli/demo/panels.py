"""The picture of many runs: the loss of each beside that of the run without clipping, which comes first."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from gradclip.cli.demo.outcome import Outcome
from gradclip.cli.demo.picture import COLORS, GREY, line, save

ACROSS = 3
"""Panels in a row."""

PALE = "#F2CFB3"
"""The first of `COLORS` thinned out, for the background of the other panels."""


def draw(outcomes: Sequence[Outcome], *, guessing_bits: float, title: str, path: Path) -> None:
    """Draw one panel a run into a PNG file, all on the same scales.

    Args:
        outcomes: The runs, that without clipping first.
        guessing_bits: The loss of guessing, drawn for reference.
        title: What was trained, in a line.
        path: The file.
    """
    down = math.ceil(len(outcomes) / ACROSS)
    figure = Figure(figsize=(8.0, 1.0 + 1.7 * down), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).flat
    for axes, outcome in zip(grid, outcomes, strict=False):
        _frame(axes, guessing_bits)
        if outcome is not outcomes[0]:
            _losses(axes, outcomes[0], PALE)
        _losses(axes, outcome, COLORS[outcome is not outcomes[0]])
        axes.set_title(outcome.name, loc="left", fontsize=9, fontweight="bold")
        axes.set_title(_validation(outcome), loc="right", fontsize=8, color=GREY)
    for axes in list(grid)[len(outcomes) :]:
        axes.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.supylabel("loss, bits per character", fontsize=9)
    figure.supxlabel(f"training step; dashed: guessing, {guessing_bits:.2f}; pale: without clipping", fontsize=9)
    save(figure, path)


def _losses(axes: Axes, outcome: Outcome, color: str) -> None:
    steps = [record.step for record in outcome.records]
    line(axes, steps, (record.bits for record in outcome.records), color, outcome.name)


def _validation(outcome: Outcome) -> str:
    bits = outcome.validation_bits
    return f"validation {bits:.2f}" if math.isfinite(bits) else "validation not finite"


def _frame(axes: Axes, guessing_bits: float) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.tick_params(labelsize=8)
    axes.margins(x=0.01)
    axes.axhline(guessing_bits, color=GREY, linewidth=1.0, linestyle="--")
    axes.grid(visible=True, axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
