"""The steps of replays as a table that other programs read."""

import csv
import io
import math
from collections.abc import Iterable, Sequence

from gradclip.analysis import Replay
from gradclip.analysis.series import Series
from gradclip.cli.replay.rows import Played


def table(series: Series, played: Sequence[Played]) -> bytes:
    """Return a row a step: its norm, and of each policy its threshold, the norm after it, and what became of the step.

    A cell is empty where a number is not known, or not finite.
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
    rows = io.StringIO(newline="")
    writer = csv.writer(rows)
    writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    return rows.getvalue().encode()


def _numbers(values: list[float]) -> Iterable[object]:
    return ("" if not math.isfinite(value) else value for value in values)


def _statuses(replayed: Replay) -> Iterable[str]:
    pairs = zip(replayed.clipped.tolist(), replayed.skipped.tolist(), strict=True)
    return ("skipped" if skipped else "clipped" if clipped else "ok" for clipped, skipped in pairs)
