"""Which rows of a file count, where steps come more than once."""

from itertools import pairwise
from os import PathLike
from typing import NamedTuple, final

import torch
from torch import Tensor

from gradclip.analysis.reading.error import ReadError, shown

MOST_SHOWN = 3
"""Places that a remark names."""


@final
class Counted(NamedTuple):
    """The rows that count, in the order of their steps, which rise (a slice of all where all do); and the remarks."""

    rows: Tensor | slice
    remarks: list[str]


def counted(steps: Tensor, lines: Tensor, part: str, *, sort: bool) -> Counted:
    """Return the rows that count.

    A run that is resumed goes back to a step that it was at before: from there on the later rows count, and of the
    earlier ones only those of steps before it. A table whose rows are in no order, or in the reverse one, is sorted
    by step, and of rows of one step the last counts.

    Args:
        steps: The number of the step of each row: int64, of shape (n,).
        lines: Where each row is in the file.
        part: What the lines count.
        sort: Whether the rows may be in no order.
    """
    remarks: list[str] = []
    order = None
    back = int((steps.diff() < 0).sum())
    if sort and back > 1 and 4 * back > len(steps):  # a run does not go back every few steps
        remarks.append("The rows were not in the order of their steps and are sorted.")
        order = torch.argsort(steps, stable=True)
        steps, lines = steps[order], lines[order]
    least_ahead = steps.flip(0).cummin(0).values.flip(0)[1:]
    kept = torch.cat([steps[:-1] < least_ahead, torch.ones(1, dtype=torch.bool)])
    dropped = int((~kept).sum())
    if dropped:
        places = (steps.diff() <= 0).nonzero().flatten() + 1
        first = ", ".join(f"{int(steps[row])} ({part} {int(lines[row])})" for row in places[:MOST_SHOWN])
        more = f" and {len(places) - MOST_SHOWN} more" if len(places) > MOST_SHOWN else ""
        remarks.append(
            f"{dropped} of {len(steps)} rows are left out: the run goes back to step {first}{more}, and later rows "
            "count from there on."
        )
        order = torch.arange(len(steps)) if order is None else order
    return Counted(slice(None) if order is None else order[kept], remarks)


def check_one_run(
    path: str | PathLike[str], steps: Tensor, lines: Tensor, policies: list[tuple[int, str]], part: str
) -> None:
    """Check that no second run begins in the file: one with another policy, from the first step again.

    Args:
        path: The file, for messages.
        steps: The number of the step of each row.
        lines: Where each row is in the file.
        policies: The rows at which the policy changes, and the policies.
        part: What the lines count.

    Raises:
        ReadError: If one does.
    """
    for (_, before), (row, policy) in pairwise(policies):
        step = int(steps[row])
        if step <= int(steps[row - 1]) and step <= int(steps.min()):
            problem = (
                f"another run begins here, at step {step} again and with {shown(policy)} after {shown(before)}. "
                "Split the file here: one run a file."
            )
            raise ReadError(path, problem, line=int(lines[row]), part=part)
