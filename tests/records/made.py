"""Records made by hand, and functions that other processes run."""

import math
import os
from typing import Any

from gradclip import ClipRecord
from gradclip.records import JSONLines

POLICY = "FixedNorm(max_norm=1.0)"


def record(step: int = 1, **fields: Any) -> ClipRecord:
    """A record of a step that was clipped from 4 to 1, but for what is given."""
    given: dict[str, Any] = {
        "time": 1.5e9 + step,
        "status": "clipped",
        "total_norm": 4.0,
        "total_norm_after": 1.0,
        "threshold": 1.0,
        "coefficient": 0.25,
        "policy": POLICY,
    }
    return ClipRecord(step, **{**given, **fields})


def wide(step: int, width: int) -> ClipRecord:
    """A record with many norms, some of them not finite: its line spans pages of memory."""
    norms = {f"blocks.{i}.weight": math.nan if i % 7 == 0 else step + i / width for i in range(width)}
    return record(step, norms=norms)


def write_for_ever(path: str, width: int) -> None:
    """Write records until something ends the process."""
    sink = JSONLines(path)
    step = 0
    while True:
        step += 1
        sink(wide(step, width))


def write_some(path: str, group: str, count: int) -> None:
    """Write records of a group."""
    sink = JSONLines(path)
    for step in range(1, count + 1):
        sink(record(step, group=group, norms={"x" * 20 * (step % 9): float(step)}))


def write_on_rank(path: str, ranks: Any) -> tuple[str, int]:
    """Write two records on a rank; return the path of the sink, and the rank that the environment claims."""
    sink = JSONLines(path, ranks=ranks)
    sink(record(1))
    sink(record(2))
    return str(sink.path), int(os.environ.get("RANK", "-1"))
