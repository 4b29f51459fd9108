"""A file that is followed, and the run in it."""

from pathlib import Path
from typing import final

from gradclip.analysis.reading import ReadError
from gradclip.cli.watch.follow import MISSING, Follower, Found
from gradclip.cli.watch.lines import Lines
from gradclip.cli.watch.state import State


@final
class Session:
    """What is being watched.

    Args:
        path: The file; it need not exist yet.
        column: The field of the norm; None for a usual name.

    Attributes:
        path: The file.
        state: The run in it, so far.
        found: What the last look at the file found.
        anew: Why the run shown is not the one that was watched before; empty where it is.
    """

    def __init__(self, path: Path, column: str | None) -> None:
        self.path = path
        self.state = State()
        self.found = Found()
        self.anew = ""
        self._column = column
        self._follower = Follower(path)
        self._lines = Lines(path, column)

    @property
    def torn(self) -> int:
        """How many lines are left out because they end within a record."""
        return self._lines.torn

    def look(self) -> bool:
        """Take the next lines, and say whether there are more by now.

        Raises:
            ReadError: If the file, or a line in it, is none of a recorded run.
        """
        self.found = self._follower.look()
        if self.found.anew:
            self.anew = self.found.anew
            self.state = State()
            self._lines = Lines(self.path, self._column)
        if self.found.piece is not None:
            for record in self._lines.records(self.found.piece):
                self.state.add(record)
        return self.found.behind > 0

    def finish(self) -> None:
        """Take all lines that there are now, a last one without an end included where it is whole.

        Raises:
            ReadError: If there is no file, or no record in it.
        """
        more = self.look()
        size = self.found.size
        while more and self.found.reached < size:
            more = self.look()
        if self.found.absent:
            raise ReadError(self.path, f"{MISSING}. Check the path.")
        if not size:
            raise ReadError(self.path, "the file is empty. Wait for the first record, or name another file.")
        if self.found.rest is not None:
            for record in self._lines.records(self.found.rest):
                self.state.add(record)
        if self.state.last is None:
            self._lines.check()
