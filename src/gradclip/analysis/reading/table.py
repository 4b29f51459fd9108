"""Tables: CSV of any kind, with a line of names first, such as what Weights & Biases exports.

    step,grad_norm,loss                "Step","RUN - train/grad_norm","RUN - train/grad_norm__MIN",...
    1,1.25,2.5                         "10","1.25","1.25",...
    2,nan,2.4                          "20","NaN","NaN",...

- Columns are separated by commas, semicolons, tabs or bars; numbers have points, and may be quoted. There may be blanks
  alone between them, and a `#` before the names.
- A cell that is empty, "-", "null" and the like holds no number: a row without a norm is left out, unless it has one of
  our statuses. "nan" and "inf" are norms that were not finite.
- A last line with too few cells is torn. It is left out with a remark.
- Rows that are in no order, or the last first, are sorted by step.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice, pairwise
from typing import NamedTuple, final

import polars as pl

from gradclip.analysis.reading.names import norms_among
from gradclip.analysis.reading.pieces import Piece, pieces
from gradclip.analysis.reading.rows import UNREADABLE, Chunk, chunks_of
from gradclip.analysis.reading.source import Source
from gradclip.analysis.reading.text import CELLS, is_number

SEPARATORS = ",;\t|"
"""What may stand between cells: the one of which there are most in the first line."""

AHEAD, BLANKS = re.compile(rb"^[ \t#]+", re.MULTILINE), re.compile(rb"[ \t]+")
"""What may stand before the cells of a line, and between them, where these are words."""

MOST_ABOVE = 1000
"""Lines among which the names of columns are looked for: there may be a comment or a warning above them."""


@final
class Head(NamedTuple):
    """What stands between cells, the names of columns, and the line below them."""

    separator: str
    names: list[str]
    below: int


def read_table(source: Source) -> Iterator[Chunk]:
    """Return the rows of a table, piece by piece.

    Raises:
        ReadError: If a row cannot be read, or no column is that of the norm.
    """
    rest = pieces(source)
    first = next(rest, Piece(1, b""))
    if _has_blanks_between(first, source):
        first, rest = _tabbed(first), map(_tabbed, rest)
    head = _head(first, source)
    source.choose([dict.fromkeys(head.names)])
    for piece in chain([_from(head.below, first)], rest):
        if chunk := _by_polars(piece, head, source):
            yield chunk
        else:  # a cell over several lines may go on in the next piece
            some = chain([piece], rest) if b'"' in piece.data else [piece]
            yield from chunks_of(_entries(_rows(some, head.separator, source), head, source), source)


def _has_blanks_between(first: Piece, source: Source) -> bool:
    """Say whether cells are words: below a line of names with a norm among them, one of as many numbers."""
    lines = [data.decode(errors="replace").lstrip(" #") for _, data in islice(first.lines(), MOST_ABOVE)]
    pairs = ((names.split(), below.split()) for names, below in pairwise(lines) if not CELLS.search(names))
    return any(
        len(names) == len(below) and all(map(is_number, below)) and norms_among(names, source.column)
        for names, below in pairs
    )


def _tabbed(piece: Piece) -> Piece:
    """Return a piece with a tab for the blanks between cells."""
    return Piece(piece.line, BLANKS.sub(b"\t", AHEAD.sub(b"", piece.data)), piece.open)


def _from(line: int, piece: Piece) -> Piece:
    """Return the lines of a piece from one on."""
    return Piece(line, b"".join(text for number, text in piece.lines() if number >= line), piece.open)


def _head(first: Piece, source: Source) -> Head:
    """Return the head of a table: the first line that names a norm, or else the first on which there is something."""
    lines = ((line, data.decode(errors="replace").strip()) for line, data in islice(first.lines(), MOST_ABOVE))
    filled = [found for found in lines if found[1]] or [(1, "")]
    named = (found for found in filled if norms_among(CELLS.split(found[1]), source.column))
    line, text = next(named, filled[0])
    separator = max(SEPARATORS, key=text.count)
    cells = [cell for _, _, row in islice(_rows([_from(line, first)], separator, source), 1) for cell in row]
    names = [cell.strip() for cell in cells]
    if names and all(map(is_number, names)):
        source.refuse("the first line must name the columns, and holds numbers. Write their names above it.", line)
    return Head(separator, names, line + 1 + sum(cell.count("\n") for cell in cells))


def _by_polars(piece: Piece, head: Head, source: Source) -> Chunk | None:
    """Return the rows of a piece as polars reads them; None where they are not its lines, or the last may be torn."""
    places = {role: str(head.names.index(name)) for role, name in source.fields.items()}
    numbered = head.separator.join(map(str, range(len(head.names)))).encode() + b"\n"
    try:
        cells = pl.read_csv(
            numbered + piece.data,
            separator=head.separator,
            columns=list(places.values()),
            infer_schema=False,
            truncate_ragged_lines=True,
            encoding="utf8-lossy",
        )
    except UNREADABLE:
        return None
    if piece.open or cells.height != len(piece):
        return None
    frame = cells.select(pl.col(place).alias(role) for role, place in places.items())
    return Chunk(range(piece.line, piece.line + len(piece)), frame)


def _entries(
    rows: Iterable[tuple[int, bool, list[str]]], head: Head, source: Source
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, is_open, cells in rows:
        if is_open and 0 < len(cells) < len(head.names):
            source.torn.add(line)
        elif cells:
            named = list(zip(head.names, cells, strict=False))
            yield line, dict(reversed(named))  # of two columns of one name the first counts


def _rows(some: Iterable[Piece], separator: str, source: Source) -> Iterator[tuple[int, bool, list[str]]]:
    """Return the rows of pieces: the line on which each begins, whether nothing ends it, and cells of any lines."""
    last, start = b"", 0

    def lines() -> Iterator[str]:
        nonlocal last, start
        for piece in some:
            start = start or piece.line
            for _, last in piece.lines():
                yield last.decode(errors="replace")

    reader, begin = csv.reader(lines(), delimiter=separator), 0
    try:
        for cells in reader:
            yield start + begin, not last.endswith(b"\n"), cells
            begin = reader.line_num
    except csv.Error as error:
        problem = f"the row cannot be read ({error}). Is a quote not closed? Correct or delete it."
        source.refuse(problem, start + begin)
