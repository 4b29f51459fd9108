"""The steps of replays as a table that other programs read."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from gradclip.analysis import Replay
from gradclip.analysis.series import Series
from gradclip.cli import UserError
from gradclip.cli.replay.rows import Played


def check(out: Path, run: Path, *, force: bool) -> None:
    """Check that a file may be written, before a long replay.

    Raises:
        UserError: If it is there already and not to be overwritten, or has no place.
    """
    try:
        if out.is_dir():
            raise UserError(f"--csv {out} is a folder. Name a file.")
        if out.exists() and run.exists() and out.samefile(run):
            raise UserError(f"--csv {out} is the recording itself. Name another file.")
        if out.exists() and not force:
            raise UserError(f"--csv {out} exists. Pass --force to overwrite it.")
        if not out.parent.is_dir():
            raise UserError(f"--csv {out}: there is no folder {out.parent}. Make it first.")
    except OSError as error:
        raise _failure(out, error) from error


def write(out: Path, series: Series, played: Sequence[Played]) -> None:
    """Write the norm of each step, and of each policy its threshold, the norm after it, and what became of the step.

    A cell is empty where a number is not known, or not finite.

    Raises:
        UserError: If the file cannot be written.
    """
    names = ["step", "norm"]
    columns: list[Iterable[object]] = [series.steps.tolist(), _numbers(series.norms.tolist())]
    for each in played:
        if each.replayed is None:
            continue
        single = each.replayed.thresholds.ndim == 1
        if single:
            names.append(f"{each.named.name} threshold")
            columns.append(_numbers(each.replayed.thresholds.tolist()))
        names += [f"{each.named.name} norm after", f"{each.named.name} status"]
        columns += [_numbers(each.replayed.norms_after.tolist()), _statuses(each.replayed)]
    try:
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows(zip(*columns, strict=True))
    except OSError as error:
        raise _failure(out, error) from error


def _numbers(values: list[float]) -> Iterable[object]:
    return ("" if not math.isfinite(value) else value for value in values)


def _statuses(replayed: Replay) -> Iterable[str]:
    pairs = zip(replayed.clipped.tolist(), replayed.skipped.tolist(), strict=True)
    return ("skipped" if skipped else "clipped" if clipped else "ok" for clipped, skipped in pairs)


def _failure(out: Path, error: OSError) -> UserError:
    return UserError(f"--csv {out}: {error.strerror}. Name a file that can be written.")
