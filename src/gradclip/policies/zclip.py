"""A bound on how unusual a norm is."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, NamedTuple, final

from gradclip.norms import Scalar
from gradclip.policies.arithmetic import bring_down, isfinite, minimum, ratio, sqrt, where
from gradclip.policies.holds import COUNT, SIZE
from gradclip.policies.measured import Layout, Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.policies.unlock import PATIENCE, press
from gradclip.validation import REQUIRED, check_ceiling, check_field


class ZClipState(NamedTuple):
    """What ZClip has learned: mean and variance of the norms let through, from how many, and its pressure."""

    mean: Annotated[Scalar, SIZE]
    var: Annotated[Scalar, SIZE]
    count: Annotated[Scalar, COUNT]
    pressure: Annotated[Scalar, SIZE]


@final
@dataclass(frozen=True)
class ZClip(Policy):
    r"""Bound the total norm by its running mean plus deviations, the fewer the more unusual it is.

    .. math:: z = \frac{n - \mu}{\sigma + \epsilon}, \qquad
        c = \mu + \frac{z_*^2}{z} \sigma \quad \text{where } z > z_*

    The first `warmup` norms give :math:`\mu` and :math:`\sigma`; from then on they are moving averages of the norms
    that were let through, with factor `alpha`.

    Args:
        max_norm: The largest norm let through, always: the only bound while warming up. >= 0; `math.inf` for none.
        z_threshold: The deviations :math:`z_*` > 0 beyond which a norm is a spike.
        alpha: The factor of the moving averages, in [0, 1).
        warmup: How many norms to learn from before judging any, >= 1.
        eps: The :math:`\epsilon` >= 0 of the formula; also added to the norm that the bound is divided by.
        patience: Steps of mostly clipping after which the averages follow the norms before clipping; `math.inf`
            for never.

    Example:
        >>> import torch, gradclip
        >>> clipper = gradclip.GradClipper(torch.nn.Linear(2, 1), gradclip.policies.ZClip(max_norm=1.0))

    Note:
        *Differs from the paper:* norms that are not finite teach nothing; `max_norm` bounds what is learned too; and a
        lasting change of level unlocks. `ZClip(math.inf, patience=math.inf)` is the rule as published, and
        `chain(ZClip(math.inf, patience=math.inf), FixedNorm(1.0))` what its reference code does by default.

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

    def __post_init__(self) -> None:
        check_ceiling(self)
        check_field(self, "z_threshold", above=0.0, finite=True)
        check_field(self, "alpha", at_least=0.0, below=1.0)
        check_field(self, "warmup", at_least=1, integer=True)
        check_field(self, "eps", at_least=0.0, finite=True)
        check_field(self, "patience", at_least=1.0)

    def init(self, layout: Layout) -> ZClipState:
        return ZClipState(mean=0.0, var=0.0, count=0.0, pressure=0.0)

    def decide(self, norms: Norms, state: ZClipState) -> tuple[Decision, ZClipState]:
        n, (mean, var, count, pressure) = norms.total, state
        warm = count >= self.warmup
        sd = sqrt(var)
        z = ratio(n - mean, sd + self.eps)
        spike = (z > self.z_threshold) & warm
        bound = where(spike, mean + ratio(self.z_threshold**2 * sd, z), math.inf)
        threshold = minimum(bound, self.max_norm)

        learned = minimum(where(pressure >= self.patience, n, minimum(n, bound)), self.max_norm)
        weight = where(warm, 1.0 - self.alpha, 1.0 / (count + 1.0))
        new_mean = mean + weight * (learned - mean)
        deviation = where(warm, learned - new_mean, learned - mean)  # of a plain variance first, of a moving one then
        new_var = (1.0 - weight) * var + weight * (learned - new_mean) * deviation
        new_pressure = press(pressure, self.patience, spike)

        finite = isfinite(n)
        new = ZClipState(
            mean=where(finite, new_mean, mean),
            var=where(finite, new_var, var),
            count=where(finite, count + 1.0, count),
            pressure=where(finite, new_pressure, pressure),
        )
        return Decision(bring_down(n, threshold, self.eps), threshold), new
