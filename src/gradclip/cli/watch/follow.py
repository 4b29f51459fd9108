"""A file that grows, piece by piece, whatever happens to it in between."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple, final

from gradclip.analysis.reading import ReadError
from gradclip.analysis.reading.kinds import files_of
from gradclip.analysis.reading.pieces import LONGEST_LINE, Piece

SIZE = 2**20
"""Bytes that are read at a time: some thousand lines."""

TRACE = 256
"""Bytes before the place that is reached. If they change, this is another file under the same name."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

MISSING = "there is no such file"
GONE = "the file is gone"
REPLACED = "the file was replaced"
CUT = "the file was cut short"


@final
class Found(NamedTuple):
    """What a look at the file found.

    Attributes:
        piece: The next whole lines, if there are any.
        rest: What there is of a last line without an end, where nothing stands between it and the lines read.
        absent: Why there is no file: `MISSING` or `GONE`; empty where there is one.
        anew: Why the piece is the beginning of another file: `REPLACED` or `CUT`; empty where it goes on.
        reached: How many bytes are read so far, in lines that have an end.
        size: How many there are.
        modified: When somebody last wrote to it, in seconds since 1970.
    """

    piece: Piece | None = None
    rest: Piece | None = None
    absent: str = ""
    anew: str = ""
    reached: int = 0
    size: int = 0
    modified: float = 0.0

    @property
    def behind(self) -> int:
        """Bytes that are there and not read, but for those of a last line without an end."""
        return self.size - self.reached - (0 if self.rest is None else len(self.rest.data))


@final
class Follower:
    """The lines of a file, each once.

    The file is closed between two looks: nobody who wants to move or remove it has to wait. What is read of a last line
    without an end is read again, so that a writer may remove it, as `JSONLines` does after a crash.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._is_gone = False
        self._start()

    def _start(self) -> None:
        self._reached, self._line, self._trace = 0, 1, b""

    def look(self) -> Found:
        """Read the next lines.

        Raises:
            ReadError: If it is no file of lines, or may not be read.
        """
        try:
            self._check(self._path.stat())
            with self._path.open("rb") as file:
                return self._read(file)
        except FileNotFoundError:
            self._is_gone = self._identity is not None
            return Found(absent=GONE if self._is_gone else MISSING)
        except PermissionError as error:
            raise ReadError(self._path, "it may not be read. Ask for the permission, or copy it.") from error
        except OSError as error:
            problem = f"it cannot be read ({error.strerror}). Check the path and the disk."
            raise ReadError(self._path, problem) from error

    def _check(self, found: os.stat_result) -> None:
        """Refuse what holds no lines of JSON, before it is opened: a pipe would keep us waiting."""
        if stat.S_ISDIR(found.st_mode):
            raise ReadError(self._path, "it is a folder. Name a file of JSON Lines in it.")
        if not stat.S_ISREG(found.st_mode):
            raise ReadError(self._path, "it is no file. Write the run to a file and name that.")

    def _read(self, file: BinaryIO) -> Found:
        found = os.fstat(file.fileno())
        anew = self._other(file, found)
        if anew:
            self._start()
        self._identity, self._is_gone = (found.st_dev, found.st_ino), False
        file.seek(self._reached)
        data = file.read(SIZE)
        if self._reached == 0 and data.strip() and files_of(self._path)[0] != "jsonl":
            raise ReadError(self._path, "only JSON Lines can be watched. Use `gradclip report` for other files.")
        while b"\n" not in data and (more := file.read(SIZE)):
            data += more
            if len(data) > LONGEST_LINE:
                problem = "the line is longer than 64 MiB. Is this a file of records, one a line?"
                raise ReadError(self._path, problem, line=self._line)
        cut = data.rfind(b"\n") + 1
        reached, size = self._reached, max(found.st_size, self._reached + len(data))
        piece = Piece(self._line, self._without_mark(data[:cut])) if cut else None
        if piece is not None:
            self._reached += cut
            self._line += piece.count
            self._trace = (self._trace + data[:cut])[-TRACE:]
        is_end = cut < len(data) and reached + len(data) == size
        rest = Piece(self._line, self._without_mark(data[cut:]), open=True) if is_end else None
        return Found(piece, rest, "", anew, self._reached, size, found.st_mtime)

    def _other(self, file: BinaryIO, found: os.stat_result) -> str:
        """Return why this is not the file of the last look, or nothing."""
        if self._identity is None:
            return ""
        if self._is_gone or (found.st_dev, found.st_ino) != self._identity:
            return REPLACED
        if found.st_size < self._reached:
            return CUT
        file.seek(self._reached - len(self._trace))
        return "" if file.read(len(self._trace)) == self._trace else REPLACED

    def _without_mark(self, data: bytes) -> bytes:
        return data.removeprefix(BYTE_ORDER_MARK) if self._line == 1 else data
