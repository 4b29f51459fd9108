"""A bound on how unusual a norm is."""

import math
import sys
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal, NamedTuple, final

from gradclip.numbers import Condition, Scalar, bring_down, isfinite, minimum, ratio, sqrt, where
from gradclip.policies.holds import COUNT, SIZE
from gradclip.policies.layout import Layout
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.policies.unlock import PATIENCE, press
from gradclip.validation import REQUIRED, check_ceiling, check_choice, check_field, check_flag

LARGEST = sys.float_info.max
"""Of a variance: an infinite one would stay so, and bound nothing any more."""


class ZClipState(NamedTuple):
    """What ZClip has learned: mean and variance of the norms let through, from how many, and its pressure."""

    mean: Annotated[Scalar, SIZE]
    var: Annotated[Scalar, SIZE]
    count: Annotated[Scalar, COUNT]
    pressure: Annotated[Scalar, SIZE]


@final
@dataclass(frozen=True)
class ZClip(Policy):
    r"""Clip spikes of the total norm at its running mean plus some deviations: the larger the spike, the fewer.

    .. math:: z = \frac{n - \mu}{\sigma + \epsilon}, \qquad
        c = \mu + \frac{z_*^2}{z} \sigma \quad \text{if } z > z_*

    The first `warmup` norms give the initial :math:`\mu` and :math:`\sigma`. From then on, both are moving averages
    over the norms after clipping, with factor `alpha`.

    Args:
        max_norm: The ceiling: the largest norm ever let through, >= 0; `math.inf` for none. During the warm-up it is
            the only threshold.
        z_threshold: The deviations :math:`z_*` > 0 beyond which a norm is a spike.
        alpha: The factor of the moving averages, in [0, 1).
        warmup: How many norms to learn from before any is judged, >= 1.
        eps: The :math:`\epsilon` >= 0 of the formula; also added to the norm before the threshold is divided by it.
        patience: After how many more clipped than unclipped steps the averages follow the norms before clipping;
            `math.inf` for never.
        mode: `"zscore"`, the formula above; or `"percentile"`, which clips every norm at :math:`\mu + z_* \sigma`.
        clip_option: What a spike is clipped to if the mode is `"zscore"`: `"adaptive_scaling"`, the formula above, or
            `"mean"`, :math:`\mu`.
        clip_factor: The threshold of `"adaptive_scaling"` is multiplied by this, in (0, 1].
        skip_update_on_spike: Whether spikes are left out of the averages; otherwise their clipped norms count.

    Example:
        >>> import torch, gradclip
        >>> clipper = gradclip.GradClipper(torch.nn.Linear(2, 1), gradclip.policies.ZClip(max_norm=1.0))

    Note:
        *Differs from the paper:* non-finite norms are not learned from. `max_norm` also limits what is learned, and the
        averages follow a lasting change of level. `ZClip(math.inf, patience=math.inf)` is the policy as published, and
        `chain(ZClip(math.inf, patience=math.inf), FixedNorm(1.0, eps=0.0))` does what its reference code does by
        default.

    References:
        Kumar, Owen, Roy Chowdhury and Güra, ZClip: adaptive spike mitigation for LLM pre-training, 2025,
        arXiv:2504.02507.
    """

    max_norm: float = REQUIRED
    _: KW_ONLY
    z_threshold: float = 2.5
    alpha: float = 0.97
    warmup: int = 25
    eps: float = 1e-6
    patience: float = PATIENCE
    mode: Literal["zscore", "percentile"] = "zscore"
    clip_option: Literal["adaptive_scaling", "mean"] = "adaptive_scaling"
    clip_factor: float = 1.0
    skip_update_on_spike: bool = False

    def __post_init__(self) -> None:
        check_ceiling(self)
        check_flag(self, "skip_update_on_spike")
        check_field(self, "z_threshold", above=0.0, finite=True)
        check_field(self, "alpha", at_least=0.0, below=1.0)
        check_choice(self, "mode", ("zscore", "percentile"))
        check_choice(self, "clip_option", ("adaptive_scaling", "mean"))
        check_field(self, "clip_factor", above=0.0, at_most=1.0)
        check_field(self, "warmup", at_least=1, integer=True)
        check_field(self, "eps", at_least=0.0, finite=True)
        check_field(self, "patience", at_least=1.0)

    def init(self, layout: Layout) -> ZClipState:
        return ZClipState(mean=0.0, var=0.0, count=0.0, pressure=0.0)

    def decide(self, norms: Norms, state: ZClipState) -> tuple[Decision, ZClipState]:
        n, (mean, var, count, pressure) = norms.total, state
        warm = count >= self.warmup
        sd = sqrt(var)
        is_over, raised = self._judge(n, mean, sd)
        spike = is_over & warm
        bound = where(spike, raised, math.inf)
        threshold = minimum(bound, self.max_norm)

        locked = pressure >= self.patience
        learned = minimum(where(locked, n, minimum(n, bound)), self.max_norm)
        weight = where(warm, 1.0 - self.alpha, 1.0 / (count + 1.0))
        new_mean = learned + (1.0 - weight) * (mean - learned)  # in this order, exactly `learned` for a weight of 1
        deviation = where(warm, learned - new_mean, learned - mean)  # of a plain variance first, of a moving one then
        new_var = minimum((1.0 - weight) * var + weight * (learned - new_mean) * deviation, LARGEST)
        new_pressure = press(pressure, self.patience, spike)

        finite = isfinite(n)
        learns = finite
        if self.skip_update_on_spike:
            learns = finite & (where(spike, pressure, self.patience) >= self.patience)
        new = ZClipState(
            mean=where(learns, new_mean, mean),
            var=where(learns, new_var, var),
            count=where(finite, count + 1.0, count),
            pressure=where(finite, new_pressure, pressure),
        )
        return Decision(bring_down(n, threshold, self.eps), threshold), new

    def _judge(self, n: Scalar, mean: Scalar, sd: Scalar) -> tuple[Condition, Scalar]:
        """Return whether a norm is a spike, and the bound for it if it is."""
        if self.mode == "percentile":
            bound = mean + self.z_threshold * sd
            return n > bound, bound
        z = ratio(n - mean, sd + self.eps)
        if self.clip_option == "mean":
            return z > self.z_threshold, mean
        return z > self.z_threshold, self.clip_factor * (mean + ratio(self.z_threshold * self.z_threshold * sd, z))
