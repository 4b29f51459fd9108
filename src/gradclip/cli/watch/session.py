"""What is watched: a run in a file that grows, read as a finished one is whenever it has grown, and its alarms."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, final

from gradclip.analysis.as_clips import clips_of
from gradclip.analysis.reading import ReadError, read_series
from gradclip.analysis.reading.error import NoNormError, printable, said
from gradclip.analysis.reading.kinds import files_of
from gradclip.analysis.reading.pieces import LONGEST_LINE, PROLOGUE
from gradclip.analysis.series import Series
from gradclip.cli.recorded import read
from gradclip.cli.watch.waiting import Wait
from gradclip.records import Alarms

REST = 3.0
"""How many times as long as a look takes there is none."""

MISSING, GONE = "there is no such file", "the file is gone"

REPLACED, CUT = "the file was replaced", "the file was cut short"

LINES = ("jsonl", "printed", "table")
"""What grows by lines."""

BLANK = b" \t\r\n\0\xef\xbb\xbf"


@final
class Session:
    """The run in a file that somebody writes to: whole lines alone.

    The file is closed between two looks: nobody who wants to move it has to wait.

    Args:
        path: The file; it need not exist.
        column: The column of the norm; None for a usual name.
        named: The run, or group, where it holds several.
        name: What messages call it; by default, its path.

    Attributes:
        name: The same.
        run: What was read; None where there is no norm yet.
        alarms: The alarms that are on, and the steps at which they began.
        lacking: What is waited for, such as `MISSING` or `GONE`; empty where there is a file with a norm in it.
        anew: Why the run is that of another file than before: `REPLACED` or `CUT`; empty where it is not.
        modified: When somebody last wrote to the file, in seconds since 1970; 0 where that is not known.
    """

    def __init__(self, path: Path, column: str | None = None, named: str | None = None, name: str = "") -> None:
        self.name = name or str(path)
        self.run: Series | None = None
        self.lacking, self.anew, self.modified = "", "", 0.0
        self._path, self._column, self._named = path, column, named
        self.alarms: dict[str, int] = {}
        self._watch = Alarms()
        self._seen: os.stat_result | None = None
        self._head, self._whole = b"", 0  # the first of the lines that were read; bytes of all of them

    def views(self, interval: float, wait: Wait) -> Iterator[None]:
        """Look again and again, though not all the time where that takes long, as with a long file."""
        is_over = False
        while not is_over:
            start = time.monotonic()
            self.look()
            yield
            is_over = wait(max(interval, REST * (time.monotonic() - start)))
        self.look()
        yield

    def finish(self) -> None:
        """Take all that there is, as of a run that is over; also of standard input, where that is the path.

        Raises:
            UserError: If there is no file, or no run in it.
        """
        self._take(read(self._path, self._column, self._named))
        with suppress(FileNotFoundError):
            self.modified = self._path.stat().st_mtime

    def look(self) -> None:
        """Take what is new, where there are more lines than at the last look.

        Raises:
            ReadError: If it is no file of lines, or a line in it is none of a recorded run.
        """
        try:
            with said(self._path):
                if self._path.exists() and not self._path.is_file():  # a pipe would keep us waiting
                    other = "no file. Write the run to a file and name that."
                    problem = f"it is {'a folder. Name a file in it.' if self._path.is_dir() else other}"
                    raise ReadError(self._path, problem)
                try:
                    with self._path.open("rb") as file:
                        self._look_into(file)
                except FileNotFoundError:
                    self.lacking = GONE if self._seen else MISSING
        except ReadError as error:  # which calls the file by its path
            error.args = (str(error).replace(printable(str(self._path)), printable(self.name)),)
            raise

    def _look_into(self, file: BinaryIO) -> None:
        before, now, head = self._seen, os.fstat(file.fileno()), file.read(PROLOGUE)
        if before is not None:
            is_same = self.lacking != GONE and os.path.samestat(before, now)
            if is_same and (before.st_size, before.st_mtime_ns) == (now.st_size, now.st_mtime_ns):
                return
            if is_same and now.st_size < self._whole:
                self.run, self.anew = None, CUT
            elif not is_same or not head.startswith(self._head):
                self.run, self.anew = None, REPLACED
        self._seen, self.modified = now, now.st_mtime
        self._head = head[: head.rfind(b"\n") + 1]
        self.lacking = "" if self.run is not None else "no record yet"
        if self.run is None and not head.strip(BLANK):
            return
        whole = _end_of_lines(file, now.st_size)
        if now.st_size - whole > LONGEST_LINE:
            raise ReadError(self._path, "its last line is longer than 64 MiB. Is this a file of records, one a line?")
        if self.run is None and not self._grows_by_lines(head):
            self.lacking = f"no norm yet in {now.st_size:,} bytes"
        elif whole != (0 if self.run is None else self._whole):  # and not the line in the making alone
            self._whole = whole
            try:
                self._take(read_series(self._path, column=self._column, run=self._named, size=whole))
            except NoNormError:
                if self.run is not None or whole >= PROLOGUE:
                    raise
                self.lacking = f"no norm yet in {whole:,} bytes"
            except ReadError as error:
                if isinstance(error.__cause__, FileNotFoundError):  # somebody has taken it away meanwhile
                    raise FileNotFoundError from error
                raise

    def _grows_by_lines(self, head: bytes) -> bool:
        """Say whether steps may be found in it already; not yet where an object over lines, as of settings, is all.

        Raises:
            ReadError: If there never will be.
        """
        kind, *_ = files_of(self._path, self._column)
        if kind in LINES:
            return True
        if head.lstrip(BLANK).startswith(b"{") and b'"log_history"' not in head and len(head) < PROLOGUE:
            try:
                read_series(self._path, column=self._column, run=self._named)
            except ReadError:  # it is no run
                return False
        raise ReadError(self._path, "it does not grow by lines. Use `gradclip report` for such files.")

    def _take(self, run: Series) -> None:
        """Watch the steps that a run has, but for those that it had before, where it goes on from them."""
        before, self.run, self.lacking = self.run, run, ""
        seen = len(before) if before is not None and _goes_on(run, before) else 0
        if not seen:
            self._watch = Alarms()
        for record in clips_of(run, dict(run.worst), seen):
            self._watch.feed(record)
        self.alarms = self._watch.active


def _goes_on(run: Series, before: Series) -> bool:
    """Whether a run begins with all steps of another."""
    pairs = ((run.steps, before.steps), (run.norms.nan_to_num(), before.norms.nan_to_num()))
    return all(own[: len(before)].equal(other) for own, other in pairs)


def _end_of_lines(file: BinaryIO, end: int) -> int:
    """Return where the last whole line ends of so many bytes: others go on writing."""
    while end > 0:
        start = max(0, end - PROLOGUE)
        file.seek(start)
        if (last := file.read(end - start).rfind(b"\n")) >= 0:
            return start + last + 1
        end = start
    return 0
