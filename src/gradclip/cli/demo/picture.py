"""The picture of a demo: loss and norm of two runs, or the loss of each of many beside that without clipping."""

import io
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot, which picks a backend for whoever imports this
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from gradclip.cli.demo.training import Run
from gradclip.cli.words import amount

COLORS = ("#D55E00", "#0072B2")
"""Vermilion and blue of Okabe and Ito: told apart with every kind of colour vision, and in grey."""

GREY = "#555555"

ACROSS = 3
"""Panels in a row."""

WIDE = 1e4
"""From the bottom of a scale to its top there are no more numbers than powers of ten where this is exceeded."""


def draw(runs: Sequence[Run], title: str) -> bytes:
    """Return a PNG image of runs, one or two or many, of which the first is the one without clipping."""
    down = math.ceil(len(runs) / ACROSS)
    many = len(runs) > len(COLORS)
    figure = Figure(figsize=(8.0, 1.0 + 1.7 * down if many else 6.0), dpi=150, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    guessing = runs[0].corpus.guessing_bits
    if many:
        grid = figure.subplots(down, ACROSS, sharex=True, sharey=True).flat
        for axes, run in zip(grid, runs, strict=False):
            _loss_beside_the_first(axes, run, runs[0])
        for axes in list(grid)[len(runs) :]:
            axes.set_axis_off()
        figure.supylabel("loss, bits per character", fontsize=9)
        figure.supxlabel(f"training step; dashed: guessing, {amount(guessing)}; pale: {runs[0].name}", fontsize=9)
    else:
        losses, norms = figure.subplots(2, 1, sharex=True)
        for run, color in zip(runs, COLORS, strict=False):
            label = f"{run.name} (ended at step {len(run.clips)})" if run.ended else run.name
            _line(losses, run.bits, color, label=label)
            _line(norms, run.norms, color)
        _frame(losses, guessing, f"guessing: {amount(guessing)}")
        max_norm = getattr(runs[-1].policy, "max_norm", math.inf)
        _frame(norms, max_norm, f"max_norm = {max_norm:g}")
        losses.set_ylabel("loss, bits per character")
        norms.set_ylabel("gradient norm before clipping")
        norms.set_xlabel("training step")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    png = io.BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _loss_beside_the_first(axes: Axes, run: Run, first: Run) -> None:
    if run is not first:
        _line(axes, first.bits, COLORS[0], alpha=0.3)
    _line(axes, run.bits, COLORS[run is not first])
    _frame(axes, run.corpus.guessing_bits)
    axes.tick_params(labelsize=8)
    axes.set_title(run.name, loc="left", fontsize=9, fontweight="bold")
    axes.set_title(f"validation {amount(run.validation_bits)}", loc="right", fontsize=8, color=GREY)


def _line(axes: Axes, values: list[float], color: str, alpha: float = 1.0, label: str = "") -> None:
    """Draw a line with gaps where a value is not finite; of one point, that."""
    marker = "." if sum(map(math.isfinite, values)) == 1 else ""
    axes.plot(range(1, len(values) + 1), values, color=color, linewidth=1.1, marker=marker, alpha=alpha, label=label)


def _frame(axes: Axes, level: float, name: str = "") -> None:
    """Give a panel its scales, and a dashed line at a level with a name beside it."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < WIDE * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.margins(x=0.01)
    axes.grid(visible=True, axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if level < math.inf:
        axes.axhline(level, color=GREY, linewidth=1.0, linestyle="--")
        place, beside = {"xycoords": ("axes fraction", "data"), "va": "center"}, {"textcoords": "offset points"}
        axes.annotate(name, (1.0, level), xytext=(4, 0), color=GREY, fontsize=9, **place, **beside)
