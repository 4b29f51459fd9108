"""The picture of a demo: loss and norm of two runs, or the loss of each of many beside that without clipping."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from gradclip.cli import target
from gradclip.cli.demo.runs import Outcome

COLORS = ("#D55E00", "#0072B2")
"""Vermilion and blue of Okabe and Ito: told apart with every kind of colour vision, and in grey."""

PALE = "#F2CFB3"
"""The first of `COLORS` thinned out, for the background of the other panels."""

GREY = "#555555"

ACROSS = 3
"""Panels in a row."""


def draw(outcomes: Sequence[Outcome], *, guessing_bits: float, max_norm: float, title: str, path: Path) -> None:
    """Draw two runs into a PNG file, beside the loss of guessing and a bound (`math.inf` for none)."""
    figure = _figure(6.0)
    losses, norms = figure.subplots(2, 1, sharex=True)
    for outcome, color in zip(outcomes, COLORS, strict=False):
        label = f"{outcome.name} (ended at step {len(outcome.records)})" if outcome.ended else outcome.name
        _line(losses, outcome, "bits", color, label)
        _line(norms, outcome, "norm", color, label)
    _frame(losses, guessing_bits, f"guessing: {guessing_bits:.2f}")
    _frame(norms, max_norm, f"max_norm = {max_norm:g}")
    _plain_numbers(losses)
    losses.set_ylabel("loss, bits per character")
    norms.set_ylabel("gradient norm before clipping")
    norms.set_xlabel("training step")
    norms.xaxis.set_major_locator(MaxNLocator(integer=True))
    losses.set_title(title, loc="left", fontsize=11)
    figure.legend(*losses.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def draw_many(outcomes: Sequence[Outcome], *, guessing_bits: float, title: str, path: Path) -> None:
    """Draw one panel a run into a PNG file, all on the same scales; the run without clipping comes first."""
    down = math.ceil(len(outcomes) / ACROSS)
    figure = _figure(1.0 + 1.7 * down)
    grid = figure.subplots(down, ACROSS, sharex=True, sharey=True, squeeze=False).flat
    for axes, outcome in zip(grid, outcomes, strict=False):
        _frame(axes, guessing_bits)
        _plain_numbers(axes)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.tick_params(labelsize=8)
        if outcome is not outcomes[0]:
            _line(axes, outcomes[0], "bits", PALE)
        _line(axes, outcome, "bits", COLORS[outcome is not outcomes[0]])
        bits = outcome.validation_bits
        axes.set_title(outcome.name, loc="left", fontsize=9, fontweight="bold")
        worth = f"{bits:.2f}" if math.isfinite(bits) else "not finite"
        axes.set_title(f"validation {worth}", loc="right", fontsize=8, color=GREY)
    for axes in list(grid)[len(outcomes) :]:
        axes.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.supylabel("loss, bits per character", fontsize=9)
    figure.supxlabel(f"training step; dashed: guessing, {guessing_bits:.2f}; pale: without clipping", fontsize=9)
    _save(figure, path)


def _figure(height: float) -> Figure:
    """Return a figure on its own canvas: pyplot would pick a backend for whoever imports this."""
    figure = Figure(figsize=(8.0, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    png = io.BytesIO()
    figure.savefig(png)
    target.write("--out", path, png.getvalue(), force=True)


def _line(axes: Axes, outcome: Outcome, number: str, color: str, label: str | None = None) -> None:
    """Draw a line with gaps where a value is not finite: no scale has a place for it; of one point, that."""
    values = [getattr(record, number) for record in outcome.records]
    shown = [value if math.isfinite(value) else math.nan for value in values]
    marker = "." if sum(map(math.isfinite, shown)) == 1 else ""
    steps = [record.step for record in outcome.records]
    axes.plot(steps, shown, color=color, linewidth=1.1, label=label, marker=marker)


def _frame(axes: Axes, level: float, name: str | None = None) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.01)
    axes.grid(visible=True, axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if level < math.inf:
        axes.axhline(level, color=GREY, linewidth=1.0, linestyle="--")
        if name is not None:
            place, beside = {"xycoords": ("axes fraction", "data"), "va": "center"}, {"textcoords": "offset points"}
            axes.annotate(name, (1.0, level), xytext=(4, 0), color=GREY, fontsize=9, **place, **beside)


def _plain_numbers(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
