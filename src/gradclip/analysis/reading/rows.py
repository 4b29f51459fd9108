"""From columns as a format finds them to columns of numbers: once, and the same for every format."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple, final

import polars as pl

from gradclip.analysis.reading.error import listed, shown
from gradclip.analysis.reading.names import (
    CLIPPED,
    FLAGS,
    FOREIGN,
    NAMES,
    NO_STATUS,
    NUMBERS,
    OK,
    SKIPPED,
    STATUSES,
    UNNAMED,
    norms_among,
)
from gradclip.analysis.reading.source import Source
from gradclip.analysis.reading.text import MISSING, plain

AT_ONCE = 10_000
"""Entries that are rows at once."""

LARGEST_STEP = 2**63 - 1
"""The largest integer of 64 bits."""

PUT_RIGHT = "Put it right, or name another column with column= (on the command line: --column)."

NOT_LOGARITHM = "Name the column of the norm with column= (on the command line: --column), not that of its logarithm."


@final
class Chunk(NamedTuple):
    """Some rows as a format finds them.

    Attributes:
        lines: Where each is in the file.
        frame: What is read, by role: columns of numbers or of text, null for nothing.
        entry: From a row to its values as they are written, by the names of columns, for messages; None where the
            frame holds their text.
    """

    lines: Sequence[int] | pl.Series
    frame: pl.DataFrame
    entry: Callable[[int], Mapping[str, Any]] | None = None


def chunk_of(lines: Sequence[int], entries: Sequence[Mapping[str, Any]], source: Source) -> Chunk:
    """Return the rows of entries: values by the names of columns, and the places of these in the file."""
    columns = [_column(role, [entry.get(name) for entry in entries]) for role, name in source.fields.items()]
    return Chunk(lines, pl.DataFrame(columns), entries.__getitem__)


def chunks_of(found: Iterable[tuple[int, Mapping[str, Any]]], source: Source) -> Iterator[Chunk]:
    """Return the rows of places and the entries there, some at a time."""
    rest = iter(found)
    while some := list(islice(rest, AT_ONCE)):
        yield chunk_of([line for line, _ in some], [entry for _, entry in some], source)


def rows_of(chunk: Chunk, source: Source) -> pl.DataFrame:
    """Return the columns of a run: `line` and `norms`; and by what there is, `steps`, `status`, `NUMBERS` and `NAMES`.

    A norm is null where there is none, and NaN where a status says that there was one; a status is a place in
    `STATUSES`, `NO_STATUS` or `FOREIGN`.

    Raises:
        ReadError: If a norm or a step is not what it should be.
    """
    raw, lines = chunk.frame, pl.Series("line", chunk.lines, dtype=pl.Int64)
    if "metric" in raw:  # a row is a number and what it is of
        named = norms_among(raw["metric"].drop_nulls().unique().sort().to_list(), None)
        if len(named) > 1:
            source.refuse(f"several metrics may be the norm: {listed(named)}. Write one to a file of its own.")
        raw = raw.with_columns(pl.when(pl.col("metric").is_in(named)).then("norms"))
    norms = _numbers(raw["norms"])
    columns, kept = [lines], norms.is_not_null()
    refused = {f"a norm must be >= 0, got {{norm:.6g}}. {NOT_LOGARITHM}": ("norms", norms < 0.0)}
    if not raw["norms"].dtype.is_numeric():
        said_so = raw["norms"].str.strip_chars().str.to_lowercase().is_in(MISSING)
        refused[f"{{name}} must be a number, got {{value}}. {PUT_RIGHT}"] = ("norms", ~kept & ~said_so)
    if any(role in raw for role in ("status", *FLAGS)):
        columns.append(_statuses(raw).alias("status"))
        kept |= columns[-1] >= 0
    if "steps" in raw:
        columns.append(_whole(raw["steps"]))
        problem = "{name} must be the whole number of a step, got {value}. Put it right."
        refused[problem] = ("steps", kept & columns[-1].is_null())
    _check(refused, chunk, source)
    columns.append(norms.set(kept & norms.is_null(), float("nan")))
    columns += [_numbers(raw[role]) for role in NUMBERS if role in raw]
    if "group" in raw:
        raw = raw.with_columns(raw["group"].fill_null("").replace("", UNNAMED))
    columns += [raw[role].cast(pl.Categorical) for role in NAMES if role in raw]
    return raw.select(columns)


def _check(refused: Mapping[str, tuple[str, pl.Series]], chunk: Chunk, source: Source) -> None:
    """Raise for the first row that is refused, if one is: by problem, the column that has it, and in which rows."""
    first = [(rows.arg_max() or 0, role, problem) for problem, (role, rows) in refused.items() if rows.any()]
    if first:
        row, role, problem = min(first)
        name = source.fields[role]
        value = chunk.entry(row).get(name) if chunk.entry else chunk.frame[row, role] or ""
        norm = _numbers(chunk.frame["norms"])[row]
        source.refuse(problem.format(name=shown(name), value=shown(value), norm=norm), int(chunk.lines[row]))


def _column(role: str, values: Sequence[Any]) -> pl.Series:
    """Return values of any kind as numbers, where all are, or as text."""
    if role in NAMES:
        kept = (str, int) if role == "run" else (str,)
        values = [plain(str(value)) if type(value) in kept else None for value in values]
    elif role != "status" and bool not in map(type, values):
        with suppress(TypeError, OverflowError):
            return pl.Series(role, values, dtype=pl.Int64 if role == "steps" else pl.Float64)
    return pl.Series(role, list(map(_text, values)), dtype=pl.String)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else plain(value)
    try:
        return repr(value if isinstance(value, int) and abs(value) <= LARGEST_STEP else float(value))
    except (TypeError, OverflowError):
        return "neither text nor a number"


def _numbers(column: pl.Series) -> pl.Series:
    """Return numbers, null for what is none."""
    found = column.cast(pl.Float64, strict=False)
    if found.null_count() > column.null_count():
        found = column.str.strip_chars().cast(pl.Float64, strict=False)
    return found


def _whole(column: pl.Series) -> pl.Series:
    """Return whole numbers of 64 bits, whether they are written so or like 3.0; null for others."""
    if column.dtype.is_integer():
        return column
    is_text = column.dtype == pl.String
    column = column.str.strip_chars() if is_text else column
    real = column.cast(pl.Float64, strict=False)
    whole = real.set(real != real.floor(), None).cast(pl.Int64, strict=False)
    return column.cast(pl.Int64, strict=False).fill_null(whole) if is_text else whole


def _statuses(raw: pl.DataFrame) -> pl.Series:
    if "status" in raw:
        codes = {status: code for code, status in enumerate(STATUSES)} | {"": NO_STATUS, None: NO_STATUS}
        return raw["status"].replace_strict(codes, default=FOREIGN, return_dtype=pl.Int8)
    flags = raw.select(_numbers(raw[flag]).fill_nan(None) for flag in FLAGS if flag in raw)
    clipped, skipped = (pl.col(flag) if flag in raw else pl.lit(None, pl.Float64) for flag in FLAGS)
    code = pl.when(skipped > 0.0).then(SKIPPED).when(clipped > 0.0).then(CLIPPED)
    code = code.when(clipped.is_null() & skipped.is_null()).then(NO_STATUS).otherwise(OK)
    return flags.select(code.cast(pl.Int8)).to_series()
