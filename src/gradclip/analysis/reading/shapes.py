"""Files of printed lines, which have few shapes, a million times over: lines that differ in their numbers alone.

To find out which number is the norm takes far longer than to read it. So of a shape that comes often, one line is read
as it is, and once more with other numbers: where these come out tells what each is on all lines of the shape.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, final

import polars as pl

from gradclip.analysis.reading.pieces import Piece, pieces
from gradclip.analysis.reading.printed import entry_of
from gradclip.analysis.reading.rows import written
from gradclip.analysis.reading.source import Source

FIRST = 2
"""Pieces in which the norm is looked for: a last line without an end is one of its own."""

OFTEN = 20
"""Lines of a shape in a piece, from which on it is worth to learn it."""

THOUSANDS = r"\b[1-9][0-9]{0,2}(?:,[0-9]{3})+\b(?:\.[0-9]+)?"
REAL = r"\b[0-9]+(?:\.[0-9]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
WHOLE = r"\b[0-9]+"
NUMBER = re.compile(f"({THOUSANDS})|({REAL})|{WHOLE}")
"""A number less its sign: how it is written may decide what it is taken for."""

NUMBERS = pl.col("text").str.extract_all(NUMBER.pattern).alias("numbers")

NO_NUMBER, NO_STEP = "that name the norm but no number", "with a norm but no step"


def read_printed(source: Source) -> Iterator[pl.DataFrame]:
    """Return what a trainer printed, a piece of the file at a time; remark on what lacks a number or a step.

    Raises:
        ReadError: If no number is named as the norm.
    """
    texts = [text for piece in islice(pieces(source), FIRST) for text in _texts(piece)["text"]]
    source.choose(entry for text in texts if (entry := entry_of(text)))
    norm = source.fields["norms"]
    source.choose(entry for text in texts if norm in (entry := entry_of(text)))  # what is told beside it
    lines = Lines(source)
    left_out: dict[str, list[int]] = {NO_NUMBER: [], NO_STEP: []}
    first = math.inf
    for piece in pieces(source):
        rows = lines.read(_texts(piece))
        for what, at in left_out.items():
            at.extend(rows.filter(pl.col("lacks") == what)["line"])
        told = rows.filter(pl.col("lacks") == "")
        if len(told):
            first = min(first, told["line"][0])
            yield told.select("line", *source.fields)
    for what, at in left_out.items():
        # Above the first norm its name may be that of a setting.
        if some := [line for line in at if what == NO_STEP or line > first]:
            source.remarks.append(f"Lines {what} are left out: {len(some)}, the first of them line {some[0]}.")


def _texts(piece: Piece) -> pl.DataFrame:
    """Return what is printed, and on which line of the file, as progress bars print several on one."""
    lines = pl.Series("text", piece.data.decode(errors="replace").removesuffix("\n").split("\n"))
    texts = pl.DataFrame([lines]).with_row_index("line", piece.line).with_columns(pl.col("text").str.split("\r"))
    return texts.explode("text").filter(pl.col("text").str.strip_chars() != "").with_row_index("row")


@final
class Lines:
    """How the fields of a source are read of lines: what has no norm, and does not name it, is left out."""

    def __init__(self, source: Source) -> None:
        self._fields = source.fields
        self._norm = source.fields["norms"]
        self._step = source.fields.get("steps", self._norm)
        self._named = re.compile(rf"(?<!\w){re.escape(self._norm)}['\"]?\s*[:=]\s*[^\s,;|]", re.IGNORECASE)

    def read(self, texts: pl.DataFrame) -> pl.DataFrame:
        """Add to lines what each field is, as text, and what they lack: nothing, a number, or a step."""
        shape = pl.col("text").str.replace_all(THOUSANDS, "\0").str.replace_all(REAL, "0.0").str.replace_all(WHOLE, "0")
        texts = texts.with_columns(shape=shape).with_columns(often=pl.len().over("shape") >= OFTEN)
        found = list[pl.DataFrame]()
        rest = [texts.filter(~pl.col("often"))]
        for alike in texts.filter("often").partition_by("shape"):
            rows = self._by_places(alike)
            (rest if rows is None else found).append(alike if rows is None else rows)
        return pl.concat([*found, self._one_by_one(pl.concat(rest))]).sort("row")

    def _one_by_one(self, texts: pl.DataFrame) -> pl.DataFrame:
        entries = [entry_of(text) for text in texts["text"]]
        lacks = [self._lacks(entry, text) for entry, text in zip(entries, texts["text"], strict=True)]
        fields = [self._written(entry) for entry in entries]
        return self._rows(
            texts,
            pl.Series(lacks, dtype=pl.String),
            {role: pl.Series([own[role] for own in fields], dtype=pl.String) for role in self._fields},
        )

    def _by_places(self, alike: pl.DataFrame) -> pl.DataFrame | None:
        """Read lines of one shape; None where not the same numbers of each are its fields."""
        first = alike["text"][0]
        entry = entry_of(first)
        lacks = self._lacks(entry, first)
        if lacks is None:
            return self._one_by_one(alike.clear())
        text, marks = _marked(first)
        others = self._written(entry_of(text))
        places = {role: _place(own, others[role], marks) for role, own in self._written(entry).items()}
        known = {role: place for role, place in places.items() if place is not None}
        rows = self._rows(alike.with_columns(NUMBERS), pl.lit(lacks), known) if len(known) == len(places) else None
        ends = () if rows is None else (rows.row(0, named=True), rows.row(-1, named=True))
        is_right = all(
            _is_same(row[role], own) for row in ends for role, own in self._written(entry_of(row["text"])).items()
        )
        return rows if is_right else None

    def _rows(self, texts: pl.DataFrame, lacks: Any, fields: Mapping[str, Any]) -> pl.DataFrame:
        rows = texts.with_columns(lacks=lacks, **fields).filter(pl.col("lacks").is_not_null())
        return rows.select("row", "line", "text", "lacks", *self._fields)

    def _written(self, entry: Mapping[str, Any]) -> dict[str, str | None]:
        given = {role: entry.get(name) for role, name in self._fields.items()}
        return {role: None if value is None else written(value) for role, value in given.items()}

    def _lacks(self, entry: Mapping[str, Any], text: str) -> str | None:
        if self._norm in entry:
            return "" if self._step in entry else NO_STEP
        return NO_NUMBER if self._named.search(text) else None


def _marked(text: str) -> tuple[str, list[str]]:
    """Return a line with other numbers, of the same kinds, and these numbers, none of which is part of another."""
    marks: list[str] = []

    def other(number: re.Match[str]) -> str:
        is_thousands, is_real = (number[kind] is not None for kind in (1, 2))
        base = 9_410_000 if is_thousands else 531_000 if is_real else 731_000
        marks.append(f"{base + len(marks)}.5" if is_real else f"{base + len(marks)}")
        return f"{int(marks[-1]):,}" if is_thousands else marks[-1]

    return NUMBER.sub(other, text), marks


def _place(own: str | None, other: str | None, marks: Sequence[str]) -> pl.Expr | None:
    """Return what a field is on each line of a shape: the same, or what stands around one of the numbers; else None."""
    if own == other:
        return pl.lit(own, pl.String)
    found = [(place, mark) for place, mark in enumerate(marks) if other is not None and mark in other]
    if other is None or len(found) != 1:
        return None
    place, mark = found[0]
    before, _, after = other.partition(mark)
    number = pl.col("numbers").list.get(place).str.replace_all(",", "")
    return pl.concat_str(pl.lit(before), number, pl.lit(after))


def _is_same(text: str | None, other: str | None) -> bool:
    """Whether two texts are the same, or of the same number."""
    if text is None or other is None or text == other:
        return text == other
    with suppress(ValueError):
        return float(text) == float(other)
    return False
