"""JSON Lines: one object a line, ours or of anybody who logs that way.

Ours are the fields of `ClipRecord.to_dict()`. From others the norm, and what has a usual name, is read:

    {"step": 1, "time": 1.7e9, "status": "clipped", "total_norm": 2.0, "total_norm_after": 1.0, "threshold": 1.0, ...}
    {"step": 2, "grad_norm": 1.25, "loss": 2.5, "lr": 0.001}

- A number that is null is not known; of a line with one of our statuses it is a norm that was not finite. A line of
  others without a norm is left out: it is about something else. NaN and Infinity, which JSON does not have but Python
  writes, and text such as "nan" are read.
- What is in an object within the object has the names of both, with a slash between: `train/grad_norm`.
- A line that ends within its object is torn: the writer was stopped. It is left out with a remark. Any other line that
  is not an object is an error.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import polars as pl

from gradclip.analysis.reading.names import FIELDS
from gradclip.analysis.reading.pieces import Piece, pieces
from gradclip.analysis.reading.rows import NOTHING, NUMBERS, UNREADABLE, found_in
from gradclip.analysis.reading.source import Source

EMPTY = b" \t\r\n\0"
"""Characters of lines with nothing on them; a disk that was cut off leaves zeros."""

NOT_FINITE = [
    re.compile(rb"%b(?<=[:,\[\s]%b)(?=[,}\]\s])" % (word, word))  # found fast, as it begins with letters
    for word in (b"NaN", b"Infinity", b"-Infinity")
]
"""Numbers that JSON does not have. In quotes they are text; what was in quotes before is no JSON any more."""

KINDS: dict[type, Any] = NUMBERS | dict.fromkeys((str, dict, list), pl.String)
"""What polars reads; of an object or a list it is enough to know that there is one."""

AS_TEXT: dict[type, Any] = KINDS | {int: pl.Float64, float: pl.String}
"""What it reads where a number is in quotes, as all must be that are not finite, or a step is written like 3.0."""

DECODER = json.JSONDecoder()

WHOLE = {name for field in FIELDS.values() if field.kind is dict for name in field.names}
"""Objects that are read as they are."""


def read_jsonl(source: Source) -> Iterator[pl.DataFrame]:
    """Return the lines of a file, piece by piece.

    Raises:
        ReadError: If it holds no record, or a line that is none.
    """
    for piece in pieces(source):
        if not source.fields:
            source.choose(entry for _, entry in _entries(piece, source) if entry)
        if (found := _by_polars(piece, source)) is not None:
            yield found
        else:
            yield from found_in(_entries(piece, source), source)


def _entries(piece: Piece, source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the objects of lines and the numbers of these."""
    for line, text in enumerate(piece.lines, piece.line):
        if not (text := text.strip(EMPTY)):
            continue
        try:
            found = json.loads(text.decode())
        except RecursionError:
            source.refuse("the line is nested too deeply. Delete it.", line)
        except ValueError as error:
            at_end = isinstance(error, json.JSONDecodeError) and error.pos >= len(error.doc)
            if piece.open or (text.startswith(b"{") and (at_end or not text.endswith(b"}"))):
                source.torn.add(line)
                continue
            problem = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
            source.refuse(f"the line is {problem}. Delete or correct it.", line)
        if not isinstance(found, dict):
            source.refuse("the line is no JSON object. Delete it, or name another file.", line)
        yield line, dict(flat(found)) if any(isinstance(x, dict) for x in found.values()) else found


def flat(found: dict[str, Any], folder: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is in an object, and in those within it but for what is read as a whole."""
    for name, value in found.items():
        if isinstance(value, dict) and folder + name not in WHOLE:
            yield from flat(value, f"{folder}{name}/")
        else:
            yield f"{folder}{name}", value


def _by_polars(piece: Piece, source: Source) -> pl.DataFrame | None:
    """Return the lines as polars reads them; None where one is torn, no JSON, nothing but zeros, or none has a norm."""
    frame = _frame(piece.data, source, KINDS)
    if frame is None:
        data = piece.data
        for pattern in NOT_FINITE:
            data = pattern.sub(rb'"\g<0>"', data)
        frame = _frame(data, source, AS_TEXT)
    if frame is None:
        return None
    lines = pl.Series("line", range(piece.line, piece.line + piece.height))
    if frame.height != len(lines):
        lines = lines.filter(pl.Series([bool(line.strip(EMPTY)) for line in piece.lines]))
    if frame.height != len(lines):
        return None
    details = [role for role in frame.columns if FIELDS[role].kind in (dict, list)]
    for role in details:  # polars does not keep the order of what is in an object
        told, key = lines.filter(~frame[role].is_in(NOTHING)).to_list(), json.dumps(source.fields[role])
        source.details[role].add(told, lambda line, key=key: _value(piece.lines[line - piece.line].decode(), key))
    return frame.drop(details).insert_column(0, lines)


def _value(line: str, key: str) -> Any:
    """Return what stands under a key in an object: where that occurs once, nothing else is looked at."""
    _, found, after = line.partition(f"{key}:")
    with suppress(ValueError, RecursionError):  # which is for the reader of the rows to say
        if found and line.count(key) == 1:
            return DECODER.raw_decode(after.lstrip())[0]
        return json.loads(line).get(json.loads(key))
    return None


def _frame(data: bytes, source: Source, kinds: Mapping[type, Any]) -> pl.DataFrame | None:
    schema = {name: kinds[FIELDS[role].kind] for role, name in source.fields.items()}
    with suppress(*UNREADABLE):
        frame = pl.read_ndjson(data, schema=schema).rename({name: role for role, name in source.fields.items()})
        within = {role for role, name in source.fields.items() if "/" in name} | {"norms"}
        if not any(frame[role].is_null().all() for role in within):  # as what is in another object would be
            return frame
    return None
