"""The steps of replays as a table that other programs read."""

from collections.abc import Sequence

import polars as pl
from torch import Tensor

from gradclip.analysis.series import Series
from gradclip.cli.replay.rows import Played


def table(series: Series, played: Sequence[Played]) -> bytes:
    """Return a row a step: its norm, and of each policy its threshold, the norm after it, and what became of the step.

    A cell is empty where a number is not known, or not finite.
    """
    rows = pl.DataFrame({"step": series.steps.numpy(), "norm": _finite(series.norms)})
    for name, replayed in ((each.named.name, each.replayed) for each in played):
        if replayed is None:
            continue
        if replayed.thresholds.ndim == 1:
            rows = rows.with_columns(_finite(replayed.thresholds).alias(f"{name} threshold"))
        clipped, skipped = (pl.lit(pl.Series(each.numpy())) for each in (replayed.clipped, replayed.skipped))
        status = pl.when(skipped).then(pl.lit("skipped")).when(clipped).then(pl.lit("clipped")).otherwise(pl.lit("ok"))
        rows = rows.with_columns(
            _finite(replayed.norms_after).alias(f"{name} norm after"), status.alias(f"{name} status")
        )
    return rows.write_csv(line_terminator="\r\n").encode()


def _finite(values: Tensor) -> pl.Series:
    numbers = pl.Series(values.numpy())
    return numbers.set(~numbers.is_finite(), None)
