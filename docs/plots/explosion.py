"""Where huge gradients come from: products of many factors, and walls in the loss that they make."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plots.style import BLUE, GREEN, VERMILION, frame

UNITS, STEPS = 100, 60

RADII = {0.85: GREEN, 1.0: BLUE, 1.15: VERMILION}
"""Spectral radii of a recurrent weight, and the colour of each."""

TIMES, START, BIAS, TARGET = 50, 0.5, -2.2, 0.7
"""One unit that feeds itself so often, from where, with what bias, and what it should end at."""


def draw() -> Figure:
    """Draw the norm of a gradient on its way back through time, and the loss along one weight."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _products(left)
    _wall(right)
    return figure


def _products(axes: Axes) -> None:
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(UNITS, UNITS, generator=generator, dtype=torch.float64)
    random /= torch.linalg.eigvals(random).abs().max()
    back = torch.randn(UNITS, generator=generator, dtype=torch.float64)
    back /= back.norm()
    axes.set_yscale("log")
    frame(axes, "steps back in time", "norm of the gradient")
    for radius, color in RADII.items():
        gradient, norms = back, []
        for _ in range(STEPS):
            norms.append(gradient.norm().item())
            gradient = radius * random.T @ gradient
        axes.plot(norms, color=color, label=f"radius {radius:g}")
    axes.legend(loc="upper left")


def _wall(axes: Axes) -> None:
    weight = torch.linspace(2.0, 8.0, 2001, dtype=torch.float64, requires_grad=True)
    state = torch.full_like(weight, START)
    for _ in range(TIMES):
        state = torch.sigmoid(weight * state + BIAS)
    loss = (state - TARGET).square()
    (slope,) = torch.autograd.grad(loss.sum(), weight)
    frame(axes, "recurrent weight", "")
    axes.plot(weight.detach(), loss.detach(), color=BLUE, label="loss")
    axes.plot(weight.detach(), slope.abs(), color=VERMILION, label="size of its gradient")
    axes.set_yscale("log")
    axes.set_ylim(1e-6, None)
    axes.legend(loc="lower right")
