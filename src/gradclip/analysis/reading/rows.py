"""From columns as a format finds them to columns of numbers: once, and the same for every format."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, final

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


@final
class Chunk(NamedTuple):
    """Some rows as a format finds them.

    Attributes:
        lines: Where each is in the file.
        frame: What is read, by role: columns of numbers or of text, null for nothing.
        value: From a row and the name of a column to the value as it is written, None for nothing; None where the
            frame holds the text of all.
    """

    lines: Sequence[int] | pl.Series
    frame: pl.DataFrame
    value: Callable[[int, str], Any] | None = None


def chunks_of(found: Iterable[tuple[int, Mapping[str, Any]]], source: Source) -> Iterator[Chunk]:
    """Return the rows of entries, some at a time: of their places in the file, and values by the names of columns."""
    rest = iter(found)
    while some := list(islice(rest, AT_ONCE)):
        lines, entries = zip(*some, strict=True)
        columns = [_column(role, [entry.get(name) for entry in entries]) for role, name in source.fields.items()]
        yield Chunk(lines, pl.DataFrame(columns), partial(_value, entries))


def _value(entries: Sequence[Mapping[str, Any]], row: int, name: str) -> Any:
    return entries[row].get(name)


def rows_of(chunk: Chunk, source: Source) -> pl.DataFrame:
    """Return the columns of a run: `line`, and those of `FIELDS` that there are, each of its kind.

    A norm is null where there is none, and NaN where a status says that there was one. Objects and lists go to
    `source.details`.

    Raises:
        ReadError: If a norm or a step is not what it should be.
    """
    raw = chunk.frame
    if raw["norms"].dtype == pl.String:  # the line of names comes again where a writer went on
        raw = raw.with_columns(norms=pl.col("norms").replace(source.fields["norms"], None))
    if "metric" in raw:  # a row is a number and what it is of
        named = norms_among(raw["metric"].drop_nulls().unique().sort().to_list())
        if len(named) > 1:
            source.refuse(f"several metrics may be the norm: {listed(named)}. Write one to a file of its own.")
        raw = raw.with_columns(pl.when(pl.col("metric").is_in(named)).then("norms")).drop("metric")
    rows = pl.DataFrame([READ[kind](column) for column in raw if (kind := FIELDS[column.name].kind) in READ])
    if "status" not in rows and any(flag in rows for flag in FLAGS):
        rows = rows.with_columns(status=_status(rows).cast(pl.Categorical))
    rows = rows.with_columns(pl.Series("line", chunk.lines, dtype=pl.Int64))
    had_norm = rows["norms"].is_not_null()
    if "status" in rows:
        had_norm |= rows["status"].is_in(STATUSES).fill_null(value=False)
    _check(rows, raw, had_norm, chunk, source)
    if chunk.value is not None:
        lines, value = rows["line"].to_list(), chunk.value
        for role in (role for role in raw.columns if FIELDS[role].kind not in READ):
            told = (~raw[role].is_in(NOTHING)).fill_null(value=False).arg_true().to_list()
            source.details.add(role, told, lines, lambda row, name=source.fields[role]: value(row, name))
    return rows.with_columns(rows["norms"].set(had_norm & rows["norms"].is_null(), math.nan))


def _check(rows: pl.DataFrame, raw: pl.DataFrame, had_norm: pl.Series, chunk: Chunk, source: Source) -> None:
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
        value = chunk.value(row, name) if chunk.value else raw[row, role] or ""
        source.refuse(problem.format(name=shown(name), value=shown(value), norm=norms[row]), rows["line"][row])


def _column(role: str, values: Sequence[Any]) -> pl.Series:
    """Return values of any kind as numbers, where numbers are read and all are, or as text."""
    dtype = NUMBERS.get(FIELDS[role].kind)
    if dtype is not None and {*map(type, values)} <= {int, float, type(None)}:
        with suppress(TypeError, OverflowError):
            return pl.Series(role, values, dtype=dtype)
    return pl.Series(role, [None if value is None else written(value) for value in values], dtype=pl.String)


def written(value: Any) -> str:
    """Return a value of any kind as text: a number as all its digits, what is neither as a word, unless it is empty."""
    if isinstance(value, str):
        return value if value.isascii() else plain(value)
    is_number = type(value) is int and abs(value) <= sys.float_info.max
    return str(value) if is_number or value in ([], {}) else shown(value)


def _number(column: pl.Series) -> pl.Series:
    """Return numbers, null for what is none."""
    found = column.cast(pl.Float64, strict=False)
    if found.null_count() > column.null_count():
        found = column.str.strip_chars().cast(pl.Float64, strict=False)
    return found


def _whole(column: pl.Series) -> pl.Series:
    """Return whole numbers of 64 bits, whether they are written so, like 3.0, or like 3/100; null for others."""
    if column.dtype.is_integer():
        return column
    if not column.dtype.is_float():
        column = column.str.replace(OF_ALL, "")
    real = _number(column)
    whole = real.set(real != real.floor(), None).cast(pl.Int64, strict=False)
    return whole if column.dtype.is_float() else column.str.strip_chars().cast(pl.Int64, strict=False).fill_null(whole)


def _name(column: pl.Series) -> pl.Series:
    """Return text, null for nothing; the records of a group may leave it out."""
    names = column.replace("", None)
    return (names.fill_null(UNNAMED) if column.name == "group" else names).cast(pl.Categorical)


NOTHING = ("[]", "{}")
"""Lists and objects with nothing in them, as our records have on most lines: it would take long to look into each."""

READ = {float: _number, int: _whole, str: _name}
"""How a column of a kind is read; objects and lists are looked into one by one."""


def _status(rows: pl.DataFrame) -> pl.Expr:
    """Return the status of rows that have but numbers for it."""
    clipped, skipped = (pl.col(flag).fill_nan(None) if flag in rows else pl.lit(None, pl.Float64) for flag in FLAGS)
    known = pl.when(clipped.is_not_null() | skipped.is_not_null()).then(pl.lit("ok"))
    return pl.when(skipped > 0.0).then(pl.lit("skipped")).when(clipped > 0.0).then(pl.lit("clipped")).otherwise(known)
