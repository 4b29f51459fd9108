"""A bound that is approached instead of hit."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal, final

from gradclip.numbers import SMALLEST_UNIT, Scalar, hypot, maximum, ratio, tanh
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.validation import check_choice, check_field, check_positive_order


@final
@dataclass(frozen=True)
class SmoothNorm(Policy):
    r"""Shrink the total norm smoothly below a threshold that it never reaches.

    With :math:`n` the norm and :math:`c` the threshold, gradients are multiplied by

    ============  ======================================
    kind          coefficient
    ============  ======================================
    `"rational"`  :math:`c / (n + c)`
    `"sqrt"`      :math:`1 / \sqrt{1 + (n / c)^2}`
    `"tanh"`      :math:`(c / n) \tanh(n / c)`
    ============  ======================================

    Args:
        max_norm: The threshold :math:`c` > 0; `math.inf` changes nothing.
        kind: Which formula. The rational one halves a gradient of norm :math:`c`. `"sqrt"` leaves 0.71 of it and
            `"tanh"` 0.76; both change small gradients less, by :math:`O((n/c)^2)`.
        norm_type: The order > 0 of the norm, or `math.inf`.

    Example:
        >>> import gradclip
        >>> gradclip.policies.SmoothNorm(1.0)
        SmoothNorm(max_norm=1.0, kind='sqrt', norm_type=2.0)

    Note:
        Every step is changed a little: gradients never stay the same byte for byte, except at a norm of 0.

    References:
        Zhang, He, Sra and Jadbabaie, Why gradient clipping accelerates training, 2020, arXiv:1905.11881 (rational).
        Jiang, Semenov and Stich, SPECTRA, 2026, arXiv:2603.14315 (sqrt, for singular values). Williamson,
        Eisenmann and Stillfjord, 2024, arXiv:2406.16640, analyse a class of such functions.
    """

    max_norm: float
    kind: Literal["sqrt", "rational", "tanh"] = "sqrt"
    _: KW_ONLY
    norm_type: float = 2.0

    def __post_init__(self) -> None:
        check_field(self, "max_norm", above=0.0)
        check_choice(self, "kind", ("sqrt", "rational", "tanh"))
        check_positive_order(self)

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        share = 0.0 if self.max_norm == math.inf else norms.total / self.max_norm  # also where the norm is no number
        return Decision(self._coefficient(share), self.max_norm), state

    def _coefficient(self, share: Scalar) -> Scalar:
        match self.kind:
            case "rational":
                return 1.0 / (share + 1.0)
            case "sqrt":
                return 1.0 / hypot(1.0, share)
            case "tanh":
                own = maximum(share, SMALLEST_UNIT)  # of which the ratio is 1, as in the limit
                return ratio(tanh(own), own)
