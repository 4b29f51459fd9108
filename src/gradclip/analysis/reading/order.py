"""Which rows of a file count, where steps come more than once."""

from itertools import pairwise
from os import PathLike
from typing import NamedTuple, final

import torch
from torch import Tensor

from gradclip.analysis.reading.error import ReadError, shown
from gradclip.analysis.series import spacing

ENOUGH = 10
"""Rows whose spacing says how often a norm was recorded."""

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


def counted_on(steps: Tensor, epochs: Tensor | None, lrs: Tensor | None) -> Tensor | None:
    """Return the steps of a counter that begins again in every epoch as those of the run; None where it does not.

    A run that is resumed goes back in an epoch, or once. A counter goes back where the epoch rises; without epochs, to
    the same step each time, after as many steps. A run that is begun anew does so too, and its schedule with it.

    Args:
        steps: The number of the step of each row.
        epochs: The number of the epoch of each row, where it is known.
        lrs: The learning rate of each row, where it is known.
    """
    falls, apart = steps.diff() <= 0, spacing(steps)
    if epochs is None:
        starts, ends = steps[1:][falls], steps[:-1][falls]
        alike = len(ends) > 1 and bool((starts == steps[0]).all()) and int(ends.max() - ends.min()) <= apart
        if not alike or (lrs is not None and _begins_again(lrs, steps)):
            return None
        epochs = torch.cat([torch.zeros(1), falls.cumsum(0)])
    else:
        rises = int((falls & (epochs.diff() > 0)).sum())
        if not falls.any() or not bool((epochs == epochs.round()).all()) or 2 * rises < int(falls.sum()):
            return None
    numbers, places = epochs.unique(return_inverse=True)
    none = torch.zeros(len(numbers), dtype=steps.dtype)
    longest = none.scatter_reduce(0, places, steps, "amax", include_self=False) - int(steps.min()) + apart
    return steps + (longest.cumsum(0) - longest)[places]


def _begins_again(lrs: Tensor, steps: Tensor) -> bool:
    """Say whether the learning rate changes, but is the same at a step whenever that comes."""
    numbers, places = steps.unique(return_inverse=True)
    least, most = (
        torch.zeros(len(numbers), dtype=lrs.dtype).scatter_reduce(0, places, lrs, how, include_self=False)
        for how in ("amin", "amax")
    )
    return bool((least == most).all() and (lrs != lrs[0]).any())


def spaced(steps: Tensor) -> list[str]:
    """Return the remark on a run of which one of several steps is recorded."""
    apart = spacing(steps)
    if len(steps) < ENOUGH or apart == 1:
        return []
    remark = (
        f"{len(steps):,} norms of {int(steps[-1]):,} steps: one every {apart:,} steps. Record all of them "
        "(`logging_steps=1` in a Trainer) for firmer advice. Where these norms are averages over the steps between, "
        "single spikes are hidden: thresholds come out too low, and clip more steps than is told."
    )
    return [remark]


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
