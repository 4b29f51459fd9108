"""The clippers of a script that knows of none: one for the parameters of each call, and for each optimizer."""

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gradclip import callers
from gradclip.clipper import GradClipper
from gradclip.clipper.hooks import StepArguments, listen, once_gradients_exist, watchers
from gradclip.clipper.scaling import unscale_
from gradclip.numbers import Scalar, as_float64, coefficient
from gradclip.policies import FixedNorm, Policy
from gradclip.policies.measured import Layout, Norms
from gradclip.policies.policy import Decision
from gradclip.records import ClipRecord, Sink

IDLE = 1000
"""Calls after which parameters are forgotten that none of them was about, such as those of a model that is gone."""


@final
class Given(Policy):
    """The bound that a caller gives at each call, by the formula of `clip_grad_norm_`.

    Args:
        norm_type: The order of the norm.

    Attributes:
        max_norm: The bound of the call.
        total_norm: The norm that the caller holds against it; None for that of the gradients.
    """

    def __init__(self, norm_type: float) -> None:
        self._norm_type = norm_type
        self.max_norm: float = math.inf
        self.total_norm: Scalar | None = None

    @property
    def norm_type(self) -> float:  # noqa: D102 -- as its base says, and so below
        return self._norm_type

    def init(self, layout: Layout) -> tuple[()]:  # noqa: ARG002, D102 -- it learns nothing
        return ()

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:  # noqa: D102
        total = norms.total if self.total_norm is None else self.total_norm
        return Decision(coefficient(total, self.max_norm, 1e-6), self.max_norm), state

    def __repr__(self) -> str:
        return f"clip_grad_norm_(norm_type={self._norm_type:g})"


@final
class Clippers:
    """What clips, and records, in place of a call, and before a step on gradients that no call has clipped.

    Args:
        policy: The rule in place of what callers ask for; None for theirs.
        sinks: What takes the records; those of the second set of parameters and so on carry a `group`.
    """

    def __init__(self, policy: Policy | None, sinks: Sequence[Sink]) -> None:
        listen()  # before a step, in which no hook can be added
        self._policy = policy
        self._sinks = sinks
        self._calls = 0
        self._of_calls: dict[tuple[Any, ...], tuple[GradClipper, int]] = {}  # and when it was last called for
        self._of_steps: weakref.WeakKeyDictionary[Optimizer, GradClipper | None] = weakref.WeakKeyDictionary()
        self._own: weakref.WeakSet[GradClipper] = weakref.WeakSet()
        self._count = 0

    def clip(
        self,
        parameters: list[Tensor],
        max_norm: float,
        norm_type: float,
        *,
        raises: bool = False,
        total_norm: Scalar | None = None,
    ) -> Tensor | None:
        """Clip for a call, and return the norm before; None, with nothing done, where no clipper takes them."""
        self._calls += 1
        key = (*map(id, parameters), norm_type, raises)
        known = self._of_calls.get(key)
        clipper = self._made_for_call(parameters, norm_type, raises) if known is None else known[0]
        if clipper is None:
            return None
        self._of_calls[key] = clipper, self._calls
        if isinstance(clipper.policy, Given):
            clipper.policy.max_norm, clipper.policy.total_norm = max_norm, total_norm
        return as_float64(clipper.clip()._total)

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepArguments | None:
        """Clip before a step uses its gradients: now, or where it has a closure that makes them, after that."""
        if isinstance(optimizer, LBFGS):
            callers.warn_once("Steps of LBFGS, whose line search has its own gradients, are not clipped or recorded.")
            return None
        return once_gradients_exist(args, kwargs, partial(self._clip_for, optimizer))

    def _clip_for(self, optimizer: Optimizer, loss: object) -> None:
        own = set(self._own)
        owners = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(clipper._has_just_clipped(optimizer) for clipper, _ in self._of_calls.values()):
            return
        if not owners or any(watcher._clips(p) for watcher in watchers() if watcher not in own for p in owners):
            return  # which clips by itself
        if optimizer not in self._of_steps:
            self._of_steps[optimizer] = self._made_for_steps(optimizer)
        if (clipper := self._of_steps[optimizer]) is not None:
            unscale_(optimizer, None)  # of a fused one, which would do so by itself
            clipper._clip_before(optimizer, loss)

    def end(self) -> None:
        """Clip no more."""
        for clipper in list(self._own):
            clipper.detach()
        self._of_calls.clear()
        self._of_steps.clear()

    def _made_for_call(self, parameters: list[Tensor], norm_type: float, raises: bool) -> GradClipper | None:  # noqa: FBT001
        for key, (_, last) in list(self._of_calls.items()):
            if self._calls - last > IDLE:
                del self._of_calls[key]
        nonfinite = "raise" if raises else "skip" if self._policy else "propagate"
        return self._made(lambda: parameters, self._policy or Given(norm_type), nonfinite)

    def _made_for_steps(self, optimizer: Optimizer) -> GradClipper | None:
        policy, nonfinite = self._policy or FixedNorm(math.inf), "skip" if self._policy else "propagate"
        own = [p for group in optimizer.param_groups for p in group["params"]]
        return self._made(lambda: optimizer, policy, nonfinite) or self._made(lambda: own, policy, nonfinite, says=True)

    def _made(
        self, given: Callable[[], Any], policy: Policy, nonfinite: Any, *, says: bool = False
    ) -> GradClipper | None:
        group = None if self._count == 0 else f"parameters {self._count + 1}"
        sinks = [sink if group is None else _Grouped(sink, group) for sink in self._sinks]
        try:
            clipper = GradClipper(given(), policy, nonfinite=nonfinite, sinks=sinks, max_consecutive_skips=math.inf)
        except (TypeError, ValueError) as error:  # a script that runs without it has to run
            if says:
                callers.warn_once(f"Some steps are neither recorded nor clipped by a policy. {error}")
            return None
        clipper._trust.quiet = True  # the script is not to be told of a `clip()` that it does not call
        self._count += 1
        self._own.add(clipper)
        return clipper


@final
class _Grouped:
    """A sink whose records say which parameters they are of."""

    def __init__(self, sink: Sink, group: str) -> None:
        self._sink = sink
        self._group = group

    def __call__(self, record: ClipRecord) -> None:
        self._sink(replace(record, group=self._group))
