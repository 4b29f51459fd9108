"""A bound for each parameter, a little above what it let through before."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, NamedTuple, final

import torch
from torch import Tensor

from gradclip.numbers import Scalar, bring_down, is_known, isfinite, mapped, minimum, ratio, where
from gradclip.policies.holds import COUNT, LEVEL, SIZE
from gradclip.policies.layout import Layout, Scope
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.policies.together import either
from gradclip.policies.unlock import PATIENCE, press
from gradclip.validation import REQUIRED, check_ceiling, check_field

LARGEST_RISE = 3.0
"""How much of a norm, in units of its level, a locked level learns at a time: AdaGC clips so many normal steps that a
burst may well find it locked."""


class AdaGCState(NamedTuple):
    """What AdaGC has learned: the level of each parameter, its pressure, and the number of steps of the warm-up."""

    gamma: Annotated[Tensor, LEVEL]
    pressure: Annotated[Tensor, SIZE]
    count: Annotated[Scalar, COUNT]


@final
@dataclass(frozen=True)
class AdaGC(Policy):
    r"""Clip the norm of each parameter at a multiple of the moving average of its clipped norms.

    .. math:: h_i = \min\left(1, \frac{\lambda \gamma_i}{n_i}\right), \qquad
        \gamma_i \leftarrow \beta \gamma_i + (1 - \beta) h_i n_i

    For the first `warmup` steps, the total norm is clipped at `max_norm`, and :math:`\gamma_i` is the smallest norm
    that parameter :math:`i` had after clipping. The `threshold` of a result is None, during the warm-up and after it.

    Args:
        max_norm: The ceiling: the largest total norm ever let through, >= 0; `math.inf` for none. During the warm-up it
            is the only threshold, the paper's :math:`\lambda_{abs}`.
        relative: The multiple :math:`\lambda` > 0; the paper's :math:`\lambda_{rel}`.
        beta: The factor :math:`\beta` of the moving averages, in [0, 1).
        warmup: The number of steps to learn from before the thresholds apply, >= 1.
        eps: Added to the total norm before `max_norm` is divided by it, >= 0.
        patience: After how many more clipped than unclipped steps a moving average follows the norms before clipping;
            `math.inf` for never.

    Example:
        >>> import torch, gradclip
        >>> clipper = gradclip.GradClipper(torch.nn.Linear(2, 1), gradclip.policies.AdaGC(max_norm=1.0))

    Note:
        *Differs from the paper:* non-finite norms are not learned from. Neither is a norm of 0, which would hold the
        parameter at 0. The total norm is still limited after the warm-up. The averages follow a lasting change of
        level; as published, they grow by a factor of at most :math:`\beta + (1 - \beta) \lambda` per step.
        `chain(warmup(99, FixedNorm(1.0, eps=1e-8)), AdaGC(math.inf, warmup=99, patience=math.inf))` is the policy as
        published.

        The authors use several pairs of `relative` and `beta`: 1.05 and 0.98 (first version), 1.03 and 0.98 (ERNIE),
        1.04 and 0.99 (Paddle).

    References:
        Wang, Li, Chen, Zeng, Yang, Yu, Ma and Shen, AdaGC: improving training stability for large language model
        pretraining, 2025, arXiv:2502.11034.
    """

    max_norm: float = REQUIRED
    _: KW_ONLY
    relative: float = 1.05
    beta: float = 0.98
    warmup: int = 100
    eps: float = 1e-6
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        check_ceiling(self)
        check_field(self, "relative", above=0.0, finite=True)
        check_field(self, "beta", at_least=0.0, below=1.0)
        check_field(self, "warmup", at_least=1, integer=True)
        check_field(self, "eps", at_least=0.0, finite=True)
        check_field(self, "patience", at_least=1.0)

    @property
    def scope(self) -> Scope:
        return "parameter"

    def init(self, layout: Layout) -> AdaGCState:
        shape = len(layout.names)
        unknown = torch.full((shape,), math.inf, dtype=torch.float64, device=layout.device)
        return AdaGCState(gamma=unknown, pressure=torch.zeros_like(unknown), count=0.0)

    def decide(self, norms: Norms, state: AdaGCState) -> tuple[Decision, AdaGCState]:
        return either(state.count < self.warmup, self._warm_up, self._go_on, norms, state)

    def _warm_up(self, norms: Norms, state: AdaGCState) -> tuple[Decision, AdaGCState]:
        ceiling = bring_down(norms.total, self.max_norm, self.eps)
        let_through = norms.of_parameters() * ceiling  # 0 for all where the total is infinite
        smallest = torch.fmin(state.gamma, torch.where(let_through > 0.0, let_through, math.inf))
        count = where(isfinite(norms.total), state.count + 1.0, state.count)
        return Decision(ceiling, self.max_norm, "parameter"), AdaGCState(smallest, state.pressure, count)

    def _go_on(self, norms: Norms, state: AdaGCState) -> tuple[Decision, AdaGCState]:
        h, bound, gamma, pressure = mapped(self._judge, norms.of_parameters(), state.gamma, state.pressure)
        return Decision(self._under_ceiling(h, norms), bound, "parameter"), AdaGCState(gamma, pressure, state.count)

    def _judge(self, n: Scalar, gamma: Scalar, pressure: Scalar) -> tuple[Scalar, Scalar, Scalar, Scalar]:
        bound = self.relative * gamma
        h = minimum(ratio(bound, n), 1.0)
        learned = minimum(n, where(pressure >= self.patience, LARGEST_RISE * gamma, bound))
        average = where(gamma == math.inf, learned, learned + self.beta * (gamma - learned))
        seen = (n > 0.0) & (n < math.inf)
        pressed = press(pressure, self.patience, h < 1.0)
        return h, bound, where(seen, average, gamma), where(seen, pressed, pressure)

    def _under_ceiling(self, h: Tensor, norms: Norms) -> Tensor:
        total = norms.total
        if self.max_norm == math.inf or (is_known(total) and total <= self.max_norm):  # and so is what is left of it
            return h
        return h * bring_down(norms.scaled_each(h).total_after(norms), self.max_norm, self.eps)
