"""What is being watched: a run as it grows, its alarms, and the parameters with the largest norms."""

import json
import math
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import final

from gradclip.analysis.as_records import Worst, records_of
from gradclip.analysis.reading.error import plain
from gradclip.analysis.reading.names import UNNAMED
from gradclip.analysis.series import Series
from gradclip.cli.watch.growing import Growing
from gradclip.cli.watch.waiting import Wait
from gradclip.records import Alarms

REST = 3.0
"""How many times as long as a look takes there is none."""

WORST = re.compile(rb'"worst"\s*:\s*\[\s*\[')


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
        alarms: The alarms that are on, and the steps at which they began.
        worst: The last step at which the largest norms were measured, and whose they were.
    """

    def __init__(self, path: Path, column: str | None, name: str = "", run: str | None = None) -> None:
        self.name = name or str(path)
        self.file = Growing(path, column, self.name, run)
        self._path, self._run = path, run
        self._begin()

    def _begin(self) -> None:
        self.alarms: dict[str, int] = {}
        self.worst: tuple[int, Worst] | None = None
        self._watch = Alarms()

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
        before, reached = self.file.run, self.file.reached
        if self.file.look():
            self._add(before, reached)

    def finish(self) -> None:
        """Take all that there is now, a last line without an end included where it is whole.

        Raises:
            ReadError: If there is no file, or no run in it.
        """
        self.file.finish()
        self._add(None, 0)

    def _add(self, before: Series | None, reached: int) -> None:
        """Watch the steps that a run has, but for those that it had before, where it goes on from them."""
        run = self.file.run
        if run is None:
            return
        seen = len(before) if before is not None and _goes_on(run, before) else 0
        if not seen:
            self._begin()
        worst = _worst_in(self._path, self._run, reached if seen else 0, last=int(run.steps[-1]))
        for record in records_of(run, worst, seen):
            begun = self._watch.feed(record)
            if begun or len(self._watch.active) != len(self.alarms):
                self.alarms = {name: self.alarms.get(name, record.step) for name in self._watch.active}
        self.worst = max([*worst.items(), *([self.worst] if self.worst else [])], default=None)


def _goes_on(run: Series, before: Series) -> bool:
    """Whether a run begins with all steps of another."""
    pairs = ((run.steps, before.steps), (run.norms.nan_to_num(), before.norms.nan_to_num()))
    return all(own[: len(before)].equal(other) for own, other in pairs)


def _worst_in(path: Path, run: str | None, reached: int, last: int) -> dict[int, Worst]:
    """Return what lines of our JSON Lines say of the parameters with the largest norms, by step: of a run, if named.

    Args:
        path: The file.
        run: The run, or group, if it is named.
        reached: The byte to begin at.
        last: The last step that is known: there may be more lines by now.
    """
    found: dict[int, Worst] = {}
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(reached)
        for line in filter(WORST.search, file):
            # What is no record of ours, the readers refuse or leave out.
            with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
                entry = json.loads(line)
                if run in {None, entry.get("run"), entry.get("group") or UNNAMED}:
                    shares = [(plain(name), math.nan if x is None else float(x)) for name, x in entry["worst"]]
                    found[int(entry["step"])] = tuple(shares)
    return {step: shares for step, shares in found.items() if step <= last}
