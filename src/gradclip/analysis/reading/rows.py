"""Some rows of a recorded run as columns of numbers, and how they are made from entries."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, final

import torch
from torch import Tensor

from gradclip.analysis.reading.error import ReadError, shown
from gradclip.analysis.reading.names import Fields
from gradclip.analysis.reading.text import number, plain, whole
from gradclip.result import Status

STATUSES = (*(status.value for status in Status), "skipped")
"""What a status may be; a row holds its place here. The last is that of a logger that keeps numbers alone."""

OK, CLIPPED, SKIPPED = map(STATUSES.index, ("ok", "clipped", "skipped"))

NO_STATUS, FOREIGN = -1, -2
"""Instead of the place of a status: none is given, or one that is not ours, such as `"running"`."""

FLAGS = ("clipped", "skipped")
"""Numbers that stand for a status where there is none: 1.0 for yes."""

NUMBERS = ("norms_after", "thresholds", "losses", "lrs", "times", "epochs")
"""What is read beside the norms where it is a number, and taken for missing where it is none."""

OTHER_COLUMN = "Put it right, or name another column with column= (on the command line: --column)."


@final
@dataclass
class Rows:
    """Some rows, those without a norm left out.

    Attributes:
        lines: Where each is in the file: int64, of shape (n,), and rising.
        norms: The norms: float64, of shape (n,).
        steps: The numbers of the steps: int64; None where the file has none.
        numbers: What there is of `NUMBERS`: float64, NaN where there is no number.
        statuses: The places of their statuses: int8; None where the file has neither these nor `FLAGS`.
        policies: The rows at which the policy is not that of the row before, and the policy.
        groups: What they are about: names of groups of parameters, None for all of them.
        runs: What the runs are called that they are of, where a column says so.
        left_out: How many rows there were without a norm.
    """

    lines: Tensor
    norms: Tensor
    steps: Tensor | None = None
    numbers: dict[str, Tensor] = field(default_factory=dict)
    statuses: Tensor | None = None
    policies: list[tuple[int, str]] = field(default_factory=list)
    groups: set[str | None] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    left_out: int = 0


def rows_of(
    entries: Iterable[tuple[int, Mapping[str, Any]]], fields: Fields, path: str | PathLike[str], part: str = "line"
) -> Rows:
    """Return the rows of entries: pairs of a place in the file and values by the names of columns.

    Raises:
        ReadError: If a norm or a step is not what it should be.
    """
    lines: list[int] = []
    norms: list[float] = []
    steps: list[int] = []
    numbers: dict[str, list[float]] = {role: [] for role in NUMBERS if role in fields}
    statuses: list[int] = []
    policies: list[tuple[int, str]] = []
    groups: set[str | None] = set()
    runs: set[str] = set()
    left_out = 0
    knows_status = has_status(fields)
    for line, entry in entries:
        found = entry.get(fields["norms"])
        try:
            norm = number(found)
        except ValueError as error:
            problem = f"{shown(fields['norms'])} must be a number, got {shown(found)}. {OTHER_COLUMN}"
            raise ReadError(path, problem, line=line, part=part) from error
        status = _status(entry, fields) if knows_status else NO_STATUS
        if norm is None and status < 0:
            left_out += 1
            continue
        if "steps" in fields:
            steps.append(_step(entry.get(fields["steps"]), fields, path, line, part))
        policy = entry.get(fields.get("policy", ""))
        if isinstance(policy, str) and not (policies and policies[-1][1] == plain(policy)):
            policies.append((len(lines), plain(policy)))
        if "group" in fields:
            group = entry.get(fields["group"])
            groups.add(plain(group) if isinstance(group, str) and group else None)
        if isinstance(run := entry.get(fields.get("run", "")), (str, int)):
            runs.add(plain(str(run)))
        lines.append(line)
        norms.append(math.nan if norm is None else norm)
        statuses.append(status)
        for role, column in numbers.items():
            column.append(_lenient(entry.get(fields[role])))
    return Rows(
        lines=torch.tensor(lines, dtype=torch.int64),
        norms=torch.tensor(norms, dtype=torch.float64),
        steps=torch.tensor(steps, dtype=torch.int64) if "steps" in fields else None,
        numbers={role: torch.tensor(column, dtype=torch.float64) for role, column in numbers.items()},
        statuses=torch.tensor(statuses, dtype=torch.int8) if has_status(fields) else None,
        policies=policies,
        groups=groups,
        runs=runs,
        left_out=left_out,
    )


def _step(value: Any, fields: Fields, path: str | PathLike[str], line: int, part: str) -> int:
    try:
        step = whole(value)
    except ValueError:
        step = None
    if step is None:
        problem = f"{shown(fields['steps'])} must be the whole number of a step, got {shown(value)}. Put it right."
        raise ReadError(path, problem, line=line, part=part)
    return step


def has_status(fields: Fields) -> bool:
    """Say whether there is something to tell statuses from."""
    return any(role in fields for role in ("status", *FLAGS))


def _status(entry: Mapping[str, Any], fields: Fields) -> int:
    if "status" in fields:
        value = entry.get(fields["status"])
        return NO_STATUS if value in (None, "") else STATUSES.index(value) if value in STATUSES else FOREIGN
    clipped, skipped = (_lenient(entry.get(fields.get(role, ""))) for role in FLAGS)
    if skipped > 0.0:
        return SKIPPED
    return CLIPPED if clipped > 0.0 else NO_STATUS if math.isnan(clipped) and math.isnan(skipped) else OK


def _lenient(value: Any) -> float:
    try:
        found = number(value)
    except ValueError:
        found = None
    return math.nan if found is None else found
