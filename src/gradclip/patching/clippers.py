"""The clippers of a script that knows of none: one for the parameters of each call, or of each optimizer that steps."""

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gradclip import callers
from gradclip.clipper import GradClipper
from gradclip.clipper.scaling import stepping_scaler
from gradclip.numbers import as_float64, coefficient
from gradclip.policies import FixedNorm, Policy
from gradclip.policies.measured import Layout, Norms
from gradclip.policies.policy import Decision
from gradclip.records import ClipRecord, Sink

MOST = 16
"""Sets of parameters that are remembered, such as those of a model that is made anew again and again."""


@final
class Given(Policy):
    """The bound that a caller gives at each call, by the formula of `clip_grad_norm_`.

    Args:
        norm_type: The order of the norm.

    Attributes:
        max_norm: The bound of the call.
    """

    def __init__(self, norm_type: float) -> None:
        self._norm_type = norm_type
        self.max_norm: float = math.inf

    @property
    def norm_type(self) -> float:  # noqa: D102 -- as its base says, and so below
        return self._norm_type

    def init(self, layout: Layout) -> tuple[()]:  # noqa: ARG002, D102 -- it learns nothing
        return ()

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:  # noqa: D102
        return Decision(coefficient(norms.total, self.max_norm, 1e-6), self.max_norm), state

    def __repr__(self) -> str:
        return f"clip_grad_norm_(norm_type={self._norm_type:g})"


@final
class Clippers:
    """What clips, and records, in place of a call or before a step.

    Args:
        policy: The rule in place of what callers ask for; None for theirs.
        sinks: What takes the records; those of the second set of parameters and so on carry a `group`.
    """

    def __init__(self, policy: Policy | None, sinks: Sequence[Sink]) -> None:
        self._policy = policy
        self._sinks = sinks
        self._known: dict[tuple[Any, ...], GradClipper] = {}
        self._met: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._count = 0

    def clip(self, parameters: list[Tensor], max_norm: float, norm_type: float, *, raises: bool) -> Tensor:
        """Clip for a call; return the norm before."""
        own = self._policy or Given(norm_type)
        key = (*map(id, parameters), raises, None if self._policy else norm_type)
        nonfinite = "raise" if raises else "skip" if self._policy else "propagate"
        if (clipper := self._known.get(key)) is None:
            clipper = self._known[key] = self._made(parameters, own, nonfinite=nonfinite)
            if len(self._known) > MOST:
                self._known.pop(next(iter(self._known)))
        if isinstance(clipper.policy, Given):
            clipper.policy.max_norm = max_norm
        return as_float64(clipper.clip()._total)

    def before_step(self, optimizer: Optimizer) -> None:
        """Attach to an optimizer at its first step, unless a call has clipped what it updates."""
        if optimizer in self._met:
            return
        self._met.add(optimizer)
        owners = [p for group in optimizer.param_groups for p in group["params"]]
        if any(clipper._covers(p) for clipper in self._known.values() for p in owners):
            return
        if isinstance(optimizer, LBFGS):
            callers.warn(
                "gradclip does not clip or record the steps of LBFGS, whose line search has gradients of its own."
            )
            return
        nonfinite = "skip" if self._policy else "propagate"
        clipper = self._made(optimizer, self._policy or FixedNorm(math.inf), nonfinite=nonfinite)
        self._known[(id(optimizer),)] = clipper.attach(optimizer, scaler=stepping_scaler())

    def end(self) -> None:
        """Clip no more."""
        for clipper in self._known.values():
            clipper.detach()
        self._known.clear()

    def _made(self, parameters: Any, policy: Policy, *, nonfinite: Any) -> GradClipper:
        self._count += 1
        group = None if self._count == 1 else f"parameters {self._count}"
        sinks = [sink if group is None else _Grouped(sink, group) for sink in self._sinks]
        return GradClipper(parameters, policy, nonfinite=nonfinite, sinks=sinks)


@final
class _Grouped:
    """A sink whose records say which parameters they are of."""

    def __init__(self, sink: Sink, group: str) -> None:
        self._sink = sink
        self._group = group

    def __call__(self, record: ClipRecord) -> None:
        self._sink(replace(record, group=self._group))
