"""A file that grows, read as a finished run is whenever it has grown: whole lines alone."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, NoReturn, final

from gradclip.analysis.reading import ReadError, read_series
from gradclip.analysis.reading.error import NoNormError, printable, said
from gradclip.analysis.reading.kinds import files_of
from gradclip.analysis.reading.order import spaced
from gradclip.analysis.reading.pieces import LONGEST_LINE, PROLOGUE
from gradclip.analysis.series import Series

TRACE = 256
"""Bytes before the place that is reached. If they change, this is another file under the same name."""

MISSING, GONE = "there is no such file", "the file is gone"

REPLACED, CUT = "the file was replaced", "the file was cut short"

LINES = ("jsonl", "printed", "table")
"""What grows by lines."""


@final
class Growing:
    """The run in a file that somebody writes to.

    It is closed between two looks: nobody who wants to move it has to wait.

    Args:
        path: The file; it need not exist.
        column: The column of the norm; None for a usual name.
        name: What messages call it.
        run: The run, or group, where it holds several.

    Attributes:
        run: What was read; None where there is no norm yet.
        why_none: What is missing, where there is no run.
        absent: Why there is no file: `MISSING` or `GONE`; empty where there is one.
        anew: Why the run is that of another file than before: `REPLACED` or `CUT`; empty where it is not.
        modified: When somebody last wrote to the file, in seconds since 1970.
    """

    def __init__(self, path: Path, column: str | None, name: str, run: str | None = None) -> None:
        self.why_none, self.absent = "reading", ""
        self.modified = 0.0
        self._path, self._name = path, name
        self._asked = {"column": column, "run": run}
        self._identity: tuple[int, int] | None = None
        self._begin()

    def _begin(self, anew: str = "") -> None:
        self.run: Series | None = None
        self.anew, self._reached, self._trace = anew, 0, b""

    def look(self) -> bool:
        """Read the run, where there are more lines than at the last look; say whether there are.

        Raises:
            ReadError: If it is no file of lines, or no run is in it.
        """
        with said(self._name):
            try:
                self._check()
                with self._path.open("rb") as file:
                    grown = self._read(file)
                self.absent = ""
            except FileNotFoundError:
                self.absent, grown = GONE if self._identity else MISSING, False
            return grown

    def finish(self) -> None:
        """Read all that there is, a last line without an end included where it is whole.

        Raises:
            ReadError: If there is no file, or no run in it.
        """
        with said(self._name):
            with suppress(FileNotFoundError):  # which the readers say better
                self._check()
                self._check_kind()
            self.run = self._whole(self._path)

    def _whole(self, path: Path) -> Series:
        """Read a run, and leave out what its reader remarks for advice alone."""
        with self._told(path):
            run = read_series(path, **self._asked)
        return replace(run, remarks=tuple(remark for remark in run.remarks if remark not in spaced(run.steps)))

    @contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        """Have errors call a file by the name that the user knows."""
        try:
            yield
        except ReadError as error:
            error.args = (str(error).replace(printable(str(path)), printable(self._name)),)
            raise

    def _refuse(self, problem: str) -> NoReturn:
        raise ReadError(self._name, problem) from None

    def _check(self) -> None:
        """Refuse what does not grow by lines, before it is opened: a pipe would keep us waiting."""
        found = self._path.stat()
        if stat.S_ISDIR(found.st_mode):
            self._refuse("it is a folder. Name a file in it.")
        if not stat.S_ISREG(found.st_mode):
            self._refuse("it is no file. Write the run to a file and name that.")
        self.modified = found.st_mtime

    def _check_kind(self) -> None:
        with self._told(self._path):
            kind, *_ = files_of(self._path, self._asked["column"])
        if kind not in LINES:
            self._refuse("it does not grow by lines. Use `gradclip report` for such files.")

    def _read(self, file: BinaryIO) -> bool:
        found = os.fstat(file.fileno())
        if anew := self._other(file, found):
            self._begin(anew)
        self._identity = found.st_dev, found.st_ino
        if found.st_size == self._reached > 0:
            return False
        if not self._reached:
            file.seek(0)
            if not file.read(PROLOGUE).strip(b" \t\r\n\0\xef\xbb\xbf"):
                self.why_none = "no record yet"
                return False
            self._check_kind()
        with _copied(file, self._path.suffix) as (copy, size):
            if size == self._reached:
                if found.st_size - size > LONGEST_LINE:
                    self._refuse("its last line is longer than 64 MiB. Is this a file of records, one a line?")
                return False
            try:
                self.run = self._whole(copy)
            except NoNormError:
                if self.run is not None or size >= PROLOGUE:
                    raise
                self.why_none = f"no norm yet in {size:,} bytes"
                return False
        self._reached = size
        file.seek(max(0, size - TRACE))
        self._trace = file.read(min(TRACE, size))
        return True

    def _other(self, file: BinaryIO, found: os.stat_result) -> str:
        """Return why this is not the file of the last look, or nothing."""
        if self._identity is None:
            return ""
        if (found.st_dev, found.st_ino) != self._identity or self.absent:
            return REPLACED
        if found.st_size < self._reached:
            return CUT
        file.seek(self._reached - len(self._trace))
        return "" if file.read(len(self._trace)) == self._trace else REPLACED


@contextmanager
def _copied(file: BinaryIO, suffix: str) -> Iterator[tuple[Path, int]]:
    """Copy the whole lines of a file, which others go on writing; return the copy and how many bytes these are."""
    file.seek(0)
    with TemporaryDirectory(prefix="gradclip-") as folder:
        copy, end = Path(folder, f"run{suffix}"), 0
        with copy.open("wb") as out:
            for piece in iter(partial(file.read, 2**20), b""):
                if (last := piece.rfind(b"\n")) >= 0:
                    end = out.tell() + last + 1
                out.write(piece)
            out.truncate(end)
        yield copy, end
