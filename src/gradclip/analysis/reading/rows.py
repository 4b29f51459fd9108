"""From columns as a format finds them to columns of numbers: once, and the same for every format."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

import polars as pl

from gradclip.analysis.reading.error import listed, plain, shown
from gradclip.analysis.reading.names import FIELDS, FLAGS, STATUSES, UNNAMED, norms_among
from gradclip.analysis.reading.source import Source

AT_ONCE = 10_000
"""Entries that are rows at once."""

MISSING = r"(?i)^(:?-+:?|none|null|n/a|na|<na>|#n/a|)$"
"""What stands for no number, as also below the names of columns in Markdown."""

OF_ALL = r"\s*/\s*\d+\s*$"
"""What may follow a step: how many there are to be."""

NUMBERS: dict[type, Any] = {int: pl.Int64, float: pl.Float64}

UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises where a file is not as it reads them."""

PUT_RIGHT = "Put it right, or name another column with column= (on the command line: --column)."

NOT_LOGARITHM = "Name the column of the norm with column= (on the command line: --column), not that of its logarithm."


def found_in(entries: Iterable[tuple[int, Mapping[str, Any]]], source: Source) -> Iterator[pl.DataFrame]:
    """Return what is read from entries, some at a time: of their places in the file, and values by names of columns."""
    rest = iter(entries)
    while some := list(islice(rest, AT_ONCE)):
        columns = [_column(role, [entry.get(name) for _, entry in some]) for role, name in source.fields.items()]
        yield pl.DataFrame([pl.Series("line", [line for line, _ in some]), *columns])


def rows_of(raw: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Return the columns of a run: `line`, and those of `FIELDS` that there are, each of its kind.

    A norm is null where there is none, and NaN where a status says that there was one. Objects and lists go to
    `source.details`.

    Args:
        raw: Some rows as a format finds them: `line`, which is where each is in the file, and by role what is read,
            as numbers or as text, with JSON for objects and lists; null for nothing.
        source: The run.

    Raises:
        ReadError: If a norm or a step is not what it should be.
    """
    if raw["norms"].dtype == pl.String:  # the line of names comes again where a writer went on
        raw = raw.with_columns(norms=pl.col("norms").replace(source.fields["norms"], None))
    if "metric" in raw:  # a row is a number and what it is of
        named = norms_among(raw["metric"].drop_nulls().unique().sort().to_list())
        if len(named) > 1:
            source.refuse(f"several metrics may be the norm: {listed(named)}. Write one to a file of its own.")
        raw = raw.with_columns(pl.when(pl.col("metric").is_in(named)).then("norms")).drop("metric")
    rows = raw.select(
        pl.col("line").cast(pl.Int64),
        *(READ[kind](raw[role]) for role in raw.columns[1:] if (kind := FIELDS[role].kind) in READ),
    )
    if "status" not in rows and any(flag in rows for flag in FLAGS):
        rows = rows.with_columns(status=_status(rows).cast(pl.Categorical))
    had_norm = rows["norms"].is_not_null()
    if "status" in rows:
        had_norm |= rows["status"].is_in(STATUSES).fill_null(value=False)
    _check(rows, raw, had_norm, source)
    for role in raw.columns:
        if role not in rows:
            texts = dict(pl.DataFrame([rows["line"], raw[role]]).filter(~pl.col(role).is_in(NOTHING)).iter_rows())
            source.details[role].add(list(texts), lambda line, texts=texts: _parsed(texts[line]))
    return rows.with_columns(rows["norms"].set(had_norm & rows["norms"].is_null(), math.nan))


def _check(rows: pl.DataFrame, raw: pl.DataFrame, had_norm: pl.Series, source: Source) -> None:
    """Raise for the first row that is refused, if one is."""
    norms, unread = rows["norms"], rows["norms"].is_null() & raw["norms"].is_not_null()
    if unread.any():
        unread &= ~raw["norms"].str.strip_chars().str.contains(MISSING)
    refused = [
        ("norms", norms < 0.0, f"a norm must be >= 0, got {{norm:.6g}}. {NOT_LOGARITHM}"),
        ("norms", unread, f"{{name}} must be a number, got {{value}}. {PUT_RIGHT}"),
    ]
    if "steps" in rows:
        problem = "{name} must be the whole number of a step, got {value}. Put it right."
        refused.append(("steps", had_norm & rows["steps"].is_null(), problem))
    first = [(found.arg_max() or 0, role, problem) for role, found, problem in refused if found.any()]
    if first:
        row, role, problem = min(first)
        name = source.fields[role]
        value = shown(str(raw[row, role])) if raw[row, role] else "nothing"
        source.refuse(problem.format(name=shown(name), value=value, norm=norms[row]), rows["line"][row])


def _column(role: str, values: Sequence[Any]) -> pl.Series:
    """Return values of any kind as numbers, where numbers are read and all are, or as text."""
    dtype = NUMBERS.get(FIELDS[role].kind)
    if dtype is not None and {*map(type, values)} <= {int, float, type(None)}:
        with suppress(TypeError, OverflowError):
            return pl.Series(role, values, dtype=dtype)
    return pl.Series(role, [None if value is None else written(value) for value in values], dtype=pl.String)


def written(value: Any) -> str:
    """Return a value of any kind as text: what is none as JSON."""
    if isinstance(value, str):
        return value if value.isascii() else plain(value)
    with suppress(RecursionError, ValueError):  # of lists within lists, and of numbers of thousands of digits
        return json.dumps(value, default=str, skipkeys=True)
    return "..."


def _parsed(text: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return None


def _number(column: pl.Series) -> pl.Series:
    """Return numbers, null for what is none."""
    return (column.str.strip_chars() if column.dtype == pl.String else column).cast(pl.Float64, strict=False)


def _whole(column: pl.Series) -> pl.Series:
    """Return whole numbers of 64 bits, whether they are written so, like 3.0, or like 3/100; null for others."""
    text = column.str.replace(OF_ALL, "").str.strip_chars() if column.dtype == pl.String else column
    real = _number(text)
    whole = text.cast(pl.Int64, strict=False).fill_null(real.cast(pl.Int64, strict=False))
    return whole.set(real != real.floor(), None)


def _name(column: pl.Series) -> pl.Series:
    """Return text, null for nothing; the records of a group may leave it out."""
    names = column.replace("", None)
    return (names.fill_null(UNNAMED) if column.name == "group" else names).cast(pl.Categorical)


NOTHING = ("[]", "{}")
"""Lists and objects with nothing in them, as our records have on most lines."""

READ = {float: _number, int: _whole, str: _name}
"""How a column of a kind is read; objects and lists are kept as text."""


def _status(rows: pl.DataFrame) -> pl.Expr:
    """Return the status of rows that have but numbers for it."""
    clipped, skipped = (pl.col(flag).fill_nan(None) if flag in rows else pl.lit(None, pl.Float64) for flag in FLAGS)
    known = pl.when(clipped.is_not_null() | skipped.is_not_null()).then(pl.lit("ok"))
    return pl.when(skipped > 0.0).then(pl.lit("skipped")).when(clipped > 0.0).then(pl.lit("clipped")).otherwise(known)
