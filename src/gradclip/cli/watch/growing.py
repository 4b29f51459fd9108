"""A file that grows, read by the readers of finished runs: of what is new in it, whole lines alone, and each once."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, NoReturn, final

import torch

from gradclip.analysis.reading import ReadError, read_series
from gradclip.analysis.reading.error import printable
from gradclip.analysis.reading.kinds import PROLOGUE, files_of
from gradclip.analysis.reading.order import spaced
from gradclip.analysis.reading.pieces import LONGEST_LINE
from gradclip.analysis.series import Series
from gradclip.cli.watch.rows import joined, rows_from

TRACE = 256
"""Bytes before the place that is reached. If they change, this is another file under the same name."""

BLOCK = 2**16
"""Bytes in which the end of the last whole line is looked for."""

MISSING, GONE = "there is no such file", "the file is gone"

REPLACED, CUT = "the file was replaced", "the file was cut short"

LINES = ("jsonl", "printed", "table")
"""What grows by lines."""


@final
class Growing:
    """The run in a file that somebody writes to.

    The file is read as a whole once there is a norm in it. From then on its new lines are read, below the first ones,
    which say what kind of file it is. Where new lines do not go on where the others end, as those of a run that goes
    back, it is read as a whole again: what that means is for the readers to say. It is closed between two looks: nobody
    who wants to move it has to wait.

    Args:
        path: The file; it need not exist.
        column: The column of the norm; None for a usual name.
        name: What messages call it.
        run: The run, or group, where it holds several.

    Attributes:
        run: What was read; None where there is no norm yet.
        why_none: What is missing, in that case.
        absent: Why there is no file: `MISSING` or `GONE`; empty where there is one.
        anew: Why the run is that of another file than before: `REPLACED` or `CUT`; empty where it is not.
        modified: When somebody last wrote to the file, in seconds since 1970.
    """

    def __init__(self, path: Path, column: str | None, name: str, run: str | None = None) -> None:
        self.run: Series | None = None
        self.why_none, self.absent, self.anew = "reading", "", ""
        self.modified = 0.0
        self._path, self._name = path, name
        self._asked = {"column": column} | ({} if run is None else {"run": run})
        self._identity: tuple[int, int] | None = None
        self._was_absent = False
        self._start()

    def _start(self) -> None:
        self.run, self._reached, self._trace = None, 0, b""
        self._head, self._first = b"", torch.tensor([])  # the first lines with a norm among them, and their steps

    @contextmanager
    def look(self) -> Iterator[tuple[Series, Path] | None]:
        """Read what is new: the rows, all of them where `run` begins anew, and a file with their lines.

        Raises:
            ReadError: If it is no file of lines, or no run is in it.
        """
        with (
            TemporaryDirectory(prefix="gradclip-") as folder,
            self._told(Path(folder, f"run{self._path.suffix}")) as copy,
        ):
            self._was_absent, self.absent = bool(self.absent), ""
            try:
                self._check(self._path.stat())
                with self._path.open("rb") as file:
                    rows = self._read(file, copy)
            except FileNotFoundError:
                self.absent, rows = GONE if self._identity else MISSING, None
            yield None if rows is None else (rows, copy)

    def finish(self) -> Series:
        """Read all that there is, a last line without an end included where it is whole.

        Raises:
            ReadError: If there is no file, or no run in it.
        """
        with self._told(self._path):
            if self._path.exists():  # else the readers say so
                self._check(self._path.stat())
                self._check_kind()
                self.modified = self._path.stat().st_mtime
            self.run = self._whole(self._path)
            return self.run

    def _whole(self, path: Path) -> Series:
        """Read a run, and leave out what its reader remarks for advice alone."""
        run = read_series(path, **self._asked)
        return replace(run, remarks=tuple(remark for remark in run.remarks if remark not in spaced(run.steps)))

    @contextmanager
    def _told(self, path: Path) -> Iterator[Path]:
        """Have errors call a file by the name that the user knows."""
        try:
            yield path
        except ReadError as error:
            error.args = (str(error).replace(printable(str(path)), printable(self._name)),)
            raise
        except PermissionError:
            self._refuse("it may not be read. Ask for the permission, or copy it.")
        except OSError as error:
            self._refuse(f"it cannot be read ({error.strerror}). Check the path and the disk.")

    def _refuse(self, problem: str) -> NoReturn:
        raise ReadError(self._name, problem) from None

    def _check(self, found: os.stat_result) -> None:
        """Refuse what does not grow by lines, before it is opened: a pipe would keep us waiting."""
        if stat.S_ISDIR(found.st_mode):
            self._refuse("it is a folder. Name a file in it.")
        if not stat.S_ISREG(found.st_mode):
            self._refuse("it is no file. Write the run to a file and name that.")

    def _check_kind(self) -> None:
        if files_of(self._path, self._asked["column"])[0] not in LINES:
            self._refuse("it does not grow by lines. Use `gradclip report` for such files.")

    def _read(self, file: BinaryIO, copy: Path) -> Series | None:
        found = os.fstat(file.fileno())
        if anew := self._other(file, found):
            self.anew = anew
            self._start()
        self._identity, self.modified = (found.st_dev, found.st_ino), found.st_mtime
        if not self._reached:
            file.seek(0)
            if not file.read(BLOCK).strip(b" \t\r\n\0\xef\xbb\xbf"):
                self.why_none = "no record yet"
                return None
            self._check_kind()
        new = _copy(file, self._reached, copy, self._head)
        if not new:
            if found.st_size - self._reached > LONGEST_LINE:
                self._refuse("its last line is longer than 64 MiB. Is this a file of records, one a line?")
            return None
        rows = self._onward(copy) if self._head else None
        if rows is not None and self.run is not None:
            self.run = joined(self.run, rows)
        else:
            new, self._reached = _copy(file, 0, copy), 0
            if not self._head and not self._find_head(copy):
                return None
            rows = self.run = self._whole(copy)
        self._reached += new
        file.seek(max(0, self._reached - TRACE))
        self._trace = file.read(min(TRACE, self._reached))
        return rows

    def _onward(self, copy: Path) -> Series | None:
        """Return the rows below the first lines; None where they are not simply later than those of the run."""
        if self.run is None:
            return None
        try:
            found = read_series(copy, **self._asked)
        except ReadError:
            return None
        known, last = len(self._first), int(self.run.steps[-1])
        if not found.steps[:known].equal(self._first) or any(" torn" in remark for remark in found.remarks):
            return None
        rows = rows_from(found, known)
        if any("counted from 1" in remark for remark in found.remarks):  # where the lines do not number their steps
            return replace(rows, steps=rows.steps + last - known)
        return rows if not len(rows) or int(rows.steps[0]) > last else None

    def _find_head(self, copy: Path) -> bool:
        """Find the first lines that are a run by themselves; say whether there is something to be read."""
        with copy.open("rb") as file:
            lines = [file.readline(), *file.readlines(PROLOGUE)]
        few = copy.with_stem("head")
        count = 1
        while True:
            few.write_bytes(head := b"".join(lines[:count]))
            try:
                first = read_series(few, **self._asked)
            except ReadError as error:
                if count >= len(lines):  # it is about something else so far, or the readers are to say what is wrong
                    self.why_none = f"no norm yet in {len(head):,} bytes"
                    return error.line is not None or len(head) >= PROLOGUE
                count *= 2
            else:
                self._head, self._first = head, first.steps
                return True

    def _other(self, file: BinaryIO, found: os.stat_result) -> str:
        """Return why this is not the file of the last look, or nothing."""
        if self._identity is None:
            return ""
        if (found.st_dev, found.st_ino) != self._identity or self._was_absent:
            return REPLACED
        if found.st_size < self._reached:
            return CUT
        file.seek(self._reached - len(self._trace))
        return "" if file.read(len(self._trace)) == self._trace else REPLACED


def _copy(file: BinaryIO, begin: int, copy: Path, head: bytes = b"") -> int:
    """Write some lines, and the whole lines of a file from a place on, into another; return how long the latter are."""
    file.seek(begin)
    with copy.open("w+b") as out:
        out.write(head)
        shutil.copyfileobj(file, out, 2**20)
        end = out.tell()
        while end > len(head):
            start = max(len(head), end - BLOCK)
            out.seek(start)
            if (cut := out.read(end - start).rfind(b"\n") + 1) > 0:
                out.truncate(start + cut)
                return start + cut - len(head)
            end = start
    return 0
