"""A bound in proportion to the weights."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from gradclip.numbers import LARGEST_PLAIN_ORDER
from gradclip.policies.layout import Layout, Scope, units_by
from gradclip.policies.measured import Norms, gathered, refuse_parts
from gradclip.policies.policy import Decision, Policy
from gradclip.sending import sent
from gradclip.units import Units
from gradclip.validation import check_choice, check_field, check_positive_order


@final
@dataclass(frozen=True)
class AGC(Policy):
    r"""Clip the gradient of each unit at a share of the norm of its weights: adaptive gradient clipping.

    .. math:: G_i \leftarrow \lambda \frac{\max(\lVert W_i \rVert_p, \epsilon)}{\lVert G_i \rVert_p} G_i
        \quad \text{if } \frac{\lVert G_i \rVert_p}{\max(\lVert W_i \rVert_p, \epsilon)} > \lambda

    A unit :math:`i` is an output row or filter: one index of dimension 0 of a weight with two or more dimensions
    (torch's layout of `Linear` and `Conv`). A bias or gain is one unit as a whole.

    Args:
        clip_factor: The share :math:`\lambda` > 0. 0.01 suits large batches and SGD; small batches and Adam need more.
        eps: The lower limit :math:`\epsilon` >= 0 of the norm of the weights, so that units of zeros can move; if it is
            0, they never do.
        norm_type: The order :math:`p` of the norms, in (0, 6] or `math.inf`.
        axis: The dimension or dimensions that the norm of a unit is taken over; None for all except the first. With 0,
            the units are the columns of a matrix, for weights that are stored as (in, out).
        per: What has its own norm and threshold: each `"unit"`; each `"parameter"`; each `"layer"`, the parameters
            whose names differ only in the last part; or `"total"`, everything together.
        min_ndim: Only parameters with at least this many dimensions are clipped: 2 leaves biases and gains alone.

    Example:
        >>> import gradclip
        >>> gradclip.policies.AGC()
        AGC(clip_factor=0.01, eps=0.001, norm_type=2.0, axis=None, per='unit', min_ndim=0)

    Note:
        The paper leaves the last linear layer alone: `by_name({"fc.*": FixedNorm(math.inf)}, AGC())`. Transposed
        convolutions have their output in dimension 1, and a fused projection holds several layers in its rows.
        Gradients must be dense. The policy learns nothing, so it needs no warm-up.

    References:
        Brock, De, Smith and Simonyan, High-performance large-scale image recognition without normalization, 2021,
        arXiv:2102.06171, section 4.
    """

    clip_factor: float = 0.01
    _: KW_ONLY
    eps: float = 1e-3
    norm_type: float = 2.0
    axis: int | tuple[int, ...] | None = None
    per: Literal["unit", "parameter", "layer", "total"] = "unit"
    min_ndim: int = 0

    def __post_init__(self) -> None:
        check_field(self, "clip_factor", above=0.0, finite=True)
        check_field(self, "eps", at_least=0.0, finite=True)
        check_positive_order(self, at_most=LARGEST_PLAIN_ORDER)
        check_axis(self)
        check_choice(self, "per", ("unit", "parameter", "layer", "total"))
        check_field(self, "min_ndim", at_least=0, integer=True)

    @property
    def scope(self) -> Scope:
        return "unit"

    @property
    def units(self) -> Units:
        return Units((self.axis,) if isinstance(self.axis, int) else self.axis, self.norm_type)

    def init(self, layout: Layout) -> tuple[()]:
        nameless = next((name for name in layout.names if name.endswith("]")), None)
        if self.per == "layer" and nameless is not None:
            msg = (
                f"`AGC(per='layer')` must know the layers by the names of parameters, got {nameless!r}, a place. "
                "Make the clipper from the model, or from `model.named_parameters()`."
            )
            raise ValueError(msg)
        return ()

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        if self.per in {"layer", "total"} and not norms.complete:
            refuse_parts()
        n, w = norms.of_units(), norms.of_weights()
        left_alone = self._left_alone(norms.layout)
        groups = None if self.per == "unit" else units_by(norms.layout, self.per)
        if groups is not None:
            apart = n.isnan() if left_alone is None else n.isnan() | left_alone  # NaN is without a gradient
            n, w = (gathered(torch.where(apart, 0.0, x), groups, self.norm_type) for x in (n, w))
        bounds = self.clip_factor * w.clamp(min=self.eps)
        coefs = torch.where(n == 0.0, 1.0, (bounds / n).clamp(max=1.0))
        if groups is not None:
            bounds, coefs = bounds[groups.places], coefs[groups.places]
        if left_alone is not None:
            bounds, coefs = torch.where(left_alone, math.inf, bounds), torch.where(left_alone, 1.0, coefs)
        return Decision(coefs, bounds, "unit"), state

    def _left_alone(self, layout: Layout) -> Tensor | None:
        if self.min_ndim == 0:
            return None
        few = [ndim < self.min_ndim for ndim in layout.ndims]
        return sent(few, layout.device, torch.bool)[layout.owners]


def check_axis(owner: object) -> None:
    """Check the dimensions that a norm is taken over: one, several, or None."""
    given: Any = getattr(owner, "axis", None)
    listed = () if given is None else given if isinstance(given, (list, tuple)) else (given,)
    if any(isinstance(dim, bool) or not isinstance(dim, (int, float)) or dim % 1 for dim in listed) or (
        given is not None and not listed
    ):
        msg = f"`{type(owner).__name__}(axis=...)` must be a dimension, a tuple of some, or None, got {given!r}."
        raise ValueError(msg)
    dims = tuple(map(int, listed))
    object.__setattr__(owner, "axis", None if given is None else dims if isinstance(given, (list, tuple)) else dims[0])
