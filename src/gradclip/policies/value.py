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
    r"""Limit every element: what `clip_grad_value_` does.

    .. math:: g_i \leftarrow \max(-c, \min(c, g_i))

    Args:
        clip_value: The bound :math:`c` >= 0; `math.inf` measures only.

    Example:
        >>> import gradclip
        >>> gradclip.policies.FixedValue(0.01)
        FixedValue(clip_value=0.01)

    Note:
        The norms of its results are maxima, which say exactly what was clipped, unless other policies of a composition
        ask for another order, or a parameter is complex: the norm after clipping is then not known without reading the
        gradients again, and is NaN. The direction of the gradient changes. Useful bounds shrink with the number of
        parameters.

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
