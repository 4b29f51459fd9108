"""Which rows of a file count, where steps come more than once."""

from itertools import pairwise

import polars as pl
from torch import Tensor

from gradclip.analysis.reading.error import shown
from gradclip.analysis.reading.source import Source
from gradclip.analysis.series import spacing

ENOUGH = 10
"""Rows whose spacing says how often a norm was recorded."""

MOST_SHOWN = 3
"""Places that a remark names."""

DIFFER = " Their norms differ: if they are of several ranks, or means stand among them, keep one kind."
"""What is said where it is not the same norm that was written again."""


def once_a_step(frame: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Return the last of rows of one step below each other, such as several ranks write; all, where no step differs."""
    place = frame.select(pl.struct(role for role in ("epochs", "steps") if role in frame.columns)).to_series()
    is_last = place.ne_missing(place.shift(-1))
    if is_last.all() or frame["steps"].n_unique() == 1:
        return frame
    last = frame.select(pl.when(is_last).then("norms").fill_null(strategy="backward")).to_series()
    differ = DIFFER if frame["norms"].ne(last).any() else ""
    source.remarks.append(
        f"{(~is_last).sum()} of {frame.height} rows are left out: the next is of the same step, and counts.{differ}"
    )
    return frame.filter(is_last)


def that_count(frame: pl.DataFrame, source: Source, *, any_order: bool) -> pl.DataFrame:
    """Return the rows that count, their steps rising.

    A run that is resumed goes back to a step that it was at before: from there on the later rows count, and of the
    earlier ones only those of steps before it. A table whose rows are in no order, or in the reverse one, is sorted
    by step, and of rows of one step the last counts.
    """
    back = (frame["steps"].diff() < 0).sum()
    if any_order and back > 1 and 4 * back > frame.height:  # a run does not go back every few steps
        source.remarks.append("The rows were not in the order of their steps and are sorted.")
        frame = frame.sort("steps", maintain_order=True)
        frame = once_a_step(frame, source)
    steps = frame["steps"]
    least_ahead = steps.reverse().cum_min().reverse().shift(-1)
    rows = frame.filter(least_ahead.is_null() | (steps < least_ahead))
    if rows.height < frame.height:
        again = frame.filter(steps.diff() <= 0).select("steps", "line")
        first = ", ".join(f"{step} ({source.part} {line})" for step, line in again.head(MOST_SHOWN).rows())
        more = f" and {again.height - MOST_SHOWN} more" if again.height > MOST_SHOWN else ""
        source.remarks.append(
            f"{frame.height - rows.height} of {frame.height} rows are left out: the run goes back to step {first}"
            f"{more}, and later rows count from there on."
        )
    return rows


def counted_on(frame: pl.DataFrame) -> pl.Series | None:
    """Return the steps of a counter that begins again in every epoch as those of the run; None where it does not.

    A run that is resumed goes back in an epoch, or once. A counter goes back where the epoch rises; without epochs, to
    the same step each time, after as many steps. A run that is begun anew does so too, and its schedule with it.
    """
    steps, apart = frame["steps"], spacing(frame["steps"].to_torch())
    falls = (steps.diff() <= 0).fill_null(value=False)
    if "epochs" in frame and frame["epochs"].is_not_nan().any():
        epochs = frame["epochs"]
        rises = (falls & (epochs.diff() > 0.0)).sum()
        if not falls.any() or epochs.null_count() or 2 * rises < falls.sum():
            return None
        if (epochs % 1.0 != 0.0).any():  # how far in an epoch a row is: of the whole run if it never falls
            if (epochs.diff() < 0.0).any() or rises < falls.sum():
                return None
            epochs = falls.cum_sum().alias("epochs")
    elif "policy" in frame:  # ours, whose steps are counted from the first to the last
        return None
    else:
        epochs = falls.cum_sum().alias("epochs")
        starts, ends = steps.filter(falls), steps.filter(falls.shift(-1, fill_value=False))
        alike = len(ends) > 1 and (starts == steps[0]).all() and ends.max() - ends.min() <= apart
        if not alike or _begins_again(frame):
            return None
    longest = frame.select(epochs, "steps").group_by("epochs").max().sort("epochs")
    lengths = longest["steps"] - steps.min() + apart
    before = longest.select("epochs", before=lengths.cum_sum() - lengths)
    return steps + frame.select(epochs).join(before, on="epochs", how="left", maintain_order="left")["before"]


def _begins_again(frame: pl.DataFrame) -> bool:
    """Say whether the learning rate, or the norm, changes, but is the same at a step whenever that comes."""
    known = [role for role in ("lrs", "norms") if role in frame and not frame[role].null_count()]
    changing = [role for role in known if frame[role].n_unique() > 1]
    return any(frame.select("steps", role).n_unique() == frame["steps"].n_unique() for role in changing)


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


def policies_of_one_run(frame: pl.DataFrame, source: Source) -> list[str]:
    """Return the policies of a run, one after another.

    Raises:
        ReadError: If a second run begins in the file: one with another policy, from the first step again.
    """
    if "policy" not in frame:
        return []
    named = frame.select("policy", "steps", "line").drop_nulls("policy")
    begun = named.filter(named["policy"].ne_missing(named["policy"].shift())).rows()
    for (before, _, _), (policy, step, line) in pairwise(begun):
        if step == frame["steps"].min():
            problem = f"another run begins here, at step {step} again and with {shown(policy)} after {shown(before)}."
            source.refuse(f"{problem} Split the file here: one run a file.", line)
    return [policy for policy, _, _ in begun]
