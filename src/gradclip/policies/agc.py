"""A bound in proportion to the weights."""

from dataclasses import KW_ONLY, dataclass
from typing import final

import torch

from gradclip.policies.measured import Layout, Norms, Scope
from gradclip.policies.policy import Decision, Policy
from gradclip.validation import check_field


@final
@dataclass(frozen=True)
class AGC(Policy):
    r"""Bound the gradient of each unit by a share of the norm of its weights: adaptive gradient clipping.

    .. math:: G_i \leftarrow \lambda \frac{\max(\lVert W_i \rVert, \epsilon)}{\lVert G_i \rVert} G_i
        \quad \text{where } \frac{\lVert G_i \rVert}{\max(\lVert W_i \rVert, \epsilon)} > \lambda

    A unit :math:`i` is an output row or filter: one index of dimension 0 of a weight with two dimensions or more
    (torch's layout of `Linear` and `Conv`), and the whole of a bias or gain.

    Args:
        clip_factor: The share :math:`\lambda` > 0. 0.01 suits large batches and SGD; small batches and Adam want more.
        eps: The smallest norm of weights :math:`\epsilon` > 0, so that units of zeros can move.

    Example:
        >>> import gradclip
        >>> gradclip.policies.AGC()
        AGC(clip_factor=0.01, eps=0.001)

    Note:
        The paper leaves the last linear layer alone: `by_name({"fc.*": FixedNorm(math.inf)}, AGC())`. Transposed
        convolutions have their output in dimension 1, and a fused projection holds several layers in its rows.
        Gradients must be dense. There is no state to learn, so there is nothing to warm up.

    References:
        Brock, De, Smith and Simonyan, High-performance large-scale image recognition without normalization, 2021,
        arXiv:2102.06171, section 4.
    """

    clip_factor: float = 0.01
    _: KW_ONLY
    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_field(self, "clip_factor", above=0.0, finite=True)
        check_field(self, "eps", above=0.0, finite=True)

    @property
    def scope(self) -> Scope:
        return "unit"

    def init(self, layout: Layout) -> tuple[()]:
        return ()

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        bounds = self.clip_factor * norms.of_weights().clamp(min=self.eps)
        return Decision(torch.clamp(bounds / norms.of_units(), max=1.0), bounds, "unit"), state
