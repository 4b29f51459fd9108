"""Which tensors the norm is made of."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import polars as pl

from gradclip.analysis.series import Worst

LISTED = 10
"""Tensors in the table."""


@final
class Tensors:
    """The norms of single tensors at the steps where they were recorded.

    Args:
        each: Pairs of a step and the norms by name, of which there is one at least; NaN where one is not known.

    Attributes:
        norms: A row for each: `step`, `name`, `norm` and `share`, that in the sum of squares of the step, which is not
            known where a norm is infinite, or all are 0.
        steps: How many steps there are.
        table: A row for each tensor, in the order of the model: its `name`, the mean `share` over the steps at which
            shares are known, the `largest_share`, and the `median` and `largest` of its finite norms, with
            `largest_step`.
    """

    def __init__(self, each: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        rows = [(step, name, norm) for step, norms in each for name, norm in norms.items()]
        schema = {"step": pl.Int64, "name": pl.String, "norm": pl.Float64}
        norm = pl.col("norm")
        largest = norm.max().over("step")
        square = (norm / largest).pow(2).fill_null(0.0)
        share = pl.when(largest.is_finite() & (largest > 0.0)).then(square / square.sum().over("step"))
        self.norms = pl.DataFrame(rows, schema, orient="row").fill_nan(None).with_columns(share=share)
        self.steps = len(each)
        known = self.norms.drop_nulls("share")["step"].n_unique()
        finite = norm.filter(norm.is_finite())
        self.table = self.norms.group_by("name", maintain_order=True).agg(
            share=pl.col("share").sum() / max(1, known),
            largest_share=pl.col("share").max().fill_null(0.0),
            median=finite.median(),
            largest=finite.max(),
            largest_step=pl.col("step").filter(norm.is_finite()).get(finite.arg_max()),
        )

    @property
    def listed(self) -> list[dict[str, Any]]:
        """The rows of the tensors with the largest shares."""
        return self.ranking.head(LISTED).rows(named=True)

    @property
    def ranking(self) -> pl.DataFrame:
        """The table, from the largest share on."""
        return self.table.sort("share", descending=True, maintain_order=True)

    @property
    def worst(self) -> dict[int, Worst]:
        """The tensor with the largest share, by step, where shares are known."""
        share = pl.col("share")
        found = self.norms.drop_nulls("share").group_by("step").agg(pl.col("name").get(share.arg_max()), share.max())
        return {step: ((name, largest),) for step, name, largest in found.rows()}
