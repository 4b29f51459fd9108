"""A bound on the root mean square of each parameter's gradient."""

from dataclasses import dataclass
from typing import final

import torch

from gradclip.policies.layout import Scope
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.validation import check_field


@final
@dataclass(frozen=True)
class BlockRMS(Policy):
    r"""Clip the root mean square (RMS) of the gradient of each parameter.

    .. math:: g_i \leftarrow \frac{g_i}{\max(1, \text{RMS}(g_i) / d)}, \qquad
        \text{RMS}(g_i) = \frac{\lVert g_i \rVert_2}{\sqrt{\text{number of elements}}}

    Args:
        threshold: The largest RMS :math:`d` > 0 left.

    Example:
        >>> import gradclip
        >>> gradclip.policies.BlockRMS(1.0)
        BlockRMS(threshold=1.0)

    References:
        Shazeer and Stern, Adafactor: adaptive learning rates with sublinear memory cost, 2018, arXiv:1804.04235,
        section 6, which clips the update instead; optax's `clip_by_block_rms`.
    """

    threshold: float = 1.0

    def __post_init__(self) -> None:
        check_field(self, "threshold", above=0.0)

    @property
    def scope(self) -> Scope:
        return "parameter"

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        bounds = self.threshold * norms.layout.sizes.sqrt()  # what an RMS of d is as a norm
        n = norms.of_parameters()
        coefs = torch.clamp(bounds / n, max=1.0).masked_fill(n == 0.0, 1.0)  # 0 / 0 for no element
        return Decision(coefs, bounds, "parameter"), state
