"""The oracle of the policies: each rule as its paper gives it, in plain float64 loops, and never from `src`.

An adaptive rule takes the norms of a whole run and returns what it decided at each step. Nothing here is repaired: what
is not finite goes into the statistics, and nothing unlocks.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Vector = list[float]
Rows = list[list[float]]


class Step(NamedTuple):
    """What a rule decided: the bound it held the norm against, and what it multiplied the gradient by."""

    threshold: float
    coef: float


def _step(norm: float, threshold: float, eps: float = 1e-6) -> Step:
    return Step(threshold, threshold / (norm + eps) if norm > threshold else 1.0)


# Rules without a memory.


def fixed_norm(norm: float, max_norm: float, eps: float = 1e-6) -> float:
    """Pascanu 2013, algorithm 1, with the eps of torch: the coefficient."""
    return min(1.0, max_norm / (norm + eps))


def fixed_value(gradient: Vector, clip_value: float) -> Vector:
    """Mikolov 2012: every element within the bound."""
    return [max(-clip_value, min(clip_value, x)) for x in gradient]


def block_rms(gradient: Vector, threshold: float) -> Vector:
    """Shazeer and Stern 2018, section 6: u / max(1, RMS(u) / d)."""
    rms = math.sqrt(math.fsum(x * x for x in gradient) / len(gradient))
    return [x / max(1.0, rms / threshold) for x in gradient]


def agc(gradient: Rows, weights: Rows, clip_factor: float = 0.01, eps: float = 1e-3) -> Rows:
    """Brock 2021, equation 3: each row of the gradient is held against the same row of the weights."""
    clipped: Rows = []
    for g_i, w_i in zip(gradient, weights, strict=True):
        g_norm = math.sqrt(math.fsum(x * x for x in g_i))
        w_norm = max(math.sqrt(math.fsum(x * x for x in w_i)), eps)
        above = g_norm / w_norm > clip_factor
        clipped.append([clip_factor * w_norm / g_norm * x for x in g_i] if above else list(g_i))
    return clipped


Weights = dict[str, Tensor]


def agc_of(
    gradients: Weights,
    weights: Weights,
    *,
    clip_factor: float,
    eps: float,
    p: float = 2.0,
    reduced: tuple[int, ...] | None = None,
    per: str = "unit",
    min_ndim: int = 0,
) -> Weights:
    """The same rule for units cut along any dimensions, norms of any order, and larger groups: element by element.

    An element belongs to the unit of its parameter that has its indices in the dimensions that are not reduced.
    """

    def group_of(name: str, at: tuple[int, ...]) -> tuple[object, ...]:
        if per == "unit":
            if len(at) < 2:
                return (name,)
            gone = range(1, len(at)) if reduced is None else [dim % len(at) for dim in reduced if dim < len(at)]
            return (name, *(i for dim, i in enumerate(at) if dim not in gone))
        return {"parameter": (name,), "layer": (name.rpartition(".")[0],), "total": ()}[per]

    def norms(of: Weights) -> dict[tuple[object, ...], float]:
        elements: dict[tuple[object, ...], list[float]] = {}
        for name, x in of.items():
            if name in gradients and x.ndim >= min_ndim:
                for at in itertools.product(*map(range, x.shape)):
                    elements.setdefault(group_of(name, at), []).append(abs(x[at].item()))
        if p == math.inf:
            return {group: max(found) for group, found in elements.items()}
        return {group: math.fsum(x**p for x in found) ** (1.0 / p) for group, found in elements.items()}

    n, w = norms(gradients), norms(weights)
    clipped = {name: x.to(torch.float64) for name, x in gradients.items()}
    for name, x in clipped.items():
        if x.ndim >= min_ndim:
            for at in itertools.product(*map(range, x.shape)):
                group = group_of(name, at)
                bound = clip_factor * max(w[group], eps)
                if n[group] > bound:
                    x[at] *= bound / n[group]
    return clipped


def smooth_norm(norm: float, c: float, kind: str) -> float:
    """The coefficients of Zhang 2020 (rational), SPECTRA 2026 (sqrt) and of the hyperbolic tangent."""
    if kind == "rational":
        return c / (norm + c)
    if kind == "sqrt":
        return 1.0 / math.sqrt(1.0 + (norm / c) ** 2)
    return c / norm * math.tanh(norm / c)


def normalize(norm: float, gamma: float = 0.01) -> float:
    """Bu 2022, section 4: the coefficient 1 / (n + gamma)."""
    return 1.0 / (norm + gamma)


# Rules that learn.


def zclip(
    norms: Sequence[float], *, z_threshold: float = 2.5, alpha: float = 0.97, warmup: int = 25, eps: float = 1e-6
) -> list[Step]:
    """Kumar 2025, algorithm 1: warm-up statistics, then moving averages of what was let through."""
    mean = var = 0.0
    steps: list[Step] = []
    for t, n in enumerate(norms):
        if t == warmup:
            mean = math.fsum(norms[:warmup]) / warmup
            var = math.fsum((x - mean) ** 2 for x in norms[:warmup]) / warmup
        threshold = math.inf
        if t >= warmup:
            sd = math.sqrt(var)
            z = (n - mean) / (sd + eps)
            if z > z_threshold:
                threshold = mean + (z_threshold * sd) / (z / z_threshold)
            through = min(n, threshold)
            mean = alpha * mean + (1.0 - alpha) * through
            var = alpha * var + (1.0 - alpha) * (through - mean) ** 2
        steps.append(_step(n, threshold))
    return steps


def adagc(
    norms: Sequence[Sequence[float]],
    *,
    lambda_abs: float = 1.0,
    lambda_rel: float = 1.05,
    beta: float = 0.98,
    warmup: int = 100,
    eps: float = 1e-8,
) -> list[Vector]:
    """Wang 2025, algorithm 1: the coefficient of each parameter at each step."""
    gamma = [math.inf] * len(norms[0])
    coefs: list[Vector] = []
    for t, each in enumerate(norms):
        if t < warmup:
            total = math.sqrt(math.fsum(n * n for n in each))
            h = [min(1.0, lambda_abs / (total + eps))] * len(each)
            gamma = [min(g, h_i * n) for g, h_i, n in zip(gamma, h, each, strict=True)]
        else:
            h = [min(1.0, lambda_rel * max(g, eps) / max(n, eps)) for g, n in zip(gamma, each, strict=True)]
            gamma = [beta * g + (1.0 - beta) * h_i * n for g, h_i, n in zip(gamma, h, each, strict=True)]
        coefs.append(h)
    return coefs


def autoclip(norms: Sequence[float], *, percentile: float = 10.0) -> list[Step]:
    """Seetharaman 2020, section 3: the percentile of all norms so far, this one among them."""
    return [_step(n, quantile(norms[: t + 1], percentile / 100.0)) for t, n in enumerate(norms)]


def quantile_clip(norms: Sequence[float], *, q: float = 0.9, window: int = 1000) -> list[Step]:
    """The windowed rule: the quantile of the last norms, this one not among them."""
    return [_step(n, quantile(norms[max(0, t - window) : t], q) if t else math.inf) for t, n in enumerate(norms)]


def median_clip(norms: Sequence[float], *, scale: float = 2.0, window: int = 100, warmup: int = 10) -> list[Step]:
    """A multiple of the median of the norms before this one."""
    return [
        _step(n, scale * quantile(norms[max(0, t - window) : t], 0.5) if t >= warmup else math.inf)
        for t, n in enumerate(norms)
    ]


def spike_skip(
    norms: Sequence[float],
    losses: Sequence[float] | None = None,
    *,
    sigmas: float = 6.0,
    window: int = 128,
    warmup: int = 63,
) -> list[bool]:
    """The rule of OLMo-core: whether each step, from the 64th, is skipped; skipped ones stay in the window."""

    def is_spike(series: Sequence[float], t: int) -> bool:
        seen = series[max(0, t - window) : t]
        mean = math.fsum(seen) / len(seen)
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in seen) / (len(seen) - 1))
        return not series[t] - mean <= sigmas * deviation  # a NaN is one

    given = [norms] if losses is None else [norms, losses]
    return [t >= warmup and any(is_spike(series, t) for series in given) for t in range(len(norms))]


def quantile(numbers: Sequence[float], q: float) -> float:
    """The q-quantile, interpolated linearly between the two nearest."""
    ordered = sorted(numbers)
    place = (len(ordered) - 1) * q
    below = math.floor(place)
    above = math.ceil(place)
    return ordered[below] * (1.0 - (place - below)) + ordered[above] * (place - below)
