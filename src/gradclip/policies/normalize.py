"""Gradients of one length."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, final

from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.validation import check_choice, check_field, check_positive_order


@final
@dataclass(frozen=True)
class Normalize(Policy):
    r"""Divide gradients by their norm: small ones grow and large ones shrink to a norm of nearly 1.

    .. math:: g \leftarrow \frac{g}{\lVert g \rVert_p + \gamma}

    Args:
        gamma: Keeps very small gradients small, > 0: a gradient of norm :math:`\gamma` gets norm 1/2.
        scope: What gets that norm: `"total"`, all gradients together, or `"parameter"`, the gradient of each parameter.
        norm_type: The order :math:`p` > 0 of the norm, or `math.inf`.

    Example:
        >>> import gradclip
        >>> gradclip.policies.Normalize()
        Normalize(gamma=0.01, scope='total', norm_type=2.0)

    Note:
        The coefficient exceeds 1 for norms below :math:`1 - \gamma`. The learning rate alone sets the
        length of a step, so it has to decay.

    References:
        Bu, Wang, Zha and Karypis, Automatic clipping, 2022, arXiv:2206.07136 (for each sample, with 0.01).
        Cutkosky and Mehta, Momentum improves normalized SGD, 2020, arXiv:2002.03305. Per parameter: Yu, Huang, Lin,
        Salakhutdinov and Carbonell, Block-normalized gradient method, 2017, arXiv:1707.04822.
    """

    gamma: float = 0.01
    _: KW_ONLY
    scope: Literal["total", "parameter"] = "total"
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        check_field(self, "gamma", above=0.0, finite=True)
        check_choice(self, "scope", ("total", "parameter"))
        check_positive_order(self)

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        return Decision(1.0 / (norms.at(self.scope) + self.gamma), scope=self.scope), state
