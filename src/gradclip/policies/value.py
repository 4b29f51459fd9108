"""A bound on every element."""

import math
from dataclasses import dataclass
from typing import final

from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.validation import check_bound


@final
@dataclass(frozen=True)
class FixedValue(Policy):
    r"""Limit the absolute value of every element: what `clip_grad_value_` does.

    .. math:: g_i \leftarrow \max(-c, \min(c, g_i))

    Args:
        clip_value: The largest absolute value :math:`c` >= 0; `math.inf` only measures.

    Example:
        >>> import gradclip
        >>> gradclip.policies.FixedValue(0.01)
        FixedValue(clip_value=0.01)

    Note:
        The norms of its results are maxima, which tell exactly what was clipped. If other policies of a composition
        need norms of another order, or a parameter is complex, the norm after clipping is NaN: it is not known without
        reading the gradients again. The direction of the gradient changes. Useful limits shrink as the number of
        parameters grows.

    References:
        Mikolov, Statistical Language Models Based on Neural Networks, PhD thesis, Brno, 2012.
    """

    clip_value: float

    def __post_init__(self) -> None:
        check_bound(self, "clip_value")

    @property
    def norm_type(self) -> None:
        return None

    @property
    def clamps(self) -> bool:
        return True

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        return Decision(threshold=self.clip_value if norms.are_maxima else math.inf, clamp=self.clip_value), state
