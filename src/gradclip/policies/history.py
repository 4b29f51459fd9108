"""The norms of past steps, for rules that ask for their quantile, mean or deviation.

A history does not change: adding a norm makes a new one, so that a policy stays pure. Norms that are not finite are
left out. On the host, what arrived is also kept in order of size, since sorting anew at each step would cost far more;
on another device it stays a tensor, and nothing is read back.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, NoReturn, final

import torch
from torch import Tensor

from gradclip.numbers import Scalar, is_known, is_ready, on_host
from gradclip.policies.column import Column
from gradclip.policies.holds import SIZE, Within
from gradclip.sending import sent
from gradclip.tracing import is_captured


def refuse_capture(why: str) -> NoReturn:
    """Raise for a rule whose replays would not go on from each other."""
    raise RuntimeError(
        f"`GradClipper(policy=...)` must do the same at every step of a captured graph, got a policy that {why} in it. "
        "Clip outside of the graph before, and use a `window`; for a `schedule`, clip outside of the graph."
    )


COUNTS = "counts on the host, or met its first gradient"
GROWS = "remembers more norms with each step"
"""Why a rule cannot be replayed."""


def told(number: Scalar, why: str) -> float:
    """Return on the host a number that the form of a rule, or of what it has learned, depends on.

    Raises:
        RuntimeError: If a graph is captured, in which nothing can be waited for.
    """
    if not is_known(number) and is_captured(number.device):
        refuse_capture(why)
    return on_host(number)


@final
@dataclass(slots=True, eq=False, repr=False)
class History:
    """The norms of a scope in past steps, the oldest first.

    Args:
        window: How many to remember; None for all.
        columns: One column for each norm of the scope; a total norm has one.
        rows: In place of columns where the norms are on another device: of shape (steps,) or (steps, norms).
        holds: What its numbers may be; sizes, as norms are.
    """

    window: int | None
    columns: tuple[Column, ...] = ()
    rows: Tensor | None = None
    _: KW_ONLY
    holds: Within = SIZE

    @staticmethod
    def of(window: int | None, width: int = 1, *, holds: Within = SIZE) -> "History":
        """Return an empty history of so many columns."""
        return History(window, tuple(Column.of([]) for _ in range(width)), holds=holds)

    def add(self, norms: Scalar) -> "History":
        """Return the history with the norms of one more step."""
        if not is_known(norms) and self._is_elsewhere(norms):
            rows = self._as_rows(norms)
            if self.window is None:
                return self.with_rows(torch.cat([rows, norms[None]]))
            pushed = torch.cat([rows[1:], norms[None]])
            return self.with_rows(torch.where(norms.isfinite(), pushed, rows))
        numbers = [norms] if is_known(norms) else norms.reshape(-1).tolist()
        added = tuple(column.add(x, self.window) for column, x in zip(self.columns, numbers, strict=True))
        return History(self.window, added, holds=self.holds)

    def count(self) -> Scalar:
        """Return the most norms that a column holds."""
        if self.rows is not None:
            return self.rows.isfinite().sum(0).amax()
        return float(max((column.count for column in self.columns), default=0))

    def quantile(self, q: float, like: Scalar) -> Scalar:
        """Return the quantile of each column, infinite where there is none, in the form of `like`."""
        if is_known(like):
            return self.columns[0].quantile(q)
        if not self._is_elsewhere(like):
            found = [column.quantile(q) for column in self.columns]
            return torch.tensor(found, dtype=torch.float64, device=like.device).reshape(like.shape)
        rows = self._as_rows(like)
        if not len(rows):
            return torch.full_like(like, math.inf)
        known = rows.isfinite()
        count = known.sum(0).to(torch.float64)
        ordered = torch.where(known, rows, math.nan).sort(0).values  # NaN comes last
        last = (count - 1.0).clamp(min=0.0)
        place = last * q
        low = place.floor()
        high = torch.minimum(low + 1.0, last)
        lower, upper = (ordered.gather(0, x.to(torch.int64)[None])[0] for x in (low, high))
        return (lower + (upper - lower) * (place - low)).masked_fill(count == 0.0, math.inf)

    def mean_and_deviation(self) -> tuple[Scalar, Scalar]:
        """Return mean and sample standard deviation of a total norm, infinite where too few are known."""
        if self.rows is None:
            return self.columns[0].mean_and_deviation()
        counted = self.rows.isfinite()
        count = counted.sum()
        mean = torch.where(counted, self.rows, 0.0).sum() / count
        square = torch.where(counted, self.rows - mean, 0.0).square().sum() / (count - 1)
        return mean, torch.where(count > 1, square, math.inf).sqrt()

    def _as_rows(self, like: Tensor) -> Tensor:
        if self.rows is not None:
            return self.rows
        columns = self.pack()
        longest = self.window or max(map(len, columns))
        padded = [[math.nan] * (longest - len(arrived)) + arrived for arrived in columns]
        loaded = sent(padded, like.device)
        return loaded.t().reshape(longest, *like.shape)

    def _is_elsewhere(self, like: Tensor) -> bool:
        return self.rows is not None or not is_ready(like)

    def pack(self) -> list[Any]:
        """Return what arrived in each column, as plain lists."""
        if self.rows is None:
            return [column.tolist() for column in self.columns]
        rows = self.rows.reshape(len(self.rows), -1)
        return [[x for x in column.tolist() if math.isfinite(x)] for column in rows.T]

    @property
    def has_many(self) -> bool:
        """Whether it is of single parameters."""
        return len(self.columns) > 1 or (self.rows is not None and self.rows.ndim > 1)

    def with_rows(self, rows: Tensor) -> "History":
        """Return the same with other norms."""
        return History(self.window, rows=rows, holds=self.holds)

    def unless(self, withheld: Tensor, known: "History") -> "History":
        """Return the history, or where a step does not happen, the one before it, which remembers no more than that."""
        if self.rows is None:
            return known if told(withheld, GROWS) else self
        old = known._as_rows(self.rows[-1])
        longest = max(len(old), len(self.rows))  # one that grows has a norm of each step
        return self.with_rows(torch.where(withheld, _padded(old, longest), _padded(self.rows, longest)))

    def over(self, known: "History", act: Callable[[Tensor, Tensor], Tensor]) -> "History":
        """Act on its rows and those of a history before it."""
        if known.rows is None and self.rows is None:
            return self
        if known.rows is None:
            refuse_capture("met its first gradient")
        return self.with_rows(act(known.rows, self._as_rows(known.rows[-1])))

    def unpack(self, packed: list[list[float]]) -> "History":
        """Return the history that `pack` was called on, on the host, in place of this one; of a longer one, the end."""
        kept = [[float(x) for x in arrived][-(self.window or 0) :] for arrived in packed]
        return History(self.window, tuple(map(Column.of, kept)), holds=self.holds)


def _padded(rows: Tensor, longest: int) -> Tensor:
    """Return so many rows; those of NaN are none."""
    missing = longest - len(rows)
    return torch.cat([rows, rows.new_full((missing, *rows.shape[1:]), math.nan)]) if missing else rows
