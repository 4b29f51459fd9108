"""Recorded runs as files, as training writes them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch


def lognormal(steps: int, *, seed: int = 0) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, dtype=torch.float64, generator=generator).mul(0.3).exp().tolist()


def write(
    path: Path,
    norms: Sequence[float],
    *,
    bound: float | None = None,
    losses: Sequence[float] | None = None,
    each: Mapping[int, Mapping[str, float]] | None = None,
) -> Path:
    """Write a file of JSON Lines: one record a step, null for what is not finite."""
    lines: list[str] = []
    for step, norm in enumerate(norms, start=1):
        known = math.isfinite(norm)
        clipped = known and bound is not None and norm > bound
        record = {
            "step": step,
            "time": 1.7e9 + step,
            "status": "clipped" if clipped else "ok" if known else "skipped_nonfinite",
            "total_norm": norm if known else None,
            "threshold": bound if known else None,
            "loss": None if losses is None else losses[step - 1],
            "norms": None if each is None else each.get(step),
            "policy": f"FixedNorm(max_norm={bound})",
        }
        lines.append(json.dumps(record, allow_nan=False) + "\n")
    path.write_text("".join(lines), "utf-8")
    return path
