"""A bound at a quantile of the norms so far."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, final

from gradclip.numbers import bring_down, minimum
from gradclip.policies.history import History
from gradclip.policies.layout import Layout
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.validation import REQUIRED, check_ceiling, check_choice, check_field, check_flag


@final
@dataclass(frozen=True)
class AutoClip(Policy):
    r"""Clip the norm at a percentile of its history.

    .. math:: c_t = \text{percentile}_p(n_1, \dots, n_t)

    Args:
        max_norm: The ceiling: the largest norm ever let through, >= 0; `math.inf` for none.
        percentile: The percentile :math:`p` of the history, in [0, 100], interpolated linearly. The paper's 10 clips
            nine steps in ten, so it normalises gradients more than it limits them; 90 clips one step in ten.
        window: How many norms to remember, >= 1; None for all.
        include_current: Whether the history includes the norm of the current step.
        eps: Added to the norm before the threshold is divided by it, >= 0.
        scope: What is clipped: `"total"`, the norm of all gradients together, or `"parameter"`, the norm of each
            parameter, by its own history; `max_norm` is then the ceiling of each.

    Example:
        >>> import torch, gradclip
        >>> clipper = gradclip.GradClipper(torch.nn.Linear(2, 1), gradclip.policies.AutoClip(max_norm=1.0))

    Note:
        *Differs from the paper:* non-finite norms are not learned from, `max_norm` is a ceiling, and the history is a
        window, so old norms are forgotten. `AutoClip(math.inf, window=None)` is the policy as published.
        `AutoClip(math.inf, percentile=90, include_current=False, scope="parameter")` is `QuantileClip` of the package
        autoclip.

        *Host sync:* none; on another device the history is sorted there at each step.

    References:
        Seetharaman, Wichern, Pardo and Le Roux, AutoClip: adaptive gradient clipping for source separation networks,
        2020, arXiv:2007.14469. Windowed: Merad and Gaïffas, Robust stochastic optimization via gradient
        quantile clipping, 2023, arXiv:2309.17316.
    """

    max_norm: float = REQUIRED
    _: KW_ONLY
    percentile: float = 10.0
    window: int | None = 1000
    include_current: bool = True
    eps: float = 1e-6
    scope: Literal["total", "parameter"] = "total"

    def __post_init__(self) -> None:
        check_ceiling(self)
        check_flag(self, "include_current")
        check_field(self, "percentile", at_least=0.0, at_most=100.0)
        if self.window is not None:
            check_field(self, "window", at_least=1, integer=True, advice="For all norms, pass None.")
        check_field(self, "eps", at_least=0.0, finite=True)
        check_choice(self, "scope", ("total", "parameter"))

    def init(self, layout: Layout) -> tuple[History]:
        return (History.of(self.window, len(layout.names) if self.scope == "parameter" else 1),)

    def decide(self, norms: Norms, state: tuple[History]) -> tuple[Decision, tuple[History]]:
        n, (history,) = norms.at(self.scope), state
        longer = history.add(n)
        judge = longer if self.include_current else history
        threshold = minimum(judge.quantile(self.percentile / 100.0, n), self.max_norm)
        return Decision(bring_down(n, threshold, self.eps), threshold, self.scope), (longer,)
