"""The curves of a run at the finest detail that the page has room for.

A column holds one number a step; of a run too long for that, it holds the smallest, the median and the largest of every
few steps, so that no spike is lost. The page does the same again for what it shows: one such triple a pixel.
"""

import math
from typing import Any

import torch
from torch import Tensor

from gradclip.cli.report.pack import changed, differences, pack
from gradclip.cli.report.runs import Run

MOST_STEPS = 2_000_000
"""Steps whose numbers are kept apart, in all runs together."""

MOST_BYTES = 8_500_000
"""Size of all curves together: what they and the plotting library come to stays below 12 MB."""

MOST_LOSSES = 100_000
"""Losses of a run that are kept apart."""


def columns_of(runs: list[Run], *, most_bytes: int = MOST_BYTES) -> list[dict[str, Any]]:
    """Return the curves of runs for the page, in as much detail as fits.

    Args:
        runs: The runs.
        most_bytes: How large they may become together.
    """
    bucket = 1
    while sum(len(run.series) for run in runs) > MOST_STEPS * bucket:
        bucket *= 4
    while True:
        packed = [_columns(run, bucket) for run in runs]
        size = sum(len(part) for run in packed for part in _texts(run))
        if size <= most_bytes or all(len(run.series) <= bucket for run in runs):
            return packed
        bucket *= 4  # twice would be no smaller: three numbers for every two


def axis(steps: Tensor, bucket: int) -> dict[str, Any]:
    """Return what curves have in common: the first step of each bucket, and the last step of all.

    Args:
        steps: The numbers of the steps, of shape (n,).
        bucket: How many of them stand together; the buckets of the curves are multiples of it.
    """
    last = int(steps[-1]) if len(steps) else 0
    return {"count": len(steps), "last": last, "bucket": bucket, "steps": pack(differences(steps[::bucket]))}


def column(values: Tensor, bucket: int, like: Tensor | None = None) -> dict[str, Any]:
    """Return one curve.

    Args:
        values: The numbers; those that are not finite become gaps.
        bucket: How many steps become one triple; 1 keeps each.
        like: Another curve that this one mostly equals. The page has to have it in the same buckets.
    """
    parts = {"mid": _single(values)} if bucket == 1 else _triples(values, bucket)
    if like is None:
        return {"bucket": bucket, **{name: pack(part) for name, part in parts.items()}}
    others = {"mid": _single(like)} if bucket == 1 else _triples(like, bucket)
    return {"bucket": bucket, "like": True, **{name: pack(changed(part, others[name])) for name, part in parts.items()}}


def _columns(run: Run, bucket: int) -> dict[str, Any]:
    series = run.series
    packed = {**axis(series.steps, bucket), "before": column(series.norms, bucket)}
    if series.norms_after is not None and bool(series.norms_after.isfinite().any()):
        packed["after"] = column(series.norms_after, bucket, like=series.norms)
    if series.thresholds is not None and bool(series.thresholds.isfinite().any()):
        packed["threshold"] = column(series.thresholds, bucket)
    if series.losses is not None and bool(series.losses.isfinite().any()):
        packed["loss"] = column(series.losses, bucket * max(1, math.ceil(len(series) / bucket / MOST_LOSSES)))
    return packed


def _texts(packed: dict[str, Any]) -> list[str]:
    parts = [part for value in packed.values() if isinstance(value, dict) for part in value.values()]
    return [part for part in (*packed.values(), *parts) if isinstance(part, str)]


def _single(values: Tensor) -> Tensor:
    """Return float32 numbers: NaN where one is not finite, the nearest that float32 has where it is too large."""
    limits = torch.finfo(torch.float32)
    fitting = values.to(torch.float64).clamp(limits.min, limits.max)
    return torch.where(values.isfinite(), fitting, math.nan).to(torch.float32)


def _triples(values: Tensor, bucket: int) -> dict[str, Tensor]:
    single = _single(values)
    short = -len(single) % bucket
    rows = torch.cat([single, single.new_full((short,), math.nan)]).reshape(-1, bucket)
    known = rows.isfinite()
    some = known.any(1)
    lowest = rows.masked_fill(~known, math.inf).amin(1)
    highest = rows.masked_fill(~known, -math.inf).amax(1)
    return {
        "low": torch.where(some, lowest, math.nan),
        "mid": rows.nanmedian(1).values,
        "high": torch.where(some, highest, math.nan),
    }
