"""What the stages of a policy do to gradients together: all of it, or nothing where a later one wants no step."""

from typing import final

import torch
from torch import Tensor

from gradclip.clipper.measure import apply_
from gradclip.gradients import GradientSet
from gradclip.numbers import Scalar
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision
from gradclip.units import Units


@final
class Change:
    """One change of gradients, decided stage by stage.

    A coefficient for all gradients waits for the stages to come, whose norms follow from it by arithmetic. What is left
    of gradients after any other decision has to be measured: it is made at once then, and can be taken back.

    Args:
        undone: Whether a later stage may take it back.
        read: Whether norms are read wherever they are. Where they are not, nobody on the host knows of one on a device
            whether it is in range only once the coefficient is applied, so that this does not wait.
    """

    def __init__(self, *, undone: bool, read: bool) -> None:
        self._undone = undone
        self._read = read
        self._coef: Scalar = 1.0
        self._before: list[tuple[Tensor, Tensor]] = []

    @property
    def is_waiting(self) -> bool:
        """Whether a coefficient waits."""
        return isinstance(self._coef, Tensor) or self._coef != 1.0

    def foreseen(self, norms: Norms) -> Norms:
        """Return the norms that gradients will have once what waits is done."""
        return norms.scaled(self._coef) if self.is_waiting else norms

    def decide(self, gradients: GradientSet, decision: Decision, norms: Norms, units: Units, *, last: bool) -> None:
        """Take one more decision, and make it where it does not wait, or is the last."""
        waits = decision.scope == "total" and decision.clamp is None
        if waits:
            self._coef = self._coef * decision.coef
        if last or not waits or (isinstance(self._coef, Tensor) and not self._read):
            self.make(gradients, last=last)
        if not waits:
            self._keep(gradients, last=last)
            apply_(gradients, decision, norms, units)

    def make(self, gradients: GradientSet, *, last: bool) -> None:
        """Make what waits."""
        if self.is_waiting:
            self._keep(gradients, last=last)
            gradients.scale_(self._coef)
            self._coef = 1.0

    def undo(self) -> None:
        """Give gradients back as they were."""
        with torch.no_grad():
            for gradient, before in self._before:
                gradient.copy_(before)
        self._before = []

    def _keep(self, gradients: GradientSet, *, last: bool) -> None:
        if self._undone and not last and not self._before:
            self._before = [(x, x.clone()) for x in gradients.gradients]
