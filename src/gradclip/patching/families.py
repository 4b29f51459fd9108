"""What is clipped together in a script that knows of no clipper, and by which bound."""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, TypeAlias, final

from torch import Tensor
from torch.optim import Optimizer

from gradclip.clipper import GradClipper
from gradclip.clipper.marks import Mark, is_same, mark
from gradclip.clipper.selection import select
from gradclip.distributed.dtensor import is_dtensor
from gradclip.distributed.layout import may_have_gradient
from gradclip.numbers import Scalar, as_float64, coefficient, from_device, is_known
from gradclip.policies import Policy
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision
from gradclip.torch_private import is_fake


def is_dry_run(parameters: list[Tensor]) -> bool:
    """Whether there are no numbers: those of gradients count, as parts of a model may be left without any.

    Where there is no gradient yet, those of the parameters do.
    """
    return any(p.is_meta or is_fake(p) for p in [p for p in parameters if p.grad is not None] or parameters)


@final
@dataclass(eq=False)
class Given(Policy):
    """The bound that a caller gives at each call, by the formula of `clip_grad_norm_`.

    Args:
        norm_type: The order of the norm.

    Attributes:
        max_norm: The bound of the call.
        total_norm: The norm that the caller holds against it; None for that of the gradients.
    """

    norm_type: float = 2.0
    max_norm: Scalar = field(default=math.inf, init=False)
    total_norm: Scalar | None = field(default=None, init=False)

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:  # noqa: D102
        total = norms.total if self.total_norm is None else self.total_norm
        return Decision(coefficient(total, self.max_norm, 1e-6), self.max_norm), state

    def __repr__(self) -> str:
        return f"clip_grad_norm_(norm_type={self.norm_type:g})"


Settings: TypeAlias = tuple[float | None, bool]
"""The order of the norm, where no policy says it, and whether a norm that is not finite is an error."""


@final
@dataclass(eq=False)
class Family:
    """Parameters that are clipped together, by one clipper: those of a call, and of all calls and steps about the same.

    Attributes:
        clipper: The clipper, of a list of parameters, or of an optimizer.
        settings: What calls must have in common to share it.
        group: What its records are said to be of.
        grows: Whether it takes up more parameters: not that of an optimizer, which gets its own.
        is_called: Whether a call was the last that clipped, which then meant just these.
        at_call: What it left.
        held: The optimizers that step with it, and what keeps it alive as long as they are.
    """

    clipper: GradClipper
    settings: Settings
    group: str | None
    grows: bool
    is_called: bool = False
    at_call: Sequence[Mark] = ()
    held: "weakref.WeakKeyDictionary[Optimizer, weakref.finalize[..., Any]]" = field(
        default_factory=weakref.WeakKeyDictionary
    )

    @property
    def parameters(self) -> list[Tensor]:
        """All that it has been about."""
        return self.clipper._selection.owners

    def told(self, max_norm: Scalar = math.inf, total_norm: Scalar | None = None) -> GradClipper:
        """Return the clipper, which knows what to hold norms against: a norm too, be it of gradients elsewhere."""
        if total_norm is not None and not is_known(total_norm):
            total_norm = from_device(as_float64(total_norm, self.clipper._selection.device))
        if isinstance(policy := self.clipper.policy, Given):
            policy.max_norm, policy.total_norm = max_norm, total_norm
            # Or it records a step that nobody clips for.
            self.clipper._writes = not is_known(max_norm) or max_norm < math.inf
        self.clipper._total = total_norm
        return self.clipper

    def take_up(self, parameters: Sequence[Tensor]) -> bool:
        """Take up what is new among parameters with gradients; false, with nothing done, where it clips others too."""
        asked = {id(p) for p in parameters}
        others = [p for p in self.parameters if id(p) not in asked]
        # A DTensor has its gradient on all ranks at once: a caller may list those that have one, others at each step.
        if any(p.grad is not None or (may_have_gradient(p) and not is_dtensor(p)) for p in others):
            return False
        known = {id(p) for p in self.parameters}
        new = [p for p in parameters if id(p) not in known]
        if new and self.grows:
            names = self.clipper._selection.names
            free = (name for i in count(len(names)) if (name := f"parameters[{i}]") not in names)
            before = zip(names, self.parameters, strict=True)
            self.clipper._work_on(select([*before, *zip(free, new, strict=False)], (), ()))
        return self.grows or not new

    def is_as_called(self) -> bool:
        """Whether each gradient is as the last call has left it: that of a head may be a new one alone.

        Where other ranks alone have gradients, it is known by the steps since.
        """
        at_call, own = self.at_call, self.parameters
        if not self.is_called or len(at_call) != len(own):
            return False
        if all(p.grad is None for p in own):
            return not self.clipper._trust.has_any_stepped
        return all(map(is_same, own, at_call))

    def remember(self) -> None:
        """Remember what a call has left."""
        self.at_call = mark(self.parameters)

    def take_as_called(self) -> None:
        """Count what has been done to gradients as part of the last call."""
        trust = self.clipper._trust
        trust._at_clip = mark(trust._owners)
        self.remember()


@final
class Asleep(NamedTuple):
    """What is left of a family whose optimizers are gone: the next one, over the same parameters, goes on with it."""

    parameters: list[weakref.ref[Tensor]]
    settings: Settings
    state: dict[str, Any]
    group: str | None

    @classmethod
    def of(cls, family: Family) -> "Asleep":
        """Return what is left of a family."""
        known = [weakref.ref(p) for p in family.parameters]
        return cls(known, family.settings, family.clipper.state_dict(), family.group)

    def owners(self) -> list[Tensor]:
        """Return the parameters that are still there."""
        return [p for known in self.parameters if (p := known()) is not None]
