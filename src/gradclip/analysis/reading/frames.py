"""Rows from frames of polars: the quick way, for lines that hold what is usual there."""

from __future__ import annotations

from os import PathLike
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.names import Fields
from gradclip.analysis.reading.rows import (
    CLIPPED,
    FLAGS,
    FOREIGN,
    NO_STATUS,
    NUMBERS,
    OK,
    SKIPPED,
    STATUSES,
    Rows,
    has_status,
)
from gradclip.analysis.reading.text import LARGEST_STEP, MISSING
from gradclip.extras import how_to_install

if TYPE_CHECKING:
    import polars as pl


def polars(path: str | PathLike[str]) -> ModuleType:
    """Return the package.

    Raises:
        ReadError: If it is not installed.
    """
    try:
        import polars as pl  # noqa: PLC0415 -- only tables and JSON Lines need it
    except ImportError as error:
        raise ReadError(path, f"reading it needs polars: {how_to_install('report')}") from error
    return pl


def from_text(frame: pl.DataFrame, fields: Fields) -> pl.DataFrame | None:
    """Return a frame of text with its numbers as such; None where a norm or a step is neither one nor missing."""
    import polars as pl  # noqa: PLC0415

    columns: list[pl.Series] = []
    for role, name in fields.items():
        text = frame[name]
        if role in ("norms", "steps", *NUMBERS, *FLAGS):
            text = text.str.strip_chars()
            found = text.cast(pl.Float64, strict=False)
            if role in ("norms", "steps") and not text.filter(found.is_null()).str.to_lowercase().is_in(MISSING).all():
                return None
            exact = text.cast(pl.Int64, strict=False) if role == "steps" else found
            columns.append(found if exact.null_count() else exact)
        else:
            columns.append(text)
    return pl.DataFrame(columns)


def rows_from(frame: pl.DataFrame, fields: Fields, line: int) -> Rows | None:
    """Return the rows of a frame, one row a line; None where a step is not what it should be.

    Args:
        frame: Its columns have the names of the fields: norms and other numbers are Float64, where null is no number;
            steps Int64 or Float64; the rest is text.
        fields: What is read.
        line: The line of the first row.
    """
    lines = torch.arange(line, line + frame.height)
    statuses = _statuses(frame, fields)
    kept = frame[fields["norms"]].is_not_null()
    if statuses is not None:
        kept |= statuses >= 0
    left_out = int((~kept).sum())
    if left_out:
        frame, lines = frame.filter(kept), lines[kept.to_torch()]
        statuses = None if statuses is None else statuses.filter(kept)
    steps = None
    if "steps" in fields and (steps := _whole(frame[fields["steps"]])) is None:
        return None
    return Rows(
        lines=lines,
        norms=_numbers(frame[fields["norms"]]),
        steps=steps,
        numbers={role: _numbers(frame[fields[role]]) for role in NUMBERS if role in fields},
        statuses=None if statuses is None else statuses.to_torch(),
        policies=_changes(frame[fields["policy"]]) if "policy" in fields else [],
        groups={name or None for name in frame[fields["group"]].unique()} if "group" in fields else set(),
        runs={str(name) for name in frame[fields["run"]].unique() if name is not None} if "run" in fields else set(),
        left_out=left_out,
    )


def _statuses(frame: pl.DataFrame, fields: Fields) -> pl.Series | None:
    """Return the places of the statuses in `STATUSES`."""
    import polars as pl  # noqa: PLC0415

    if "status" in fields:
        codes: dict[str | None, int] = {status: code for code, status in enumerate(STATUSES)}
        codes |= {"": NO_STATUS, None: NO_STATUS}
        return frame[fields["status"]].replace_strict(codes, default=FOREIGN, return_dtype=pl.Int8)
    if not has_status(fields):
        return None
    clipped, skipped = (
        pl.col(fields[role]).fill_nan(None) if role in fields else pl.lit(None, pl.Float64) for role in FLAGS
    )
    code = pl.when(skipped > 0.0).then(SKIPPED).when(clipped > 0.0).then(CLIPPED)
    code = code.when(clipped.is_null() & skipped.is_null()).then(NO_STATUS).otherwise(OK)
    return frame.select(code.cast(pl.Int8)).to_series()


def _numbers(column: pl.Series) -> torch.Tensor:
    return column.fill_null(float("nan")).to_torch()


def _whole(column: pl.Series) -> torch.Tensor | None:
    if column.null_count():
        return None
    if column.dtype.is_float():
        # Of floats as large as this, not all are below it.
        if not ((column.floor() == column) & (column.abs() < float(LARGEST_STEP))).all():
            return None
        column = column.cast(int)
    return column.to_torch()


def _changes(column: pl.Series) -> list[tuple[int, Any]]:
    """Return the rows whose text is not that of the row before, and the text."""
    places = column.ne_missing(column.shift(1)).arg_true()
    return [(place, text) for place, text in zip(places, column.gather(places), strict=True) if text is not None]
