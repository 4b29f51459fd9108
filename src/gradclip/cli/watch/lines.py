"""Lines of JSON as records, with the care and the words of the readers of finished runs."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

from gradclip.analysis.reading import ReadError
from gradclip.analysis.reading.error import listed
from gradclip.analysis.reading.jsonl import SAMPLE, entries
from gradclip.analysis.reading.names import FLAGS, NO_STATUS, STATUSES, Fields, choose
from gradclip.analysis.reading.order import check_one_run
from gradclip.analysis.reading.pieces import Piece
from gradclip.analysis.reading.rows import chunk_of, rows_of
from gradclip.analysis.reading.source import Source
from gradclip.analysis.reading.text import LARGEST_STEP, number, plain
from gradclip.records import ClipRecord

UNKNOWN = ""
"""The status of a step of which only the norm is known."""

KNOWN = frozenset(STATUSES)

MEASURED = ("norms_after", "thresholds", "losses", "lrs", "times")
"""What a record takes from a line beside its norm and its coefficient, in this order."""


@final
class Lines:
    """The records in the lines of one file.

    Args:
        path: The file, for messages.
        column: The field of the norm; None for a usual name.

    Attributes:
        torn: How many lines end within their object, and are left out.
    """

    def __init__(self, path: Path, column: str | None) -> None:
        self.torn = 0
        self._path = path
        self._column = column
        self._names: dict[str, None] = {}
        self._looked_at = 0
        self._fields: Fields | None = None
        self._plain: tuple[str, ...] = ()
        self._numbers: tuple[str, ...] = ()
        self._has_status = self._has_flags = False
        self._groups: set[str | None] = set()
        self._group: str | None = None
        self._policy: str | None = None
        self._least_step: int | None = None
        self._last_step = 0

    def records(self, piece: Piece) -> Iterator[ClipRecord]:
        """Return the records of some lines.

        Raises:
            ReadError: If a line is none of a recorded run, or is one of another run.
        """
        torn: list[int] = []
        found = list(entries(piece, self._path, torn))
        self.torn += len(torn)
        self._learn(found)
        if self._fields is None:
            return
        rows: list[dict[str, Any]] = []
        for place, (line, entry) in enumerate(found):
            record = self._usual(entry)
            if record is None:
                rows = rows or self._rows(found)
                record = self._checked(rows[place], line, entry)
            if record is not None:
                if self._least_step is None or record.step < self._least_step:
                    self._least_step = record.step
                self._last_step = record.step
                yield record

    def check(self) -> None:
        """Check, at the end of a file that nobody waits for, that there was a norm in it.

        Raises:
            ReadError: If there was none.
        """
        if not self._names:
            raise ReadError(self._path, "there is no whole record in it. Wait for the first, or name another file.")
        choose(list(self._names), self._column, self._path, "field")

    def _learn(self, entries: list[tuple[int, dict[str, Any]]]) -> None:
        """Choose the fields to read; as long as no line has a norm, the next ones may."""
        new = entries[: max(0, SAMPLE - self._looked_at)]
        if not new:
            return
        self._looked_at += len(new)
        self._names |= dict.fromkeys(name for _, entry in new for name in entry)
        try:
            fields = choose(list(self._names), self._column, self._path, "field")
        except ReadError:
            if self._looked_at >= SAMPLE:
                raise
            return
        self._fields = fields
        self._plain = tuple(fields.get(role, "") for role in ("norms", "steps", "status", "policy", "group"))
        self._numbers = (*(fields.get(role, "") for role in MEASURED), "coefficient")
        self._has_status, self._has_flags = "status" in fields, any(flag in fields for flag in FLAGS)

    def _usual(self, entry: Mapping[str, Any]) -> ClipRecord | None:
        """Return the record of an entry that is as nearly all are: a million of them take a while."""
        get = entry.get
        norm, step, status, policy, group = map(get, self._plain)
        if type(norm) is not float or not 0.0 <= norm < math.inf or policy != self._policy or group != self._group:
            return None
        if type(step) is not int or abs(step) > LARGEST_STEP or self._has_flags:
            return None
        if type(status) is str and status in KNOWN:
            return self._record(get, step, norm, status)
        return None if self._has_status else self._record(get, step, norm, UNKNOWN)

    def _rows(self, entries: list[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
        """Return the rows of entries as the readers take them: all at once, as one costs nearly as much."""
        source = Source(self._path, fields=self._fields or {})
        lines, objects = [line for line, _ in entries], [entry for _, entry in entries]
        return rows_of(chunk_of(lines, objects, source), source).rows(named=True)

    def _checked(self, row: dict[str, Any], line: int, entry: dict[str, Any]) -> ClipRecord | None:
        """Return the record of any entry, of which the row is known; None where it has no norm."""
        if row["norms"] is None:
            return None
        step = row.get("steps", self._last_step + 1)
        self._check_group(row.get("group") or None)
        policy = row.get("policy")
        if policy is not None and policy != self._policy:
            self._change_policy(policy, step, line)
        code = row.get("status", NO_STATUS)
        return self._record(entry.get, step, row["norms"], STATUSES[code] if code >= 0 else UNKNOWN)

    def _check_group(self, group: str | None) -> None:
        self._groups.add(group)
        if len(self._groups) > 1:
            names = listed(sorted(group or "all parameters" for group in self._groups))
            problem = f"the records are of several groups: {names}. Write each to a file of its own."
            raise ReadError(self._path, problem)
        self._group = group

    def _change_policy(self, policy: str, step: int, line: int) -> None:
        if self._policy is not None and self._least_step is not None:
            steps = (self._least_step, self._last_step, step)
            check_one_run(self._path, steps, (0, 0, line), [(0, self._policy), (2, policy)])
        self._policy = policy

    def _record(self, get: Callable[[str], Any], step: int, norm: float, status: str) -> ClipRecord:
        after, threshold, loss, lr, time, coefficient = map(_number, map(get, self._numbers))
        if coefficient != coefficient and norm > 0.0:  # noqa: PLR0124 -- NaN
            coefficient = after / norm
        return ClipRecord(
            step=step,
            time=time,
            status=status,
            total_norm=norm,
            total_norm_after=after,
            threshold=None if math.isnan(threshold) else threshold,
            coefficient=coefficient,
            policy=self._policy or "",
            worst=_worst(worst) if (worst := get("worst")) else (),
            loss=None if math.isnan(loss) else loss,
            lr=None if math.isnan(lr) else lr,
            nonfinite=_counts(counts) if (counts := get("nonfinite")) else None,
        )


def _number(value: Any) -> float:
    """Return a number, NaN for none; what is there beside the norm is taken where it can be."""
    if type(value) is float:
        return value
    try:
        found = None if value is None else number(value)
    except ValueError:
        found = None
    return math.nan if found is None else found


def _worst(given: Any) -> tuple[tuple[str, float], ...]:
    found: list[tuple[str, float]] = []
    for pair in given if isinstance(given, list) else []:
        match pair:
            case [str(name), share]:
                found.append((plain(name), _number(share)))
            case _:
                return ()
    return tuple(found)


def _counts(given: Any) -> dict[str, tuple[int, int]] | None:
    if not isinstance(given, dict):
        return None
    found: dict[str, tuple[int, int]] = {}
    for name, pair in given.items():
        match pair:
            case [int(nans), int(infinities)]:
                found[plain(name)] = nans, infinities
    return found
