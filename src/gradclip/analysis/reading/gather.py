"""From the rows of a file to a run: which of them count, and what a reader should know about the rest."""

import math
from collections.abc import Callable, Iterator
from os import fspath
from pathlib import Path

import polars as pl
from torch import Tensor

from gradclip.analysis.reading.details import Thinned, Values
from gradclip.analysis.reading.error import NoNormError, listed
from gradclip.analysis.reading.events import read_events
from gradclip.analysis.reading.jsonl import read_jsonl
from gradclip.analysis.reading.kinds import Kind, files_of
from gradclip.analysis.reading.names import SKIPPED, STATUSES, UNNAMED
from gradclip.analysis.reading.order import counted_on, once_a_step, policies_of_one_run, spaced, that_count
from gradclip.analysis.reading.rows import rows_of
from gradclip.analysis.reading.shapes import read_printed
from gradclip.analysis.reading.source import Source
from gradclip.analysis.reading.table import read_table
from gradclip.analysis.reading.trainer_state import read_trainer_state
from gradclip.analysis.series import Event, Series

FORMATS: dict[Kind, tuple[Callable[[Source], Iterator[pl.DataFrame]], str, str]] = {
    "jsonl": (read_jsonl, "line", "field"),
    "table": (read_table, "line", "column"),
    "trainer_state": (read_trainer_state, "log_history entry", "field"),
    "printed": (read_printed, "line", "number"),
    "events": (read_events, "scalar", "tag"),
}
"""How a kind of file is read, what the numbers of its rows count, and what a column is called there."""

MOST_EVENTS = 10_000
"""Events that are kept; a run may be one long event."""

SINCE_1970 = 1e8
"""Seconds in 1973: times that are all below it are not since 1970, but since the start of a run."""

MILLISECONDS = 1e11
"""Seconds in 5138: larger times are milliseconds, as MLflow counts them."""

RECORD = "Record the norm of each step, or name its column with column=."

NO_WORD = "nonfinite"
"""The status of an event of which only the norm is known."""

WAY_OUT = "Name one with run= (`gradclip advise --run NAME`), or write each to a file of its own."


def series_of(path: Path, column: str | None, run: str | None, size: int | None) -> Series:
    """Return the run in a file or folder.

    Raises:
        ReadError: If it cannot be read, there is no norm, or the rows are of several runs or groups.
        OSError: If it cannot be looked at.
    """
    kind, files, searched = files_of(path, column)
    read, part, called = FORMATS[kind]
    source = Source(path, column, run, files, part, called, size, remarks=searched)
    parts = [rows_of(found, source) for found in read(source)]
    if not parts:
        raise NoNormError(path, f"there are no rows. {RECORD}")
    frame = _one_run(pl.concat(parts), source)
    statuses = _distinct(frame, "status")
    has_status = bool(statuses) and {*statuses} <= {*STATUSES}  # ours: others may say "running"
    frame = frame.with_columns(status=pl.col("status").cast(str).fill_null(NO_WORD) if has_status else pl.lit(NO_WORD))
    if "steps" not in frame:
        source.remarks.append("There are no numbers of steps: the rows are counted from 1.")
        frame = frame.with_row_index("steps", 1).cast({"steps": int})
    frame = once_a_step(frame, source)
    if (onward := counted_on(frame)) is not None:
        source.remarks.append("The steps begin again in every epoch, and are counted on from one to the next.")
        frame = frame.with_columns(steps=onward)
    policies = policies_of_one_run(frame, source)
    frame = that_count(frame, source, any_order=kind == "table")
    steps = frame["steps"].to_torch()
    source.remarks += spaced(steps)
    if len(policies) > 1:
        source.remarks.append(f"The policy changes: {listed(policies, 4)}.")
    skipped = frame["status"].is_in(SKIPPED)
    columns = {role: _numbers(frame, role) for role in ("norms_after", "thresholds", "losses", "lrs")}
    return Series(
        fspath(path),
        steps,
        frame["norms"].to_torch(),
        **columns,
        clipped=(frame["status"] == "clipped").to_torch() if has_status else None,
        skipped=skipped.to_torch() if has_status else None,
        times=_dates(_numbers(frame, "times")),
        policy=_last(frame, "policy"),
        optimizer=_last(frame, "optimizer"),
        each=_by_step(frame, source.details["each"]),
        worst=_by_step(frame, source.details["worst"]),
        events=_events(frame.filter(skipped | ~frame["norms"].is_finite()), source),
        remarks=source.noticed(),
    )


def _one_run(frame: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Return the rows with a norm, of one run and one group."""
    rows = frame.filter(frame["norms"].is_not_null())
    runs, groups = _distinct(rows, "run"), _distinct(rows, "group")
    if source.run is not None:
        named = [*runs, *(groups if groups != [UNNAMED] else [])]
        if source.run not in named:
            there_are = f"there are: {listed(named)}" if named else "no column says of which run a row is"
            raise NoNormError(source.path, f"there is no run {source.run!r}; {there_are}.")
        role = "run" if source.run in runs else "group"
        frame, rows = (some.filter(pl.col(role) == source.run) for some in (frame, rows))
        groups = _distinct(rows, "group")
    elif len(runs) > 1:
        source.refuse(f"the rows are of {len(runs)} runs: {listed(runs, 5)}. {WAY_OUT}")
    left_out = frame.height - rows.height
    if not rows.height:
        why = f"none of {left_out} rows has a norm" if left_out else "there are no rows"
        raise NoNormError(source.path, f"{why}. {RECORD}")
    if len(groups) > 1:
        source.refuse(f"the records are of several groups: {listed(groups)}. {WAY_OUT}")
    if left_out:
        source.remarks.append(f"{left_out} of {frame.height} rows have no norm and are left out.")
    return rows


def _distinct(frame: pl.DataFrame, role: str) -> list[str]:
    """Return what a column of text holds."""
    return sorted(frame[role].drop_nulls().unique()) if role in frame else []


def _last(frame: pl.DataFrame, role: str) -> str | None:
    """Return what a column of text says last."""
    named = frame[role].drop_nulls() if role in frame else None
    return None if named is None or named.is_empty() else named[-1]


def _numbers(frame: pl.DataFrame, role: str) -> Tensor | None:
    """Return a column; None where nothing of it is known."""
    column = frame[role].fill_null(math.nan) if role in frame else None
    return None if column is None or column.is_nan().all() else column.to_torch()


def _dates(times: Tensor | None) -> Tensor | None:
    """Return times in seconds since 1970; None where they are since the start of a run."""
    if times is not None and (times > MILLISECONDS).any():
        times = times / 1000
    return times if times is not None and (times > SINCE_1970).any() else None


def _by_step(frame: pl.DataFrame, found: Thinned[Values]) -> tuple[tuple[int, Values], ...]:
    """Return what was found on the lines of steps."""
    rows = frame.select("steps", "line").filter(pl.col("line").is_in(list(found.kept)))
    return tuple((step, found.kept[line]) for step, line in rows.iter_rows())


def _events(found: pl.DataFrame, source: Source) -> tuple[Event, ...]:
    """Return the steps that were skipped or not finite."""
    if found.height > MOST_EVENTS:
        source.remarks.append(f"Of {found.height} steps skipped or not finite, the first {MOST_EVENTS} are listed.")
    rows = found.select("steps", "status", "line").head(MOST_EVENTS).iter_rows()
    counts = source.details["nonfinite"].kept
    return tuple(Event(step, status, counts.get(line, {})) for step, status, line in rows)
