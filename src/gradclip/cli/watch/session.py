"""What is being watched: a run as it grows, its alarms, and the parameters with the largest norms."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import final

from gradclip.analysis.as_clips import clips_of
from gradclip.analysis.series import Series
from gradclip.cli.watch.growing import Growing
from gradclip.cli.watch.waiting import Wait
from gradclip.records import Alarms

REST = 3.0
"""How many times as long as a look takes there is none."""


@final
class Session:
    """A run that is watched.

    Args:
        path: The file; it need not exist yet.
        column: The column of the norm; None for a usual name.
        name: What the file is called; by default, its path.
        run: The run, or group, where it holds several.

    Attributes:
        file: The file, and the run in it.
        name: What it is called.
    """

    def __init__(self, path: Path, column: str | None, name: str = "", run: str | None = None) -> None:
        self.name = name or str(path)
        self.file = Growing(path, column, self.name, run)
        self._watch = Alarms()

    @property
    def alarms(self) -> dict[str, int]:
        """The alarms that are on, and the steps at which they began."""
        return self._watch.active

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

    def look(self) -> None:
        """Take what is new.

        Raises:
            ReadError: If the file, or a line in it, is none of a recorded run.
        """
        before = self.file.run
        if self.file.look():
            self._add(before)

    def finish(self) -> None:
        """Take all that there is, as of a run that is over.

        Raises:
            UserError: If there is no file, or no run in it.
        """
        self.file.finish()
        self._add(None)

    def _add(self, before: Series | None) -> None:
        """Watch the steps that a run has, but for those that it had before, where it goes on from them."""
        run = self.file.run
        if run is None:
            return
        seen = len(before) if before is not None and _goes_on(run, before) else 0
        if not seen:
            self._watch = Alarms()
        for record in clips_of(run, dict(run.worst), seen):
            self._watch.feed(record)


def _goes_on(run: Series, before: Series) -> bool:
    """Whether a run begins with all steps of another."""
    pairs = ((run.steps, before.steps), (run.norms.nan_to_num(), before.norms.nan_to_num()))
    return all(own[: len(before)].equal(other) for own, other in pairs)
