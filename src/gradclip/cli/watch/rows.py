"""Rows of a run: cut off, put together, and what their lines say beside."""

import json
import math
import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradclip.analysis.as_records import Worst
from gradclip.analysis.reading.names import UNNAMED
from gradclip.analysis.reading.text import plain
from gradclip.analysis.series import Series

COLUMNS = tuple(field.name for field in fields(Series) if "Tensor" in str(field.type))

WORST = re.compile(rb'"worst"\s*:\s*\[\s*\[')


def rows_from(run: Series, first: int) -> Series:
    """Return a run from a row on."""
    return _changed(run, lambda name: None if (column := getattr(run, name)) is None else column[first:])


def joined(run: Series, later: Series) -> Series:
    """Return a run and the rows after it; of a column that only one of both has, the rest is not known."""

    def column(name: str) -> Tensor | None:
        parts = [getattr(part, name) for part in (run, later)]
        known = next((part for part in parts if part is not None), None)
        if known is None:
            return None
        nothing = math.nan if known.is_floating_point() else 0
        return torch.cat(
            [
                known.new_full((len(rows),), nothing) if part is None else part
                for part, rows in zip(parts, (run, later), strict=True)
            ]
        )

    events = (*run.events, *later.events)
    return replace(_changed(run, column), policy=later.policy or run.policy, events=events)


def worst_in(path: Path, run: str | None = None) -> dict[int, Worst]:
    """Return what lines of our JSON Lines say of the parameters with the largest norms, by step: of a run, if named."""
    found: dict[int, Worst] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for place in [match.start() for match in WORST.finditer(data)]:
            start, end = data.rfind(b"\n", 0, place) + 1, data.find(b"\n", place)
            match _parsed(data[start : None if end < 0 else end]):
                case {"step": int(step), "worst": [*pairs], **more} if run in (
                    None,
                    more.get("run"),
                    more.get("group") or UNNAMED,
                ):
                    found[step] = tuple((plain(name), share) for pair in pairs for name, share in _share(pair))
    return found


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None  # which the readers refuse, or leave out


def _share(pair: Any) -> Iterator[tuple[str, float]]:
    match pair:
        case [str(name), int(share) | float(share)]:
            yield name, float(share)
        case [str(name), None]:
            yield name, math.nan


def _changed(run: Series, column: Callable[[str], Tensor | None]) -> Series:
    columns: dict[str, Any] = {name: column(name) for name in COLUMNS}
    return replace(run, **columns)
