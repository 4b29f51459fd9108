"""Files of printed lines, which have few shapes, a million times over: lines that differ in their numbers alone.

To find out which number is the norm takes far longer than to read it. So of a shape that comes often, one line is read
as it is, and once more with other numbers: where these come out tells what each is on all lines of the shape.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice

import polars as pl

from gradclip.analysis.reading.names import Fields
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
    left_out: dict[str, list[int]] = {NO_NUMBER: [], NO_STEP: []}
    first = math.inf
    for piece in pieces(source):
        rows = told_in(_texts(piece), source.fields)
        for what, at in left_out.items():
            at.extend(rows.filter(pl.col("lacks") == what)["line"])
        rows = rows.filter(pl.col("lacks") == "")
        if len(rows):
            first = min(first, rows["line"][0])
            yield rows.select("line", *source.fields)
    for what, at in left_out.items():
        # Above the first norm its name may be that of a setting.
        if some := [line for line in at if what == NO_STEP or line > first]:
            source.remarks.append(f"Lines {what} are left out: {len(some)}, the first of them line {some[0]}.")


def _texts(piece: Piece) -> pl.DataFrame:
    """Return what is printed, and on which line of the file, as progress bars print several on one."""
    lines = pl.Series("text", piece.data.decode(errors="replace").removesuffix("\n").split("\n"))
    texts = pl.DataFrame([lines]).with_row_index("line", piece.line).with_columns(pl.col("text").str.split("\r"))
    return texts.explode("text").filter(pl.col("text").str.strip_chars() != "").with_row_index("row")


def _told(fields: Fields, text: str) -> dict[str, str | None]:
    """Return what each field is on a line, as text, and what it `lacks`: nothing, a number, a step, or all (None)."""
    entry = entry_of(text)
    given = {role: entry.get(name) for role, name in fields.items()}
    told = {role: None if value is None else written(value) for role, value in given.items()}
    norm = fields["norms"]
    if norm in entry:
        return told | {"lacks": "" if fields.get("steps", norm) in entry else NO_STEP}
    is_named = re.search(rf"(?<!\w){re.escape(norm)}['\"]?\s*[:=]\s*[^\s,;|]", text, re.IGNORECASE)
    return told | {"lacks": NO_NUMBER if is_named else None}


def told_in(texts: pl.DataFrame, fields: Fields) -> pl.DataFrame:
    """Return what each field is on lines, as text, and what these lack; of a line that lacks all, nothing."""
    read = partial(_told, fields)
    shape = pl.col("text").str.replace_all(THOUSANDS, "\0").str.replace_all(REAL, "0.0").str.replace_all(WHOLE, "0")
    texts = texts.with_columns(shape=shape).with_columns(often=pl.len().over("shape") >= OFTEN)
    found = list[pl.DataFrame]()
    rest = [texts.filter(~pl.col("often"))]
    for alike in texts.filter("often").partition_by("shape"):
        rows = _by_places(alike, read)
        (rest if rows is None else found).append(alike if rows is None else rows)
    one_by_one = pl.concat(rest)
    columns = dict.fromkeys(read(""), pl.String)
    told = pl.DataFrame([[*read(text).values()] for text in one_by_one["text"]], columns, orient="row")
    rows = pl.concat([*found, one_by_one.select("row", "line").hstack(told)])
    return rows.filter(pl.col("lacks").is_not_null()).sort("row")


def _by_places(alike: pl.DataFrame, read: Callable[[str], Mapping[str, str | None]]) -> pl.DataFrame | None:
    """Read lines of one shape; None where not the same numbers of each are its fields."""
    first, last = alike["text"][0], alike["text"][-1]
    marked, marks = _marked(first)
    others = read(marked)
    places = {role: _place(own, others[role], marks) for role, own in read(first).items()}
    if any(place is None for place in places.values()):
        return None
    rows = alike.with_columns(NUMBERS).select("row", "line", **places)
    is_right = all(
        _is_same(rows[place, role], own) for place, text in ((0, first), (-1, last)) for role, own in read(text).items()
    )
    return rows if is_right else None


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
