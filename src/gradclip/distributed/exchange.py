"""A vector in, a vector out: the one collective of a span of ranks, and the flags that travel along.

By these, all ranks know what went wrong on any.
"""

import math
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor

from gradclip.distributed.span import Span
from gradclip.numbers import (
    Scalar,
    from_device,
    is_extremum,
    is_host,
    is_known,
    isfinite,
    isnan,
    maximum,
    where,
)
from gradclip.sending import scalars_of, vector_of

NAN = 2.0
"""The flag for NaN, which a maximum need not hand on."""


class Flags(NamedTuple):
    """Numbers of a rank, and once they have travelled, of all: their sum, or the largest for norms that are extrema."""

    elements: Scalar = 0.0  # 1 for a rank with any element at all
    unread: Scalar = 0.0  # 1 for one whose host does not know what arrives
    nonfinite: Scalar = 0.0  # 1 for one that measured infinity, 2 for NaN
    failed: Scalar = 0.0  # 1 for one that could not collect or measure its gradients
    unexpected: Scalar = 0.0  # 1 for one whose gradients are summed where it was agreed that they are not, or otherwise
    losses: Scalar = 0.0  # 1 for one that knows a loss
    loss: Scalar = 0.0  # which is this

    @staticmethod
    def of(loss: Scalar | None, norm_type: float, *, has_elements: bool) -> "Flags":
        """Return the flags of a rank before it has measured anything."""
        none = -math.inf if is_extremum(norm_type) else 0.0
        return Flags(elements=float(has_elements), losses=float(loss is not None), loss=none if loss is None else loss)

    def noting(self, partials: list[Scalar], norm_type: float) -> "Flags":
        """Return the flags once some partials were measured."""
        worst = self.nonfinite
        for partial in partials:
            worst = maximum(worst, _level(partial, norm_type))
        return self._replace(nonfinite=worst)

    def noting_each(self, partials: Tensor, norm_type: float) -> "Flags":
        """Return the same of a vector of partials."""
        return self.noting([from_device(partials.amax())] if len(partials) else [], norm_type)  # which keeps NaN

    def judged(self, norm: Scalar, norm_type: float) -> Scalar:
        """Return the norm of everything: NaN where any rank, perhaps another one, has found something not finite."""
        nan_from = NAN if is_extremum(norm_type) else math.inf  # a sum hands NaN on by itself
        is_bad = ((self.nonfinite > 0.0) & isfinite(norm)) | (self.nonfinite >= nan_from)
        judged = where(is_bad, math.nan, norm)
        return where(self.elements == 0.0, 0.0, judged) if norm_type < 0.0 else judged

    @property
    def is_heard(self) -> bool:
        """Whether all ranks know if any has failed; not so where a device alone knows."""
        return is_known(self.failed) and not self.unread

    def common_loss(self, norm_type: float) -> Scalar | None:
        """Return the mean loss of the ranks that know one; the largest, where maxima were taken.

        If none does, it is None; NaN where only a device knows that, and whether another rank does.
        """
        if is_known(self.losses) and self.losses == 0.0:
            return None
        return where(self.losses > 0.0, self.loss, math.nan) if is_extremum(norm_type) else self.loss / self.losses


def exchange(span: Span, partials: list[Scalar], flags: Flags, norm_type: float) -> tuple[list[Scalar], Flags]:
    """Return the partials of all ranks of a span together, and their flags.

    They are floats again if all were; else tensors, for which nothing waits.
    """
    is_read = all(map(is_known, (*partials, *flags)))
    numbers = [*partials, *flags._replace(unread=float(not is_read))]
    vector = vector_of(numbers, span.serves)
    _reduce_(span, vector, len(partials), norm_type)
    arrived = scalars_of(vector, like=numbers)
    return arrived[: len(partials)], Flags(*arrived[len(partials) :])


def exchange_each(
    span: Span, partials: Tensor, present: Tensor, flags: Flags, norm_type: float
) -> tuple[Tensor, Tensor, Flags]:
    """Do the same with a vector of partials, and one that says which parameters there are: float64."""
    flags = flags._replace(unread=float(not is_host(partials)))
    vector = vector_of([partials, present, *flags], span.serves)
    _reduce_(span, vector, len(partials), norm_type)
    own, there, tail = vector.to(partials.device).split([len(partials), len(present), len(flags)])
    return own, there, Flags(*scalars_of(tail))


def _reduce_(span: Span, vector: Tensor, count: int, norm_type: float) -> None:
    if not is_extremum(norm_type):
        span.reduce_(vector, maximum=False)
        return
    partials = vector[:count]
    if norm_type == -math.inf:
        partials.neg_()
    partials.masked_fill_(partials.isnan(), math.inf)  # what a maximum does with NaN differs: a flag stands for it
    span.reduce_(vector, maximum=True)
    if norm_type == -math.inf:
        partials.neg_()


def _level(partial: Scalar, norm_type: float) -> Scalar:
    infinite = (partial == math.inf) & (norm_type >= 0.0)  # below, it stands for a zero, or for no element
    return where(isnan(partial), NAN, where(infinite, 1.0, 0.0))


def say_all(spans: list[Span], own: str) -> str:
    """Return what ranks say, if this one says `own`; all ranks of these spans have to ask."""
    if not spans:  # nobody else is there
        return own
    said = {dist.get_rank(): own} if own else {}
    for span in spans:
        for theirs in span.gather(said):
            said |= theirs
    return " ".join(f"Rank {rank}: {text}" for rank, text in sorted(said.items()))
