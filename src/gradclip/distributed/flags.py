"""What travels with the numbers of a collective, so that all its ranks know what went wrong on any."""

import math
from array import array
from typing import NamedTuple, cast

import torch
from torch import Tensor

from gradclip.distributed.span import Span
from gradclip.numbers import CPU, Scalar, as_float64, is_extremum

NAN = 2.0
"""The flag for NaN, which a maximum need not hand on."""


class Flags(NamedTuple):
    """Numbers of a rank, and once they have travelled, of all: their sum, or the largest for norms that are extrema."""

    elements: Scalar = 0.0  # 1 for a rank with any element at all
    nonfinite: Scalar = 0.0  # 1 for one that measured infinity, 2 for NaN
    failed: Scalar = 0.0  # 1 for one that could not collect or measure its gradients
    unexpected: Scalar = 0.0  # 1 for one whose gradients are not partial where that was agreed on, or otherwise
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
            level = _level(partial, norm_type)
            if isinstance(worst, Tensor) or isinstance(level, Tensor):
                device = level.device if isinstance(level, Tensor) else CPU
                worst = torch.maximum(as_float64(worst, device), as_float64(level, device))
            else:
                worst = max(worst, level)
        return self if worst is self.nonfinite else self._replace(nonfinite=worst)

    def judged(self, norm: Scalar, norm_type: float) -> Scalar:
        """Return the norm of everything: NaN where any rank, perhaps another one, has found something not finite."""
        nan_from = NAN if is_extremum(norm_type) else math.inf  # a sum hands NaN on by itself
        if isinstance(norm, Tensor) or isinstance(self.nonfinite, Tensor):
            device = norm.device if isinstance(norm, Tensor) else CPU
            norm, level, elements = (as_float64(x, device) for x in (norm, self.nonfinite, self.elements))
            judged = torch.where(((level > 0.0) & norm.isfinite()) | (level >= nan_from), math.nan, norm)
            return torch.where(elements == 0.0, 0.0, judged) if norm_type < 0.0 else judged
        if (self.nonfinite and math.isfinite(norm)) or self.nonfinite >= nan_from:
            return math.nan
        return 0.0 if norm_type < 0.0 and not self.elements else norm

    def common_loss(self, norm_type: float, *, own: Scalar | None) -> Scalar | None:
        """Return the mean loss of the ranks that know one; the largest, where maxima were taken; None if none does.

        Where only a device knows how many these are, it is taken for granted that all do if this one does.
        """
        if not self.losses if not isinstance(self.losses, Tensor) else own is None:
            return None
        return self.loss if is_extremum(norm_type) else self.loss / self.losses


def exchange(span: Span, partials: list[Scalar], flags: Flags, norm_type: float) -> tuple[list[Scalar], Flags]:
    """Return the partials of all ranks of a span together, and their flags.

    They are numbers again if all were; else tensors, for which nothing waits.
    """
    numbers = [*partials, *flags]
    device = next((x.device for x in numbers if isinstance(x, Tensor)), None)
    where = span.device_for(device or CPU)
    if device is not None:
        vector = torch.stack([as_float64(x, where) for x in numbers])
    elif where == CPU:
        vector = torch.frombuffer(
            array("d", cast("list[float]", numbers)), dtype=torch.float64
        )  # half the cost of reading a list
    else:
        vector = torch.tensor(numbers, dtype=torch.float64, device=where)
    _reduce_(span, vector, len(partials), norm_type)
    arrived = vector.tolist() if device is None else list(vector.unbind())
    return arrived[: len(partials)], Flags(*arrived[len(partials) :])


def exchange_each(
    span: Span, partials: Tensor, present: Tensor, flags: Flags, norm_type: float
) -> tuple[Tensor, Tensor, Flags]:
    """Do the same with a vector of partials, and one that says which parameters there are: float64."""
    where = span.device_for(partials.device)
    tail = torch.stack([as_float64(x, where) for x in flags])
    vector = torch.cat([partials.to(where), present.to(where), tail])
    _reduce_(span, vector, len(partials), norm_type)
    own, there, tail = vector.to(partials.device).split([len(partials), len(present), len(tail)])
    return own, there, Flags(*(tail.tolist() if tail.device == CPU else tail.unbind()))


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
    if isinstance(partial, Tensor):
        infinite = (partial == math.inf) & (norm_type >= 0.0)  # below, it stands for a zero, or for no element
        return torch.where(partial.isnan(), NAN, infinite.to(torch.float64))
    return NAN if math.isnan(partial) else float(partial == math.inf and norm_type >= 0.0)
