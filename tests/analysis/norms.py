"""Series of norms whose answers are known."""

import math
from typing import Any

import torch
from torch import Tensor

from gradclip.analysis.series import Series

INF, NAN = math.inf, math.nan


def lognormal(steps: int, sd: float = 0.3, *, seed: int = 0, memory: float = 0.0) -> Tensor:
    """Norms of median 1, each of which remembers the one before it."""
    noise = torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).tolist()
    level, levels = 0.0, []
    for x in noise:
        level = memory * level + math.sqrt(1.0 - memory**2) * x
        levels.append(level)
    return torch.tensor(levels, dtype=torch.float64).mul(sd).exp()


def series(norms: Tensor, **known: Any) -> Series:
    return Series("run", torch.arange(1, len(norms) + 1), norms, **known)


def constant(norms: Tensor, bound: float) -> Tensor:
    return torch.full_like(norms, bound)


def exploded(kind: str) -> Tensor:
    """Norms of runs that are lost: heavy tails, a level that is left for good, bursts that do not end."""
    norms = lognormal(400, 0.4, seed=5)
    if kind == "heavy tail":
        uniform = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        return uniform.pow(-1 / 0.8)
    if kind == "new level":
        norms[150:] *= 50.0
    if kind == "many spikes":
        norms[100::12] *= 500.0
    if kind == "growth":
        norms *= torch.linspace(0.0, 4.0, 400, dtype=torch.float64).exp()
    return norms
