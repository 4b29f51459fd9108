"""Rows of a file put together."""

from collections.abc import Iterator
from os import PathLike, fspath
from typing import final

import torch
from torch import Tensor

from gradclip.analysis.reading.details import Details
from gradclip.analysis.reading.error import ReadError, listed
from gradclip.analysis.reading.order import check_one_run, counted, counted_on, spaced
from gradclip.analysis.reading.rows import CLIPPED, FOREIGN, NO_STATUS, STATUSES, Rows
from gradclip.analysis.series import Event, Series

MOST_EVENTS = 10_000
"""Events that are kept; a run may be one long event."""

SINCE_1970 = 1e8
"""Seconds in 1973: times that are all below it are not since 1970, but since the start of a run."""

SKIPPED = torch.tensor([i for i, status in enumerate(STATUSES) if status.startswith("skipped")], dtype=torch.int8)

NO_WORD = "nonfinite"
"""The status of an event of which only the norm is known."""


def torn_lines(lines: list[int]) -> str:
    """Return the remark on lines that were left out."""
    places = f"Line {lines[0]} is" if len(lines) == 1 else f"Lines {listed(lines, 5)} are"
    return f"{places} torn, as where a writer is stopped, and left out."


@final
class Gathering:
    """The rows of one file.

    Args:
        path: The file.
        part: What the lines of its rows count, for messages.

    Attributes:
        details: What single lines say beyond numbers.
        remarks: What is to be remarked on.
    """

    def __init__(self, path: str | PathLike[str], part: str = "line") -> None:
        self.details = Details()
        self.remarks: list[str] = []
        self._path = path
        self._part = part
        self._rows: list[Rows] = []

    def add(self, rows: Rows) -> None:
        """Add rows that come after those before.

        Raises:
            ReadError: If a norm is negative.
        """
        if (negative := (rows.norms < 0.0).nonzero()).numel():
            place = int(negative[0])
            problem = (
                f"a norm must be >= 0, got {rows.norms[place].item():.6g}. Name the column of the norm with "
                "column= (on the command line: --column), not that of its logarithm."
            )
            raise ReadError(self._path, problem, line=int(rows.lines[place]), part=self._part)
        self._rows.append(rows)

    def series(self, *, sort: bool = False) -> Series:
        """Return the run.

        Args:
            sort: Whether the rows may be in no order at all.

        Raises:
            ReadError: If there is no norm, or the rows are of several runs.
        """
        left_out = self._check_filled()
        lines = torch.cat([part.lines for part in self._rows])
        if left_out:
            self.remarks.append(f"{left_out} of {left_out + len(lines)} rows have no norm and are left out.")
        steps = self._steps(len(lines))
        policies = self._policies()
        epochs = self._numbers("epochs", slice(None))
        if (onward := counted_on(steps, epochs)) is not None:
            steps = onward
            self.remarks.append("The steps begin again in every epoch, and are counted on from one to the next.")
        check_one_run(self._path, steps, lines, policies, self._part)
        rows, remarks = counted(steps, lines, self._part, sort=sort)
        steps, lines = steps[rows], lines[rows]
        norms = torch.cat([part.norms for part in self._rows])[rows]
        statuses = self._statuses(rows)
        skipped = None if statuses is None else torch.isin(statuses, SKIPPED)
        times = self._numbers("times", rows)
        self.remarks += [*remarks, *spaced(steps)]
        if len(policies) > 1:
            self.remarks.append(f"The policy changes: {listed([policy for _, policy in policies], 4)}.")
        return Series(
            source=fspath(self._path),
            steps=steps,
            norms=norms,
            norms_after=self._numbers("norms_after", rows),
            thresholds=self._numbers("thresholds", rows),
            clipped=None if statuses is None else statuses == CLIPPED,
            skipped=skipped,
            losses=self._numbers("losses", rows),
            lrs=self._numbers("lrs", rows),
            times=times if times is not None and (times > SINCE_1970).any() else None,
            policy=policies[-1][1] if policies else None,
            each=tuple(self._each(steps, lines)),
            events=self._events(norms, steps, lines, statuses, skipped),
            remarks=(*self.remarks, *self.details.remarks()),
        )

    def _check_filled(self) -> int:
        """Return how many rows have no norm."""
        left_out = sum(part.left_out for part in self._rows)
        if not any(len(part.lines) for part in self._rows):
            why = f"none of {left_out} rows has a norm" if left_out else "there are no rows"
            raise ReadError(self._path, f"{why}. Record the norm of each step, or name its column with column=.")
        groups = set[str | None]().union(*(part.groups for part in self._rows))
        if len(groups) > 1:
            names = listed(sorted(group or "all parameters" for group in groups))
            raise ReadError(self._path, f"the records are of several groups: {names}. Write each to a file of its own.")
        runs = set[str]().union(*(part.runs for part in self._rows))
        if len(runs) > 1:
            names = listed(sorted(runs), 5)
            raise ReadError(self._path, f"the rows are of {len(runs)} runs: {names}. Write each to a file of its own.")
        return left_out

    def _steps(self, count: int) -> Tensor:
        given = [part.steps for part in self._rows if part.steps is not None]
        if not given:
            self.remarks.append("There are no numbers of steps: the rows are counted from 1.")
        return torch.cat(given) if given else torch.arange(1, count + 1)

    def _policies(self) -> list[tuple[int, str]]:
        """Return the rows at which the policy changes, and the policies."""
        found: list[tuple[int, str]] = []
        before = 0
        for part in self._rows:
            for place, policy in part.policies:
                if not found or found[-1][1] != policy:
                    found.append((before + place, policy))
            before += len(part.lines)
        return found

    def _numbers(self, name: str, rows: Tensor | slice) -> Tensor | None:
        """Return the rows of a column; None where nothing of it is known."""
        given = [part.numbers.pop(name) for part in self._rows if name in part.numbers]  # and need them no more
        column = torch.cat(given)[rows] if given else None
        return None if column is None or column.isnan().all() else column

    def _statuses(self, rows: Tensor | slice) -> Tensor | None:
        given = [part.statuses for part in self._rows if part.statuses is not None]
        statuses = torch.cat(given) if given else None
        # A column of this name may say something else, such as "running".
        if statuses is None or (statuses == FOREIGN).any() or (statuses == NO_STATUS).all():
            return None
        return statuses[rows]

    def _events(
        self, norms: Tensor, steps: Tensor, lines: Tensor, statuses: Tensor | None, skipped: Tensor | None
    ) -> tuple[Event, ...]:
        finite = norms.isfinite()
        places = (~finite if skipped is None else ~finite | skipped).nonzero().flatten()
        if len(places) > MOST_EVENTS:
            self.remarks.append(f"Of {len(places)} steps skipped or not finite, the first {MOST_EVENTS} are listed.")
            places = places[:MOST_EVENTS]
        codes = [NO_STATUS] * len(places) if statuses is None else statuses[places].tolist()
        words = [NO_WORD if code == NO_STATUS else STATUSES[code] for code in codes]
        counts = [self.details.nonfinite.get(line, {}) for line in lines[places].tolist()]
        return tuple(map(Event, steps[places].tolist(), words, counts))

    def _each(self, steps: Tensor, lines: Tensor) -> Iterator[tuple[int, dict[str, float]]]:
        """Return the norms of parameters on those lines that count, with their steps."""
        for line, norms in self.details.each:  # of a file whose lines are in order
            place = int(torch.searchsorted(lines, line))
            if place < len(lines) and lines[place] == line:
                yield int(steps[place]), norms
