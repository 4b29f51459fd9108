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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import polars as pl

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.names import TEXT
from gradclip.analysis.reading.pieces import Piece, pieces
from gradclip.analysis.reading.rows import Chunk, chunk_of
from gradclip.analysis.reading.source import Source

EMPTY = b" \t\r\n\0"
"""Characters of lines with nothing on them; a disk that was cut off leaves zeros."""

SAMPLE = 100
"""Lines whose keys are the columns, if one of them is that of the norm."""

NOT_FINITE = re.compile(rb"(?<=[:,\[\s])(-?(?:NaN|Infinity))(?=[,}\]\s])")
"""Numbers that JSON does not have. In quotes they are text; what was in quotes before is no JSON any more."""


def read_jsonl(files: Sequence[Path], source: Source) -> Iterator[Chunk]:
    """Return the lines of a file, piece by piece.

    Raises:
        ReadError: If it holds no record, or a line that is none.
    """
    with files[0].open("rb") as file:
        for piece in pieces(file, source.path):
            if not source.fields:
                samples = source.sample((entry for _, entry in _entries(piece, source.path, [])), SAMPLE)
                if not samples:
                    source.refuse("there is no whole record in it. Wait for the first, or name another file.")
                source.choose(samples, "field")
            if chunk := _parsed(piece, source):
                yield chunk
            elif found := list(_entries(piece, source.path, source.torn)):
                yield chunk_of([line for line, _ in found], [entry for _, entry in found], source)
            source.details.look(piece.data, piece.line)


def _entries(piece: Piece, path: str | PathLike[str], torn: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
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


def _parsed(piece: Piece, source: Source) -> Chunk | None:
    """Return the lines as polars reads them; None where one is torn, no JSON, or nothing but zeros."""
    frame = _frame(piece, source)
    lines: Sequence[int] = range(piece.line, piece.line + piece.count)
    if frame is not None and frame.height != len(lines):
        lines = [line for line, text in piece.lines() if text.strip(EMPTY)]
    if frame is None or frame.height != len(lines):
        return None

    def entry(row: int) -> dict[str, Any]:
        return json.loads(next(islice(piece.lines(), lines[row] - piece.line, None))[1])

    return Chunk(lines, frame, entry)


def _frame(piece: Piece, source: Source) -> pl.DataFrame | None:
    for step, number in ((pl.Int64, pl.Float64), (pl.Float64, pl.Float64), (pl.String, pl.String)):
        kinds = dict.fromkeys(source.fields, number) | {"steps": step} | dict.fromkeys(TEXT, pl.String)
        schema = {name: kinds[role] for role, name in source.fields.items()}
        # As text a number may be in quotes, as all must be that are not finite.
        data = piece.data if number is pl.Float64 else NOT_FINITE.sub(rb'"\1"', piece.data)
        with suppress(pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return pl.read_ndjson(data, schema=schema).rename({name: role for role, name in source.fields.items()})
    return None
