"""From the rows of a file to a run: which of them count, and what a reader should know about the rest."""

from collections.abc import Callable, Iterator, Sequence
from os import fspath
from pathlib import Path

import polars as pl
from torch import Tensor

from gradclip.analysis.reading.error import listed
from gradclip.analysis.reading.events import read_events
from gradclip.analysis.reading.jsonl import read_jsonl
from gradclip.analysis.reading.kinds import Kind
from gradclip.analysis.reading.names import CLIPPED, FOREIGN, NO_STATUS, STATUSES, UNNAMED
from gradclip.analysis.reading.order import check_one_run, counted_on, spaced, that_count
from gradclip.analysis.reading.printed import read_printed
from gradclip.analysis.reading.rows import Chunk, rows_of
from gradclip.analysis.reading.source import Source
from gradclip.analysis.reading.table import read_table
from gradclip.analysis.reading.trainer_state import read_trainer_state
from gradclip.analysis.series import Event, Series

FORMATS: dict[Kind, Callable[[Sequence[Path], Source], Iterator[Chunk]]] = {
    "jsonl": read_jsonl,
    "table": read_table,
    "trainer_state": read_trainer_state,
    "printed": read_printed,
    "events": read_events,
}

MOST_EVENTS = 10_000
"""Events that are kept; a run may be one long event."""

SINCE_1970 = 1e8
"""Seconds in 1973: times that are all below it are not since 1970, but since the start of a run."""

MILLISECONDS = 1e11
"""Seconds in 5138: larger times are milliseconds, as MLflow counts them."""

SKIPPED = [code for code, status in enumerate(STATUSES) if status.startswith("skipped")]

RECORD = "Record the norm of each step, or name its column with column=."

NO_WORD = "nonfinite"
"""The status of an event of which only the norm is known."""

WAY_OUT = "Name one with run= (`gradclip advise --run NAME`), or write each to a file of its own."


def series_of(kind: Kind, files: Sequence[Path], source: Source) -> Series:
    """Return the run in the files of one kind.

    Raises:
        ReadError: If they cannot be read, there is no norm, or the rows are of several runs or groups.
    """
    parts = [rows_of(chunk, source) for chunk in FORMATS[kind](files, source)]
    if not parts:
        source.refuse(f"there are no rows. {RECORD}")
    frame, remarks = _one_run(pl.concat(parts), source)
    policies, optimizers = _changes(frame, "policy"), _changes(frame, "optimizer")
    if "status" in frame and ((frame["status"] == FOREIGN).any() or (frame["status"] == NO_STATUS).all()):
        frame = frame.drop("status")  # a column of this name may say something else, such as "running"
    if "steps" not in frame:
        remarks.append("There are no numbers of steps: the rows are counted from 1.")
        frame = frame.with_row_index("steps", 1).cast({"steps": int})
    if (onward := counted_on(frame)) is not None:
        remarks.append("The steps begin again in every epoch, and are counted on from one to the next.")
        frame = frame.with_columns(steps=onward)
    check_one_run(frame, policies, source)
    frame, dropped = that_count(frame, source)
    steps, times = frame["steps"].to_torch(), _numbers(frame, "times")
    if times is not None and (times > MILLISECONDS).any():
        times = times / 1000
    remarks += [*dropped, *spaced(steps)]
    if len(policies) > 1:
        remarks.append(f"The policy changes: {listed([policy for _, policy in policies], 4)}.")
    return Series(
        source=fspath(source.path),
        steps=steps,
        norms=frame["norms"].to_torch(),
        norms_after=_numbers(frame, "norms_after"),
        thresholds=_numbers(frame, "thresholds"),
        clipped=(frame["status"] == CLIPPED).to_torch() if "status" in frame else None,
        skipped=frame["status"].is_in(SKIPPED).to_torch() if "status" in frame else None,
        losses=_numbers(frame, "losses"),
        lrs=_numbers(frame, "lrs"),
        times=times if times is not None and (times > SINCE_1970).any() else None,
        policy=policies[-1][1] if policies else None,
        optimizer=optimizers[-1][1] if optimizers else None,
        each=_each(frame, source),
        events=_events(frame, source, remarks),
        remarks=(*source.noticed(), *remarks, *source.details.remarks()),
    )


def _one_run(frame: pl.DataFrame, source: Source) -> tuple[pl.DataFrame, list[str]]:
    """Return the rows with a norm, of one run and one group, and what is to be said of the others."""
    rows = frame.filter(frame["norms"].is_not_null())
    runs, groups = _distinct(rows, "run"), _distinct(rows, "group")
    if source.run is not None:
        named = [*runs, *([] if groups == [UNNAMED] else groups)]
        if source.run not in named:
            there_are = f"there are: {listed(named)}" if named else "no column says of which run a row is"
            source.refuse(f"there is no run {source.run!r}; {there_are}.")
        role = "run" if source.run in runs else "group"
        frame, rows = (some.filter(some[role].cast(str) == source.run) for some in (frame, rows))
        groups = _distinct(rows, "group")
    elif len(runs) > 1:
        source.refuse(f"the rows are of {len(runs)} runs: {listed(runs, 5)}. {WAY_OUT}")
    left_out = frame.height - rows.height
    if not rows.height:
        why = f"none of {left_out} rows has a norm" if left_out else "there are no rows"
        source.refuse(f"{why}. {RECORD}")
    if len(groups) > 1:
        source.refuse(f"the records are of several groups: {listed(groups)}. {WAY_OUT}")
    return rows, [f"{left_out} of {frame.height} rows have no norm and are left out."] if left_out else []


def _distinct(frame: pl.DataFrame, role: str) -> list[str]:
    """Return what a column of text holds, but for empty cells."""
    return sorted(filter(None, frame[role].unique())) if role in frame else []


def _changes(frame: pl.DataFrame, role: str) -> list[tuple[int, str]]:
    """Return the rows at which a column of text changes, and what it then says."""
    if role not in frame:
        return []
    named = frame.select(role).with_row_index().drop_nulls()
    return named.filter(named[role].ne_missing(named[role].shift())).rows()


def _numbers(frame: pl.DataFrame, role: str) -> Tensor | None:
    """Return a column; None where nothing of it is known."""
    column = frame[role].fill_null(float("nan")) if role in frame else None
    return None if column is None or column.is_nan().all() else column.to_torch()


def _events(frame: pl.DataFrame, source: Source, remarks: list[str]) -> tuple[Event, ...]:
    """Return the steps that were skipped or not finite."""
    bad = ~frame["norms"].is_finite()
    if "status" in frame:
        bad |= frame["status"].is_in(SKIPPED)
    found = frame.filter(bad)
    if found.height > MOST_EVENTS:
        remarks.append(f"Of {found.height} steps skipped or not finite, the first {MOST_EVENTS} are listed.")
        found = found.head(MOST_EVENTS)
    words = [STATUSES[code] if code >= 0 else NO_WORD for code in found["status"]] if "status" in found else None
    counts = [source.details.nonfinite.get(line, {}) for line in found["line"]]
    return tuple(map(Event, found["steps"], words or [NO_WORD] * found.height, counts))


def _each(frame: pl.DataFrame, source: Source) -> tuple[tuple[int, dict[str, float]], ...]:
    """Return the norms of parameters on those lines that count, with their steps."""
    norms = dict(source.details.each)
    found = frame.filter(frame["line"].is_in(list(norms))) if norms else frame.clear()
    return tuple((step, norms[line]) for step, line in found.select("steps", "line").iter_rows())
