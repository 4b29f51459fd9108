"""A bound at a multiple of the median of recent norms."""

from dataclasses import KW_ONLY, dataclass
from typing import final

from gradclip.numbers import bring_down, minimum, where
from gradclip.policies.history import History
from gradclip.policies.layout import Layout
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.validation import REQUIRED, check_ceiling, check_field


@final
@dataclass(frozen=True)
class MedianClip(Policy):
    r"""Clip the total norm at a multiple of the median of recent norms.

    .. math:: c_t = s \cdot \text{median}(n_{t-w}, \dots, n_{t-1})

    The median does not follow spikes until they fill half of the window. A lasting change of level is learned within
    half a window.

    Args:
        max_norm: The ceiling: the largest norm ever let through, >= 0; `math.inf` for none. During the warm-up it is
            the only threshold.
        scale: The multiple :math:`s` > 0.
        window: How many norms :math:`w` >= 1 to remember, as they were before clipping.
        warmup: How many norms to learn from before the median is used, >= 1.
        eps: Added to the norm before the threshold is divided by it, >= 0.

    Example:
        >>> import torch, gradclip
        >>> clipper = gradclip.GradClipper(torch.nn.Linear(2, 1), gradclip.policies.MedianClip(max_norm=1.0))

    Note:
        *Differs from its source*, the optimizer ScaledAdam of the speech toolkit icefall (Povey, k2-fsa): the median is
        taken at every step, while icefall takes it every 100 steps (and at steps 10, 20 and 40). The norm is that of
        the gradients, while icefall weights them by the size of the parameters. Non-finite norms are not learned from,
        and `max_norm` is a ceiling.

    References:
        Yao et al., Zipformer: a faster and better encoder for automatic speech recognition, 2023, arXiv:2310.11230,
        which describes ScaledAdam; its clipping is documented in icefall's `optim.py`, `clipping_scale`.
    """

    max_norm: float = REQUIRED
    _: KW_ONLY
    scale: float = 2.0
    window: int = 100
    warmup: int = 10
    eps: float = 1e-6

    def __post_init__(self) -> None:
        check_ceiling(self)
        check_field(self, "scale", above=0.0, finite=True)
        check_field(self, "window", at_least=1, integer=True)
        check_field(self, "warmup", at_least=1, at_most=self.window, integer=True, advice="The `window` holds no more.")
        check_field(self, "eps", at_least=0.0, finite=True)

    def init(self, layout: Layout) -> tuple[History]:
        return (History.of(self.window),)

    def decide(self, norms: Norms, state: tuple[History]) -> tuple[Decision, tuple[History]]:
        n, (history,) = norms.total, state
        usual = self.scale * history.quantile(0.5, n)
        threshold = where(history.count() >= self.warmup, minimum(usual, self.max_norm), self.max_norm)
        return Decision(bring_down(n, threshold, self.eps), threshold), (history.add(n),)
