"""What one policy did to the gradients of the run that all are shown."""

from itertools import count

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter

from plots.run import run
from plots.style import BLUE, INK, VERMILION, frame

ELSEWHERE = ("value", "block-rms", "agc", "adagc")
"""Policies whose bounds are not on the total norm."""


def draw(name: str) -> Figure:
    """Draw the total norm before and after a policy of the demo, and its bound."""
    seen = run()[name]
    figure = Figure(figsize=(7.5, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    frame(axes, "step", "total norm")
    axes.plot(range(1, len(seen.norms) + 1), seen.norms, color=INK, alpha=0.45, linewidth=1.0, label="before")
    taken = [norm if norm > 0.0 else float("nan") for norm in seen.after]
    axes.plot(range(1, len(taken) + 1), taken, color=BLUE, linewidth=1.2, label="after")
    if name not in ELSEWHERE and any(bound is not None for bound in seen.thresholds):
        axes.plot(range(1, len(taken) + 1), seen.thresholds, color=VERMILION, linestyle="--", label="bound")
    skipped = [(step, norm) for step, norm, after in zip(count(1), seen.norms, seen.after) if after == 0.0]
    if skipped:
        axes.scatter(*zip(*skipped, strict=True), color=VERMILION, marker="x", label="skipped", zorder=3)
    figure.legend(loc="outside upper right", ncols=4)
    return figure
