"""A file in pieces of whole lines, so that its size does not matter."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from os import PathLike
from typing import BinaryIO, final

from gradclip.analysis.reading.error import ReadError

SIZE = 4 * 2**20
"""Bytes of a piece, as a rule."""

LONGEST_LINE = 64 * 2**20
"""Bytes of a line that no record has."""


@final
@dataclass(frozen=True)
class Piece:
    """Some lines of a file.

    Attributes:
        line: The number of the first, from 1.
        data: Their bytes.
        open: Whether this is one last line without an end, whose writer may have been stopped.
    """

    line: int
    data: bytes
    open: bool = False

    @cached_property
    def count(self) -> int:
        """How many lines there are."""
        return self.data.count(b"\n") + self.open

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Return the lines with their numbers, one by one."""
        start, number = 0, self.line
        while start < len(self.data):
            end = self.data.find(b"\n", start) + 1 or len(self.data)
            yield number, self.data[start:end]
            start, number = end, number + 1

    def below(self, line: int) -> "Piece":
        """Return the lines from one on."""
        above = sum(len(text) for _, text in islice(self.lines(), line - self.line))
        return Piece(line, self.data[above:], self.open)


def pieces(file: BinaryIO, path: str | PathLike[str]) -> Iterator[Piece]:
    """Return the pieces of a file from where it is read next, without a byte order mark.

    Raises:
        ReadError: If a line has no end for too long.
    """
    line, rest = 1, b""
    while read := file.read(SIZE):
        if line == 1 and not rest:
            read = read.removeprefix(b"\xef\xbb\xbf")
        cut = read.rfind(b"\n") + 1
        if cut:
            piece = Piece(line, rest + read[:cut])
            yield piece
            line, rest = line + piece.count, read[cut:]
        elif len(rest) > LONGEST_LINE:
            problem = "the line is longer than 64 MiB. Is this a file of records, one a line?"
            raise ReadError(path, problem, line=line)
        else:
            rest += read
    if rest:
        yield Piece(line, rest, open=True)
