"""Runs for reports: made records, kept as plain Python so that tests compute from them what pages should say."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradclip.cli.report import report

TENSORS = ("embedding.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.bias_ih_l0", "decoder.weight")

BOUND = 1.0

SPIKES = {700: 180.0, 701: 40.0, 1500: 321.0}
"""Steps that no chart may lose."""


def training(steps: int = 2000, *, seed: int = 0, bound: float | None = BOUND, every: int = 10) -> list[dict[str, Any]]:
    """Records of a run that clips now and then, has spikes, and skips each step that 331 divides."""
    draw = random.Random(seed)
    return [_record(step, draw, bound, every) for step in range(1, steps + 1)]


def _record(step: int, draw: random.Random, bound: float | None, every: int) -> dict[str, Any]:
    norm = SPIKES.get(step, 0.5 * math.exp(draw.gauss(0.0, 0.35)))
    broken = step % 331 == 0
    clipped = bound is not None and norm > bound and not broken
    parts = [(1.0 + i) * math.exp(draw.gauss(0.0, 0.2)) for i in range(len(TENSORS))]
    scale = norm / math.sqrt(sum(part * part for part in parts))
    return {
        "step": step,
        "time": 1.7e9 + step,
        "status": "skipped_nonfinite" if broken else "clipped" if clipped else "ok",
        "total_norm": None if broken else norm,
        "total_norm_after": None if broken else bound if clipped else norm,
        "threshold": bound,
        "coefficient": None if broken else bound / norm if bound is not None and clipped else 1.0,
        "policy": f"FixedNorm(max_norm={bound})",
        "group": None,
        "lr": 0.1,
        "loss": 1.0 + 2.0 * math.exp(-step / 500) + draw.gauss(0.0, 0.02),
        "nonfinite": {TENSORS[1]: [3, 0], TENSORS[4]: [0, 7]} if broken else None,
        "worst": [],
        "norms": {name: scale * part for name, part in zip(TENSORS, parts, strict=True)}
        if every and step % every == 0 and not broken
        else None,
        "alarms": [],
    }


def write(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    """Write records as JSON Lines."""
    path.write_text("".join(json.dumps(record, allow_nan=False) + "\n" for record in records), "utf-8")
    return path


def reported(run: Path, out: Path, *others: Path) -> str:
    """Write a report and return its source."""
    report(run, out=out, compare=list(others), force=True)
    return out.read_text("utf-8")


def norms_of(records: Sequence[dict[str, Any]]) -> list[float]:
    """The finite norms."""
    return [record["total_norm"] for record in records if record["total_norm"] is not None]


def middle(values: Sequence[float], q: float) -> float:
    """A quantile, interpolated linearly."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * q
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
