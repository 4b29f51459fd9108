"""A bound that stays."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, final

from gradclip.numbers import coefficient
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.validation import check_bound, check_choice, check_field, check_positive_order


@final
@dataclass(frozen=True)
class FixedNorm(Policy):
    r"""Clip the norm at a constant: what `clip_grad_norm_` does.

    .. math:: g \leftarrow g \cdot \min\left(1, \frac{c}{\lVert g \rVert_p + \epsilon}\right)

    Args:
        max_norm: The threshold :math:`c` >= 0, in the units of the gradients; `math.inf` only measures.
        norm_type: The order :math:`p` > 0 of the norm, or `math.inf`.
        eps: The :math:`\epsilon` >= 0 that is added to the norm.
        scope: What is clipped: `"total"`, the norm of all gradients together, or `"parameter"`, the norm of each
            parameter. For the norm of each parameter group of an optimizer, see `by_group`.

    Example:
        >>> import gradclip
        >>> gradclip.policies.FixedNorm(1.0)
        FixedNorm(max_norm=1.0, norm_type=2.0, eps=1e-06, scope='total')

    References:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013,
        arXiv:1211.5063, section 3.2, algorithm 1.
    """

    max_norm: float = 1.0
    norm_type: float = 2.0
    _: KW_ONLY
    eps: float = 1e-6
    scope: Literal["total", "parameter"] = "total"

    def __post_init__(self) -> None:
        check_bound(self)
        check_positive_order(self)
        check_field(self, "eps", at_least=0.0, finite=True)
        check_choice(self, "scope", ("total", "parameter"))

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        coef = coefficient(norms.at(self.scope), self.max_norm, self.eps)
        return Decision(coef, self.max_norm, self.scope), state


def measures(policy: object) -> bool:
    """Whether a policy is there for its norms alone, as its bound is infinite."""
    return isinstance(policy, FixedNorm) and policy.max_norm == math.inf
