"""A file that grows, read by the readers of finished runs: of what is new in it, whole lines alone, and each once."""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, NoReturn, final

import torch

from gradclip.analysis.reading import ReadError, read_series
from gradclip.analysis.reading.error import printable, said
from gradclip.analysis.reading.kinds import PROLOGUE, files_of
from gradclip.analysis.reading.order import spaced
from gradclip.analysis.reading.pieces import LONGEST_LINE
from gradclip.analysis.series import Series

TRACE = 256
"""Bytes before the place that is reached. If they change, this is another file under the same name."""

MISSING, GONE = "there is no such file", "the file is gone"

REPLACED, CUT = "the file was replaced", "the file was cut short"

LINES = ("jsonl", "printed", "table")
"""What grows by lines."""

COLUMNS = [field.name for field in fields(Series) if "Tensor" in str(field.type)]


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
        self.why_none, self.absent = "reading", ""
        self.modified = 0.0
        self._path, self._name = path, name
        self._asked = {"column": column, "run": run}
        self._identity: tuple[int, int] | None = None
        self._begin()

    def _begin(self, anew: str = "") -> None:
        self.run: Series | None = None
        self.anew, self._reached, self._trace = anew, 0, b""
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
            try:
                self._check()
                with self._path.open("rb") as file:
                    rows = self._read(file, copy)
                self.absent = ""
            except FileNotFoundError:
                self.absent, rows = GONE if self._identity else MISSING, None
            yield None if rows is None else (rows, copy)

    def finish(self) -> Series:
        """Read all that there is, a last line without an end included where it is whole.

        Raises:
            ReadError: If there is no file, or no run in it.
        """
        with self._told(self._path):
            with suppress(FileNotFoundError):  # which the readers say better
                self._check()
                self._check_kind()
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
            with said(self._name):
                yield path
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
        if files_of(self._path, self._asked["column"])[0] not in LINES:
            self._refuse("it does not grow by lines. Use `gradclip report` for such files.")

    def _read(self, file: BinaryIO, copy: Path) -> Series | None:
        found = os.fstat(file.fileno())
        if anew := self._other(file, found):
            self._begin(anew)
        self._identity = found.st_dev, found.st_ino
        if not self._reached:
            file.seek(0)
            if not file.read(PROLOGUE).strip(b" \t\r\n\0\xef\xbb\xbf"):
                self.why_none = "no record yet"
                return None
            self._check_kind()
        new = _copy(file, self._reached, copy, self._head)
        if not new:
            if found.st_size - self._reached > LONGEST_LINE:
                self._refuse("its last line is longer than 64 MiB. Is this a file of records, one a line?")
            return None
        rows = self._onward(self.run, copy) if self.run is not None and self._head else None
        if rows is not None and self.run is not None:
            self.run = _joined(self.run, rows)
        else:
            if self._reached:
                new, self._reached = _copy(file, 0, copy), 0
            rows = self.run = self._anew(copy, new)
            if rows is None:
                return None
        self._reached += new
        file.seek(max(0, self._reached - TRACE))
        self._trace = file.read(min(TRACE, self._reached))
        return rows

    def _onward(self, run: Series, copy: Path) -> Series | None:
        """Return the rows below the first lines; None where they are not simply later than those of a run."""
        try:
            found = read_series(copy, **self._asked)
        except ReadError:
            return None
        known, last = len(self._first), int(run.steps[-1])
        if not found.steps[:known].equal(self._first) or any(" torn" in remark for remark in found.remarks):
            return None
        # Where the lines do not number their steps, they are counted on.
        shift = last - known if any("counted from 1" in remark for remark in found.remarks) else 0
        events = tuple(replace(each, step=each.step + shift) for each in found.events if each.step not in self._first)
        columns = {name: column[known:] for name in COLUMNS if (column := getattr(found, name)) is not None}
        columns["steps"] = columns["steps"] + shift
        rows = replace(found, **columns, events=events)
        return rows if not len(rows) or int(rows.steps[0]) > last else None

    def _anew(self, copy: Path, size: int) -> Series | None:
        """Read whole lines as a run; None where they are about something else so far."""
        if not self._head:
            self._find_head(copy)
        try:
            return self._whole(copy)
        except ReadError as error:
            if self._head or error.line is not None or size >= PROLOGUE:
                raise
            self.why_none = f"no norm yet in {size:,} bytes"
            return None

    def _find_head(self, copy: Path) -> None:
        """Find the first lines that are a run by themselves, if any are."""
        with copy.open("rb") as file:
            lines = file.readlines(PROLOGUE)
        few = copy.with_stem("head")
        for count in (2**i for i in range(len(lines).bit_length() + 1)):
            few.write_bytes(head := b"".join(lines[:count]))
            with suppress(ReadError):
                self._first = read_series(few, **self._asked).steps
                self._head = head
                return

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


def _copy(file: BinaryIO, begin: int, copy: Path, head: bytes = b"") -> int:
    """Write some lines, and the whole lines of a file from a place on, into another; return how long the latter are."""
    file.seek(begin)
    end = len(head)
    with copy.open("wb") as out:
        out.write(head)
        for piece in iter(partial(file.read, 2**20), b""):
            if (last := piece.rfind(b"\n")) >= 0:
                end = out.tell() + last + 1
            out.write(piece)
        out.truncate(end)
    return end - len(head)


def _joined(run: Series, later: Series) -> Series:
    """Return a run and the rows after it; of a column that only one of both has, the rest is not known."""
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        parts = [(getattr(part, name), len(part)) for part in (run, later)]
        known = next((column for column, _ in parts if column is not None), None)
        if known is not None:
            unknown = math.nan if known.is_floating_point() else 0
            filled = [known.new_full((rows,), unknown) if column is None else column for column, rows in parts]
            columns[name] = torch.cat(filled)
    return replace(run, **columns, policy=later.policy or run.policy, events=(*run.events, *later.events))
