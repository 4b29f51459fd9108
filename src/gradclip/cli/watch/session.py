"""What is being watched: a run as it grows, its alarms, and the parameters with the largest norms."""

from pathlib import Path
from typing import final

from gradclip.analysis.as_records import Worst, records_of
from gradclip.analysis.series import Series
from gradclip.cli.watch.growing import Growing
from gradclip.cli.watch.rows import worst_in
from gradclip.records import Alarms


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

    def look(self) -> None:
        """Take what is new.

        Raises:
            ReadError: If the file, or a line in it, is none of a recorded run.
        """
        with self.file.look() as found:
            if found is not None:
                self._add(*found)

    def finish(self) -> None:
        """Take all that there is now, a last line without an end included where it is whole.

        Raises:
            ReadError: If there is no file, or no run in it.
        """
        self._add(self.file.finish(), self._path)

    def _add(self, rows: Series, lines: Path) -> None:
        if rows is self.file.run:
            self._begin()
        worst = (
            {step: each for step, each in worst_in(lines, self._run).items() if step <= int(rows.steps[-1])}
            if len(rows)
            else {}
        )
        for record in records_of(rows, worst):
            begun = self._watch.feed(record)
            if begun or len(self._watch.active) != len(self.alarms):
                self.alarms = {name: self.alarms.get(name, record.step) for name in self._watch.active}
        self.worst = max([*worst.items(), *([self.worst] if self.worst else [])], default=None)
