"""A file that grows, read as a finished run is whenever it has grown: whole lines alone."""

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NoReturn, final

from gradclip.analysis.reading import ReadError, read_series
from gradclip.analysis.reading.error import NoNormError, printable, said
from gradclip.analysis.reading.kinds import files_of
from gradclip.analysis.reading.pieces import LONGEST_LINE, PROLOGUE
from gradclip.analysis.series import Series
from gradclip.cli.recorded import read

MISSING, GONE = "there is no such file", "the file is gone"

REPLACED, CUT = "the file was replaced", "the file was cut short"

LINES = ("jsonl", "printed", "table")
"""What grows by lines."""

BLANK = b" \t\r\n\0\xef\xbb\xbf"


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
        modified: When somebody last wrote to the file, in seconds since 1970; 0 where that is not known.
    """

    def __init__(self, path: Path, column: str | None, name: str, run: str | None = None) -> None:
        self.run: Series | None = None
        self.why_none, self.absent, self.anew = "reading", "", ""
        self.modified = 0.0
        self._path, self._name = path, name
        self._asked = {"column": column, "run": run}
        self._seen: os.stat_result | None = None
        self._head, self._whole = b"", 0  # the first of the lines that were read; bytes of all of them

    def look(self) -> bool:
        """Read the run, where there are more lines than at the last look; say whether there are.

        Raises:
            ReadError: If it is no file of lines, or no run is in it.
        """
        try:
            with said(self._path):
                if self._path.is_dir():
                    self._refuse("it is a folder. Name a file in it.")
                if self._path.exists() and not self._path.is_file():  # a pipe would keep us waiting
                    self._refuse("it is no file. Write the run to a file and name that.")
                with suppress(FileNotFoundError), self._path.open("rb") as file:
                    return self._read(file)
                self.absent = GONE if self._seen else MISSING
                return False
        except ReadError as error:  # which calls the file by its path
            error.args = (str(error).replace(printable(str(self._path)), printable(self._name)),)
            raise

    def finish(self) -> None:
        """Read all that there is, as of a run that is over; also at the end of standard input.

        Raises:
            UserError: If there is no file, or no run in it.
        """
        self.run = read(self._path, self._asked["column"], self._asked["run"])
        with suppress(FileNotFoundError):
            self.modified = self._path.stat().st_mtime

    def _read(self, file: BinaryIO) -> bool:
        before, now, head = self._seen, os.fstat(file.fileno()), file.read(PROLOGUE)
        if before is not None:
            is_same = not self.absent and os.path.samestat(before, now)
            if is_same and (before.st_size, before.st_mtime_ns) == (now.st_size, now.st_mtime_ns):
                return False
            if is_same and now.st_size < self._whole:
                self.run, self.anew = None, CUT
            elif not is_same or not head.startswith(self._head):
                self.run, self.anew = None, REPLACED
        self._seen, self.absent, self.modified = now, "", now.st_mtime
        self._head = head[: head.rfind(b"\n") + 1]
        if self.run is None:
            if not head.strip(BLANK):
                self.why_none = "no record yet"
                return False
            kind, *_ = files_of(self._path, self._asked["column"])
            if kind not in LINES:
                if self._may_be_settings(head):
                    return self._has_no_norm(now.st_size)
                self._refuse("it does not grow by lines. Use `gradclip report` for such files.")
        whole = _end_of_lines(file, now.st_size)
        if now.st_size - whole > LONGEST_LINE:
            self._refuse("its last line is longer than 64 MiB. Is this a file of records, one a line?")
        if whole == (0 if self.run is None else self._whole):  # but the line in the making has grown
            return False
        self._whole = whole
        try:
            self.run = read_series(self._path, **self._asked, size=whole)
        except NoNormError:
            if self.run is not None or whole >= PROLOGUE:
                raise
            return self._has_no_norm(whole)
        except ReadError as error:
            if isinstance(error.__cause__, FileNotFoundError):  # somebody has taken it away meanwhile
                raise FileNotFoundError from error
            raise
        return True

    def _may_be_settings(self, head: bytes) -> bool:
        """Say whether it begins with an object over lines, which is no run: steps may be printed below."""
        if not head.lstrip(BLANK).startswith(b"{") or b'"log_history"' in head or len(head) == PROLOGUE:
            return False
        try:
            read_series(self._path, **self._asked)
        except ReadError:
            return True
        return False

    def _has_no_norm(self, size: int) -> bool:
        self.why_none = f"no norm yet in {size:,} bytes"
        return False

    def _refuse(self, problem: str) -> NoReturn:
        raise ReadError(self._path, problem)


def _end_of_lines(file: BinaryIO, end: int) -> int:
    """Return where the last whole line ends of so many bytes: others go on writing."""
    while end > 0:
        start = max(0, end - PROLOGUE)
        file.seek(start)
        if (last := file.read(end - start).rfind(b"\n")) >= 0:
            return start + last + 1
        end = start
    return 0
