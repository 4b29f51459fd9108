"""JSON Lines: one object a line, ours or of anybody who logs that way.

Ours are the fields of `ClipRecord.to_dict()`. From others the norm, and what has a usual name, is read:

    {"step": 1, "time": 1.7e9, "status": "clipped", "total_norm": 2.0, "total_norm_after": 1.0, "threshold": 1.0, ...}
    {"step": 2, "grad_norm": 1.25, "loss": 2.5, "lr": 0.001}

- A number that is null is not known; of a line with one of our statuses it is a norm that was not finite. A line of
  others without a norm is left out: it is about something else. NaN and Infinity, which JSON does not have but Python
  writes, and text such as "nan" are read.
- A line that ends within its object is torn: the writer was stopped. It is left out with a remark. Any other line that
  is not an object is an error.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.frames import from_text, polars, rows_from
from gradclip.analysis.reading.gather import Gathering, torn_lines
from gradclip.analysis.reading.names import Fields, choose
from gradclip.analysis.reading.pieces import Piece, pieces
from gradclip.analysis.reading.rows import FLAGS, NUMBERS, Rows, rows_of
from gradclip.analysis.series import Series

if TYPE_CHECKING:
    import polars as pl

SAMPLE = 100
"""Lines whose keys are the columns, if one of them is that of the norm."""

FEW = 2**16
"""Bytes of lines that are not worth a second look for the few that need the slow way."""

NOT_FINITE = re.compile(rb"(?<=[:,\[\s])(-?(?:NaN|Infinity))(?=[,}\]\s])")
"""Numbers that JSON does not have. In quotes they are text; what was in quotes before is no JSON any more."""

EMPTY = b" \t\r\n\0"
"""Characters of lines with nothing on them; a disk that was cut off leaves zeros."""


def read_jsonl(path: Path, column: str | None) -> Series:
    """Read JSON Lines.

    Args:
        path: The file.
        column: The field of the norm; None for a usual name.

    Returns:
        The run.

    Raises:
        ReadError: If it holds none.
    """
    polars(path)
    gathering = Gathering(path)
    torn: list[int] = []
    lines: _Lines | None = None
    with path.open("rb") as file:
        for piece in pieces(file, path):
            if lines is None:
                samples = _samples(piece, path, column)
                lines = _Lines(path, choose(list(samples), column, path, "field"), samples, torn)
            for rows in lines.rows(piece):
                gathering.add(rows)
            gathering.details.look(piece.data, piece.line)
    if torn:
        gathering.remarks.append(torn_lines(torn))
    return gathering.series()


def _samples(piece: Piece, path: Path, column: str | None) -> dict[str, Any]:
    """Return the fields of the first lines, with a value each; of more lines where the norm is not among them."""
    samples: dict[str, Any] = {}
    for count, (_, entry) in enumerate(entries(piece, path, torn=[]), 1):
        samples |= {name: value for name, value in entry.items() if samples.get(name) is None}
        if count == SAMPLE:
            try:
                choose(list(samples), column, path)
            except ReadError:
                continue
            break
    if not samples:
        raise ReadError(path, "there is no whole record in it. Wait for the first, or name another file.")
    return samples


def entries(piece: Piece, path: Path, torn: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the objects of lines and the numbers of these; those of torn lines go into a list."""
    for line, text in piece.lines():
        if not (text := text.strip(EMPTY)):
            continue
        try:
            found = json.loads(text.decode())
        except RecursionError as error:
            raise ReadError(path, "the line is nested too deeply. Delete it.", line=line) from error
        except ValueError as error:
            at_end = isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc)
            if piece.open or (text.startswith(b"{") and (at_end or not text.endswith(b"}"))):
                torn.append(line)
                continue
            problem = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
            raise ReadError(path, f"the line is {problem}. Delete or correct it.", line=line) from error
        if not isinstance(found, dict):
            raise ReadError(path, "the line is no JSON object. Delete it, or name another file.", line=line)
        yield line, found


@final
class _Lines:
    """The lines of a file: with polars, and one by one where a piece holds what it does not take.

    Args:
        path: The file.
        fields: What is read.
        samples: A value of each field.
        torn: Where the numbers of torn lines go.
    """

    def __init__(self, path: Path, fields: Fields, samples: dict[str, Any], torn: list[int]) -> None:
        self._polars: Any = polars(path)
        self._path = path
        self._torn = torn
        self._fields = {role: name for role, name in fields.items() if _fits(role, samples[name])}
        self._schema = {name: self._kind(role, samples[name]) for role, name in self._fields.items()}

    def rows(self, piece: Piece) -> Iterator[Rows]:
        """Return the rows of a piece."""
        quick = self._quick(piece)
        yield from self._halved(piece) if quick is None else (quick,)

    def _halved(self, piece: Piece) -> Iterator[Rows]:
        """Go the quick way with as much as possible of a piece that it did not take as a whole."""
        halves = piece.halves() if len(piece.data) > FEW else None
        quick = [None if halves is None else self._quick(half) for half in halves or ()]
        if halves is None or quick == [None, None]:
            yield rows_of(entries(piece, self._path, self._torn), self._fields, self._path)
            return
        for half, rows in zip(halves, quick, strict=True):
            yield from self._halved(half) if rows is None else (rows,)

    def _quick(self, piece: Piece) -> Rows | None:
        """Return the rows of a piece; None where a line is not what is usual there."""
        frame = self._frame(piece, piece.data, self._schema)
        if frame is None:  # as where a number is NaN, or in quotes: then all numbers are read as text
            schema = dict.fromkeys(self._schema, self._polars.String)
            text = self._frame(piece, NOT_FINITE.sub(rb'"\1"', piece.data), schema)
            frame = None if text is None else from_text(text, self._fields)
        return None if frame is None else rows_from(frame, self._fields, piece.line)

    def _frame(self, piece: Piece, data: bytes, schema: dict[str, Any]) -> "pl.DataFrame | None":
        errors = self._polars.exceptions
        try:
            frame: pl.DataFrame = self._polars.read_ndjson(data, schema=schema)
        except (errors.PolarsError, errors.PanicException):
            return None
        return frame if frame.height == piece.count else None  # else lines are empty, and their numbers not known

    def _kind(self, role: str, sample: Any) -> Any:
        if (role == "steps" and not isinstance(sample, float)) or (role == "run" and isinstance(sample, int)):
            return self._polars.Int64
        return self._polars.Float64 if role in ("norms", "steps", *NUMBERS, *FLAGS) else self._polars.String


def _fits(role: str, sample: Any) -> bool:
    """Say whether a field is what its name promises; the norm and the step have to be."""
    if role in ("norms", "steps") or sample is None:
        return True
    if role == "run":
        return isinstance(sample, (int, str))
    return isinstance(sample, (int, float) if role in (*NUMBERS, *FLAGS) else str) and not isinstance(sample, bool)
