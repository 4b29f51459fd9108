"""Files as the tests of readers write them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from gradclip.analysis.reading import ReadError, read_series
from gradclip.analysis.series import Series


def record(step: int, norm: float | None = 0.5, status: str = "ok", **changes: Any) -> dict[str, Any]:
    """A record as ours are written: null for what is not finite."""
    after = norm if status == "ok" else 1.0 if status == "clipped" else None
    return {
        "step": step,
        "time": 1.7e9 + step,
        "status": status,
        "total_norm": norm,
        "total_norm_after": after,
        "threshold": 1.0,
        "coefficient": None if norm is None or after is None else after / norm,
        "policy": "FixedNorm(1.0)",
        "worst": [],
        "group": None,
        "lr": 0.125,
        "loss": 2.0 + step,
        "nonfinite": None,
        "norms": None,
        "alarms": [],
    } | changes


def write_lines(path: Path, entries: Iterable[object]) -> Path:
    """Write a file of JSON Lines; text goes in as it is."""
    lines = (entry if isinstance(entry, str) else json.dumps(entry) for entry in entries)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def refusal(path: Path, column: str | None = None) -> str:
    """What a reader says of a file that it refuses: one line, with the path first."""
    with pytest.raises(ReadError) as caught:
        read_series(path, column=column)
    message, line = str(caught.value), caught.value.line
    assert message.startswith(str(path)), message
    assert message.isprintable(), message
    assert line is None or f" {line}: " in message
    return message.removeprefix(str(path)).removeprefix(", ").removeprefix(": ")


def same(one: Series, other: Series) -> bool:
    """Whether two runs hold the same, NaN for NaN; the remarks aside."""
    for name in one.__dataclass_fields__:
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            if not (a.dtype == b.dtype and torch.equal(a.nan_to_num(-7.0), b.nan_to_num(-7.0))):
                return False
        elif name != "remarks" and repr(a) != repr(b):
            return False
    return True
