"""A file in pieces of whole lines, so that its size does not matter."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import final

from gradclip.analysis.reading.source import Source

SIZE = 4 * 2**20
"""Bytes of a piece, as a rule."""

PROLOGUE = 2**18
"""Bytes of text in which there is the first norm, or the name of one: there may be settings or warnings above it."""

LONGEST_LINE = 64 * 2**20
"""Bytes of a line that no record has."""

MARK = b"\xef\xbb\xbf"
"""The order of bytes, which some programs write in front of UTF-8."""


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
    def height(self) -> int:
        """How many lines there are."""
        return self.data.count(b"\n") + self.open

    @cached_property
    def lines(self) -> list[bytes]:
        """The lines, with their ends."""
        return BytesIO(self.data).readlines()

    def since(self, line: int) -> "Piece":
        """Return the lines from the one of this number on."""
        above = line - self.line
        return Piece(line, b"".join(self.data.split(b"\n", above)[above:]), self.open)


def pieces(source: Source) -> Iterator[Piece]:
    """Return the pieces of a file.

    Raises:
        ReadError: If a line has no end for too long.
    """
    line, end = 1, sys.maxsize if source.size is None else source.size
    with source.files[0].open("rb") as file:
        if file.read(len(MARK)) != MARK:
            file.seek(0)
        while data := file.read(min(SIZE, end - file.tell())):
            data += file.readline(min(LONGEST_LINE, end - file.tell()))
            whole = data[: data.rfind(b"\n") + 1]
            if whole:
                piece = Piece(line, whole)
                yield piece
                line += piece.height
            if len(data) - len(whole) >= LONGEST_LINE:
                source.refuse("the line is longer than 64 MiB. Is this a file of records, one a line?", line)
            if len(data) > len(whole):
                yield Piece(line, data[len(whole) :], open=True)
                return
