"""Tables: CSV of any kind, with a line of names first, such as what Weights & Biases exports.

    step,grad_norm,loss                "Step","RUN - train/grad_norm","RUN - train/grad_norm__MIN",...
    1,1.25,2.5                         "10","1.25","1.25",...
    2,nan,2.4                          "20","NaN","NaN",...

- Columns are separated by commas, semicolons, tabs or bars; numbers have points, and may be quoted.
- A cell that is empty, "-", "null" and the like holds no number: a row without a norm is left out, unless it has one of
  our statuses. "nan" and "inf" are norms that were not finite.
- A last line with too few cells is torn. It is left out with a remark.
- Rows that are in no order, or the last first, are sorted by step.
"""

import csv
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, final

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.frames import from_text, polars, rows_from
from gradclip.analysis.reading.gather import Gathering, torn_lines
from gradclip.analysis.reading.names import choose
from gradclip.analysis.reading.pieces import Piece, pieces
from gradclip.analysis.reading.rows import Rows, rows_of
from gradclip.analysis.reading.text import number
from gradclip.analysis.series import Series

SEPARATORS = ",;\t|"
"""What may stand between cells: the one of which there are most in the first line."""

AT_ONCE = 10_000
"""Rows that the slow way reads at once."""


def read_table(path: Path, column: str | None) -> Series:
    """Read a table.

    Args:
        path: The file.
        column: The column of the norm; None for a usual name.

    Returns:
        The run.

    Raises:
        ReadError: If it holds none.
    """
    polars(path)
    gathering = Gathering(path)
    with path.open("rb") as file:
        rest = pieces(file, path)
        first = next(rest, Piece(1, b""))
        table = _Table(path, first, column)
        for rows in table.rows(chain([table.below(first)], rest)):
            gathering.add(rows)
    if table.torn:
        gathering.remarks.append(torn_lines(table.torn))
    return gathering.series(sort=True)


@final
class _Row(NamedTuple):
    """A row: the line that it begins on, the one below it, whether nothing ends it, and its cells."""

    line: int
    below: int
    open: bool
    cells: list[str]


@final
class _Table:
    """A table: with polars, and row by row where cells are not what is usual there.

    Args:
        path: The file.
        first: Its first piece, with the names of the columns.
        column: The column of the norm.
    """

    def __init__(self, path: Path, first: Piece, column: str | None) -> None:
        self._polars: Any = polars(path)
        self._path = path
        text = first.data.strip().partition(b"\n")[0].decode(errors="replace")
        self._separator = max(SEPARATORS, key=text.count)
        names: list[str] = []
        self._below = first.line
        for row in self._cells([first]):
            self._below = row.below
            if any(names := [cell.strip() for cell in row.cells]):
                break
        if names and all(map(_is_number, names)):
            problem = "the first line must name the columns, and holds numbers. Write their names above it."
            raise ReadError(path, problem, line=self._below - 1)
        self._fields = choose(names, column, path)
        self._width = len(names)
        self._places = {name: names.index(name) for name in self._fields.values()}
        self.torn: list[int] = []
        """Lines that are torn."""

    def below(self, first: Piece) -> Piece:
        """Return what comes below the names in the first piece."""
        above = sum(len(text) for line, text in first.lines() if line < self._below)
        return Piece(self._below, first.data[above:], open=first.open)

    def rows(self, rest: Iterator[Piece]) -> Iterator[Rows]:
        """Return the rows of pieces."""
        for piece in rest:
            quick = None if piece.open else self._quick(piece)
            if quick is not None:
                yield quick
            elif b'"' in piece.data:  # where a cell may go on in the next piece
                yield from self._slow(chain([piece], rest))
            else:
                yield from self._slow([piece])

    def _quick(self, piece: Piece) -> Rows | None:
        """Return the rows of a piece; None where rows are not lines, or a number is none."""
        errors = self._polars.exceptions
        header = self._separator.join(map(str, range(self._width))).encode() + b"\n"
        try:
            cells = self._polars.read_csv(
                header + piece.data,
                separator=self._separator,
                columns=[str(place) for place in self._places.values()],
                infer_schema=False,
                truncate_ragged_lines=True,
                encoding="utf8-lossy",
            )
        except (errors.PolarsError, errors.PanicException):
            return None
        if cells.height != piece.count:
            return None
        named = cells.select(self._polars.col(str(place)).alias(name) for name, place in self._places.items())
        numbers = from_text(named, self._fields)
        return None if numbers is None else rows_from(numbers, self._fields, piece.line)

    def _slow(self, some: Iterable[Piece]) -> Iterator[Rows]:
        entries = self._entries(some)
        while batch := list(islice(entries, AT_ONCE)):
            yield rows_of(batch, self._fields, self._path)

    def _entries(self, some: Iterable[Piece]) -> Iterator[tuple[int, dict[str, str]]]:
        for row in self._cells(some):
            if row.open and 0 < len(row.cells) < self._width:
                self.torn.append(row.line)
            elif row.cells:
                cells = {name: row.cells[place] for name, place in self._places.items() if place < len(row.cells)}
                yield row.line, cells

    def _cells(self, some: Iterable[Piece]) -> Iterator[_Row]:
        last, start = False, 0

        def lines() -> Iterator[str]:
            nonlocal last, start
            for piece in some:
                start = start or piece.line
                for _, text in piece.lines():
                    last = piece.open
                    yield text.decode(errors="replace")

        reader = csv.reader(lines(), delimiter=self._separator)
        begin = 0
        try:
            for cells in reader:
                yield _Row(start + begin, start + reader.line_num, last, cells)
                begin = reader.line_num
        except csv.Error as error:
            problem = f"the row cannot be read ({error}). Is a quote not closed? Correct or delete it."
            raise ReadError(self._path, problem, line=start + begin) from error


def _is_number(cell: str) -> bool:
    try:
        return number(cell) is not None
    except ValueError:
        return False
