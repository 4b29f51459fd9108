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
- A file that MLflow keeps of a metric has no names: there is a time, the number and the step on each line, and the name
  of the file is that of the metric.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

import polars as pl

from gradclip.analysis.reading.names import norms_among
from gradclip.analysis.reading.pieces import PROLOGUE, Piece, pieces
from gradclip.analysis.reading.printed import is_number
from gradclip.analysis.reading.rows import UNREADABLE, found_in
from gradclip.analysis.reading.source import Source

SEPARATORS = ",;\t|"
"""What may stand between cells: the one of which there are most in the first line."""

CELLS = re.compile(r'[",;\t|]+')
"""What stands between the cells of a table, of any kind."""

AHEAD, BLANKS = re.compile(rb"^[ \t#]+", re.MULTILINE), re.compile(rb"[ \t]+")
"""What may stand before the cells of a line, and between them, where these are words."""

KEPT_BY_MLFLOW = re.compile(rb"\d{13} \S+ \d+\r?\n")
"""How a file begins that holds one metric: by a time in milliseconds."""


def read_table(source: Source) -> Iterator[pl.DataFrame]:
    """Return the rows of a table, piece by piece.

    Raises:
        ReadError: If a row cannot be read, or no column is that of the norm.
    """
    rest = pieces(source)
    first = next(rest, Piece(1, b""))
    if KEPT_BY_MLFLOW.match(first.data) and norms_among([source.path.name], source.column):
        name = source.path.name.replace(" ", "_")
        first = Piece(0, f"timestamp {name} step\n".encode() + first.data, first.open)
    line, are_words = _heading(first, source)
    if are_words:
        first, rest = _tabbed(first), map(_tabbed, rest)
    first = first.since(line)
    heading = first.data.partition(b"\n")[0].decode(errors="replace").strip()
    separator = max(SEPARATORS, key=heading.count)
    _, _, cells = next(_rows([first], separator, source), (line, False, list[str]()))
    names = [cell.strip() for cell in cells]
    if names and all(map(is_number, names)):
        source.refuse("the first line must name the columns, and holds numbers. Write their names above it.", line)
    source.choose([dict.fromkeys(names)])
    first = first.since(line + 1 + sum(cell.count("\n") for cell in cells))
    for piece in chain([first], rest):
        if (found := _by_polars(piece, separator, names, source)) is not None:
            yield found
        else:  # a cell over several lines may go on in the next piece
            some = chain([piece], rest) if b'"' in piece.data else [piece]
            yield from found_in(_entries(_rows(some, separator, source), names, source), source)


def _heading(first: Piece, source: Source) -> tuple[int, bool]:
    """Return the line that names the columns, and whether its cells are words, above as many numbers.

    It is the first that names a norm, or else the first on which there is something.
    """
    texts = (data.decode(errors="replace").strip() for data in Piece(first.line, first.data[:PROLOGUE]).lines)
    lines = [(line, text) for line, text in enumerate(texts, first.line) if text] or [(first.line, "")]
    for (line, text), (_, below) in pairwise([*lines, (0, "")]):
        cells, words, numbers = CELLS.split(text), text.lstrip("# ").split(), below.lstrip("# ").split()
        are_words = len(cells) == 1 and len(words) == len(numbers) and all(map(is_number, numbers))
        if norms_among(words if are_words else cells, source.column) and not any(map(is_number, filter(None, cells))):
            return line, are_words
    return lines[0][0], False


def _tabbed(piece: Piece) -> Piece:
    """Return a piece with a tab for the blanks between cells."""
    return Piece(piece.line, BLANKS.sub(b"\t", AHEAD.sub(b"", piece.data)), piece.open)


def _by_polars(piece: Piece, separator: str, names: list[str], source: Source) -> pl.DataFrame | None:
    """Return the rows of a piece as polars reads them; None where they are not its lines, or the last may be torn."""
    places = {role: str(names.index(name)) for role, name in source.fields.items()}
    numbered = separator.join(map(str, range(len(names)))).encode() + b"\n"
    try:
        cells = pl.read_csv(
            numbered + piece.data,
            separator=separator,
            columns=list(places.values()),
            infer_schema=False,
            truncate_ragged_lines=True,
            encoding="utf8-lossy",
        )
    except UNREADABLE:
        return None
    if piece.open or cells.height != piece.height:
        return None
    frame = cells.select(pl.col(place).alias(role) for role, place in places.items())
    blank = frame.select(pl.all_horizontal(pl.all().is_null()).any()).item()
    frame = frame.with_row_index("line", piece.line)
    return frame.filter(pl.Series([bool(line.strip()) for line in piece.lines])) if blank else frame


def _entries(
    rows: Iterable[tuple[int, bool, list[str]]], names: list[str], source: Source
) -> Iterator[tuple[int, dict[str, str]]]:
    for line, is_open, cells in rows:
        if is_open and 0 < len(cells) < len(names):
            source.torn.add(line)
        elif cells:
            named = list(zip(names, cells, strict=False))
            yield line, dict(reversed(named))  # of two columns of one name the first counts


def _rows(some: Iterable[Piece], separator: str, source: Source) -> Iterator[tuple[int, bool, list[str]]]:
    """Return the rows of pieces: the line on which each begins, whether nothing ends it, and cells of any lines."""
    last, start = b"", 0

    def lines() -> Iterator[str]:
        nonlocal last, start
        for piece in some:
            start = start or piece.line
            for last in piece.lines:
                yield last.decode(errors="replace")

    reader, begin = csv.reader(lines(), delimiter=separator), 0
    try:
        for cells in reader:
            yield start + begin, not last.endswith(b"\n"), cells
            begin = reader.line_num
    except csv.Error as error:
        problem = f"the row cannot be read ({error}). Is a quote not closed? Correct or delete it."
        source.refuse(problem, start + begin)
