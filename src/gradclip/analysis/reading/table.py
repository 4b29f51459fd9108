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
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import final

from gradclip.analysis.reading.pieces import Piece, pieces
from gradclip.analysis.reading.rows import Chunk, chunk_of, polars
from gradclip.analysis.reading.source import Source
from gradclip.analysis.reading.text import number

SEPARATORS = ",;\t|"
"""What may stand between cells: the one of which there are most in the first line."""

AT_ONCE = 10_000
"""Rows with cells over several lines that are read at once."""


def read_table(files: Sequence[Path], source: Source) -> Iterator[Chunk]:
    """Return the rows of a table, piece by piece.

    Raises:
        ReadError: If a row cannot be read, or no column is that of the norm.
    """
    source.any_order = True
    with files[0].open("rb") as file:
        rest = pieces(file, source.path)
        table = _Table(next(rest, Piece(1, b"")), source)
        yield from table.chunks(chain([table.below], rest))


@final
class _Table:
    """A table, of which the names in the first piece are read at once.

    Attributes:
        below: What comes below the names in this piece.
    """

    def __init__(self, first: Piece, source: Source) -> None:
        self._source = source
        text = first.data.strip().partition(b"\n")[0].decode(errors="replace")
        self._separator = max(SEPARATORS, key=text.count)
        names: list[str] = []
        below = first.line
        for _, below, cells in self._rows([first]):
            if any(names := [cell.strip() for cell in cells]):
                break
        if names and all(map(_is_number, names)):
            source.refuse(
                "the first line must name the columns, and holds numbers. Write their names above it.", below - 1
            )
        source.choose(dict.fromkeys(names), "column")
        self._width = len(names)
        self._places = {name: names.index(name) for name in source.fields.values()}
        above = sum(len(text) for line, text in first.lines() if line < below)
        self.below = Piece(below, first.data[above:], open=first.open)

    def chunks(self, rest: Iterator[Piece]) -> Iterator[Chunk]:
        """Return the rows of pieces: by polars where every line is one row, by Python where cells have several."""
        for piece in rest:
            if chunk := self._parsed(piece):
                yield chunk
                continue
            some = chain([piece], rest) if b'"' in piece.data else [piece]  # a cell may go on in the next piece
            entries = self._entries(some)
            while batch := list(islice(entries, AT_ONCE)):
                yield chunk_of(batch, self._source)

    def _parsed(self, piece: Piece) -> Chunk | None:
        pl = polars(self._source)
        header = self._separator.join(map(str, range(self._width))).encode() + b"\n"
        try:
            cells = pl.read_csv(
                header + piece.data,
                separator=self._separator,
                columns=[str(place) for place in self._places.values()],
                infer_schema=False,
                truncate_ragged_lines=True,
                encoding="utf8-lossy",
            )
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return None
        if piece.open or cells.height != piece.count:
            return None
        fields = self._source.fields
        frame = cells.select(pl.col(str(self._places[name])).alias(role) for role, name in fields.items())
        lines = range(piece.line, piece.line + piece.count)
        return Chunk(lines, frame, lambda row, name: cells[row, str(self._places[name])] or "")

    def _entries(self, some: Iterable[Piece]) -> Iterator[tuple[int, dict[str, str]]]:
        is_open = False

        def noticed() -> Iterator[Piece]:
            nonlocal is_open
            for piece in some:
                is_open = piece.open
                yield piece

        for line, _, cells in self._rows(noticed()):
            if is_open and 0 < len(cells) < self._width:
                self._source.torn.append(line)
            elif cells:
                yield line, {name: cells[place] for name, place in self._places.items() if place < len(cells)}

    def _rows(self, some: Iterable[Piece]) -> Iterator[tuple[int, int, list[str]]]:
        """Return the line on which each row begins, the one below it, and its cells."""
        start, begin = 0, 0

        def lines() -> Iterator[str]:
            nonlocal start
            for piece in some:
                start = start or piece.line
                yield from (text.decode(errors="replace") for _, text in piece.lines())

        reader = csv.reader(lines(), delimiter=self._separator)
        try:
            for cells in reader:
                yield start + begin, start + reader.line_num, cells
                begin = reader.line_num
        except csv.Error as error:
            problem = f"the row cannot be read ({error}). Is a quote not closed? Correct or delete it."
            self._source.refuse(problem, start + begin)


def _is_number(cell: str) -> bool:
    try:
        return number(cell) is not None
    except ValueError:
        return False
