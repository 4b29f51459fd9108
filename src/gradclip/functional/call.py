"""One call of `clip_grad_norm_`, as what the loop over stages works on."""

from typing import final

from gradclip.gradients import GradientSet
from gradclip.numbers import Scalar, coefficient
from gradclip.policies.layout import Layout
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision
from gradclip.stages import Work

NO_LAYOUT = Layout((), (), ())
"""In place of that of parameters, which this rule asks nothing about."""


@final
class Call(Work):
    """One call of `clip_grad_norm_`: its own one stage, by the rule of `FixedNorm` for norms of any order.

    Attributes:
        total: The total norm, once it is measured, where it is.
    """

    __slots__ = ("_coef", "eps", "gradients", "max_norm", "order", "state", "total")

    def __init__(self, gradients: GradientSet, order: float, max_norm: Scalar, eps: float) -> None:
        self.gradients = gradients
        self.order = order
        self.max_norm = max_norm
        self.eps = eps
        self.state: None = None
        self.total: Scalar = 0.0
        self._coef: Scalar = 1.0

    def measure(self, stage: object) -> tuple[Norms, bool]:
        self.total, self._coef = self.gradients.norm_and_coefficient(self.order, self.max_norm, self.eps)
        return Norms(NO_LAYOUT, self.order, self.total), True

    def decide(self, norms: Norms) -> Decision:
        """Return what `FixedNorm` decides."""
        return Decision(self._coef)

    def apply(self, stage: object, norms: Norms, decision: Decision) -> Decision:
        self.gradients.scale_(decision.coef)
        return decision

    def sanitize(self, stage: object) -> Norms:
        self.gradients.sanitize_()
        self.total = self.gradients.total_norm(self.order, in_units=True)
        self._coef = coefficient(self.total, self.max_norm, self.eps)
        return Norms(NO_LAYOUT, self.order, self.total)

    def check_others(self) -> None:
        self.gradients.check_others()

    def complain(self, stage: object) -> str:
        return complaint(self.gradients, self.order)


def complaint(gradients: GradientSet, norm_type: float) -> str:
    """Return why a norm that is not finite is an error."""
    # The first two sentences are torch's, for the sake of code that matches them.
    return (
        f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be clipped. "
        "To disable this error and scale the gradients by the non-finite norm anyway, set "
        f"`error_if_nonfinite=False`. {gradients.describe_nonfinite()}"
    )
