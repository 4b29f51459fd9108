"""The picture: the cost of one call over the number of DTensors, and over the number of ranks."""

from collections.abc import Sequence
from pathlib import Path

from distributed_timing import Timing
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

COLORS = {"torch": "#D55E00", "gradclip": "#0072B2", "bare all_reduce": "#777777", "bare kernels": "#777777"}
"""Vermilion and blue of Okabe and Ito, and grey for the parts of ours."""

STYLES = {"bare all_reduce": ":", "bare kernels": "--"}
RANKS, MOST_DTENSORS = 2, 1000
"""What is held while the other goes along."""


def draw(timings: Sequence[Timing], path: Path, *, cores: int) -> None:
    """Draw times of small DTensors into a PNG file of 1200 pixels."""
    figure = Figure(figsize=(8.0, 4.0), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    held = max(x.dtensors for x in timings if x.dtensors <= MOST_DTENSORS)
    for name in COLORS:
        own = [timing for timing in timings if timing.provider == name]
        _line(left, [(x.dtensors, x) for x in own if x.ranks == RANKS], name)
        _line(right, [(x.ranks, x) for x in own if x.dtensors == held], name)
    _frame(left, sorted({x.dtensors for x in timings}), f"DTensors, on {RANKS} ranks")
    sizes = sorted({x.ranks for x in timings})
    _frame(right, sizes, f"ranks, {held:,} DTensors")
    left.set_ylabel("time of one call, ms")
    left.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    left.yaxis.set_minor_formatter(NullFormatter())
    if sizes[-1] > cores:
        right.axvline(cores, color="#BBBBBB", linewidth=1.0)
        text = f"more ranks than\nthe {cores} cores"
        at = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        right.annotate(text, (cores, 0.0), xytext=(5, 4), va="bottom", fontsize=8, color="#555555", **at)
    figure.suptitle("clip_grad_norm_ on DTensors of 256 elements, nothing clipped: median, 20 % to 80 %", fontsize=10.5)
    figure.savefig(path)


def _line(axes: Axes, points: list[tuple[int, Timing]], name: str) -> None:
    points.sort()
    x, color = [place for place, _ in points], COLORS[name]
    y = [timing.median_us / 1e3 for _, timing in points]
    axes.plot(x, y, STYLES.get(name, "-"), color=color, linewidth=1.6, marker="o", markersize=3.5)
    if name not in STYLES:
        low, high = ([getattr(timing, key) / 1e3 for _, timing in points] for key in ("p20_us", "p80_us"))
        axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
    at = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "color": color}
    axes.annotate(name, (x[-1], y[-1]), fontsize=9, weight="normal" if name in STYLES else "bold", **at)


def _frame(axes: Axes, places: list[int], label: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    span = places[-1] / places[0]
    axes.set_xlim(places[0] / span**0.06, places[-1] * span**0.42)  # room for the names of the lines
    axes.grid(visible=True, axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
