"""A bound at a multiple of the median of recent norms."""

from dataclasses import KW_ONLY, dataclass
from typing import final

from gradclip.numbers import bring_down, minimum, where
from gradclip.policies.history import History
from gradclip.policies.measured import Layout, Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.validation import REQUIRED, check_ceiling, check_field


@final
@dataclass(frozen=True)
class MedianClip(Policy):
    r"""Bound the total norm by a multiple of the median of recent norms.

    .. math:: c_t = s \cdot \text{median}(n_{t-w}, \dots, n_{t-1})

    Half of a window may be spikes before the median follows them, and a lasting change of level is learned within half
    a window.

    Args:
        max_norm: The largest norm let through, always: the only bound while warming up. >= 0; `math.inf` for none.
        scale: The multiple :math:`s` > 0.
        window: How many norms :math:`w` >= 1 to remember, before clipping.
        warmup: How many norms to learn from before judging any, >= 1.
        eps: Added to the norm that the bound is divided by, >= 0.

    Example:
        >>> import torch, gradclip
        >>> clipper = gradclip.GradClipper(torch.nn.Linear(2, 1), gradclip.policies.MedianClip(max_norm=1.0))

    Note:
        *Differs from its source*, the optimizer ScaledAdam of the speech toolkit icefall (Povey, k2-fsa): the median is
        taken at every step, where icefall does so every 100 (and at 10, 20 and 40); the norm is that of the gradients,
        where icefall's weighs them by the size of the parameters; norms that are not finite teach nothing; and
        `max_norm` bounds.

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
