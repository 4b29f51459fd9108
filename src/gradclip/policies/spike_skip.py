"""No step at all where the norm or the loss is far off."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, NamedTuple, final

from gradclip.numbers import Condition, Scalar, bring_down, isfinite, where
from gradclip.policies.history import History
from gradclip.policies.holds import FINITE, SIZE
from gradclip.policies.layout import Layout
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.policies.unlock import PATIENCE, press
from gradclip.validation import REQUIRED, check_ceiling, check_field, check_flag


class SpikeSkipState(NamedTuple):
    """What SpikeSkip has seen, and its pressure."""

    norms: History
    losses: History
    pressure: Annotated[Scalar, SIZE]


@final
@dataclass(frozen=True)
class SpikeSkip(Policy):
    r"""Skip the step if the norm or the loss is many standard deviations above its recent mean.

    .. math:: \text{skip if } n > \mu_w(n) + s \, \sigma_w(n) \;\text{ or }\; l > \mu_w(l) + s \, \sigma_w(l)

    The mean and the sample standard deviation are those of the last `window` steps that were not skipped.

    Args:
        max_norm: The ceiling: steps that are not skipped are clipped at it, >= 0; `math.inf` for none.
        sigmas: The number of deviations :math:`s` > 0.
        window: How many steps :math:`w` >= 2 to remember.
        warmup: How many steps to learn from before any is skipped, >= 2.
        learn_skipped: Whether skipped steps enter the statistics.
        eps: Added to the norm before `max_norm` is divided by it, >= 0.
        patience: After how many more spikes than other steps, spikes are no longer skipped and are learned from;
            `math.inf` for never.

    Example:
        >>> import torch, gradclip
        >>> clipper = gradclip.GradClipper(torch.nn.Linear(2, 1), gradclip.policies.SpikeSkip(max_norm=1.0))

    Note:
        The loss is judged only if you pass it: by `clipper.clip(loss=loss)`, or by `clipper.observe_loss(loss)` before
        the step of an attached optimizer. The closure of that step may also return it. *Host sync:* see `GradClipper`
        on policies that skip.

        *Distributed:* if the norm is computed from all ranks, for instance with a `group`, the mean of their losses
        decides. Otherwise, for instance under DDP, the loss of a closure is only recorded, and a loss that you pass
        has to be the same on all ranks, or they decide differently.

        *Differs from its source*, OLMo-core's `SkipStepOptimizer`: skipped steps are not learned from, while in the
        source a spike in the window hides the ones after it. Non-finite values are not learned from, while in the
        source one NaN skips as many steps as the window holds. `max_norm` is a ceiling, and the statistics follow a
        lasting change of level. `SpikeSkip(math.inf, warmup=63, learn_skipped=True, patience=math.inf)` is the policy
        of the source.

    References:
        OLMo Team, 2 OLMo 2 Furious, 2025, arXiv:2501.00656, and its code, `olmo_core.optim.SkipStepOptimizer`.
        Chowdhery et al., PaLM: scaling language modeling with pathways, 2022, arXiv:2204.02311, section 5.1, skips
        batches by hand.
    """

    max_norm: float = REQUIRED
    _: KW_ONLY
    sigmas: float = 6.0
    window: int = 128
    warmup: int = 64
    learn_skipped: bool = False
    eps: float = 1e-6
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        check_ceiling(self)
        check_flag(self, "learn_skipped")
        check_field(self, "sigmas", above=0.0, finite=True)
        check_field(self, "window", at_least=2, integer=True)
        check_field(self, "warmup", at_least=2, at_most=self.window, integer=True, advice="The `window` holds no more.")
        check_field(self, "eps", at_least=0.0, finite=True)
        check_field(self, "patience", at_least=1.0)

    @property
    def skips(self) -> bool:
        return True

    def init(self, layout: Layout) -> SpikeSkipState:
        return SpikeSkipState(History.of(self.window), History.of(self.window, holds=FINITE), pressure=0.0)

    def decide(self, norms: Norms, state: SpikeSkipState) -> tuple[Decision, SpikeSkipState]:
        n, loss = norms.total, math.nan if norms.loss is None else norms.loss
        spike = self._is_spike(n, state.norms) | self._is_spike(loss, state.losses)
        skip = spike & (state.pressure < self.patience)
        hidden = skip & (not self.learn_skipped)
        new = SpikeSkipState(
            state.norms.add(where(hidden, math.nan, n)),
            state.losses.add(where(hidden, math.nan, loss)),
            where(isfinite(n), press(state.pressure, self.patience, spike), state.pressure),
        )
        return Decision(bring_down(n, self.max_norm, self.eps), self.max_norm, skip=skip), new

    def _is_spike(self, x: Scalar, history: History) -> Condition:
        mean, deviation = history.mean_and_deviation()
        return (x > mean + self.sigmas * deviation) & (history.count() >= self.warmup)
