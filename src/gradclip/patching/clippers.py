"""The clippers of a script that knows of none: one for the parameters that calls and steps are about together."""

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, final

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gradclip import callers
from gradclip.clipper import GradClipper
from gradclip.clipper.hooks import StepArguments, listen, once_gradients_exist, watchers
from gradclip.clipper.scaling import unscale_
from gradclip.clipper.selection import select
from gradclip.numbers import Scalar, as_float64, coefficient
from gradclip.policies import Policy
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


Settings: TypeAlias = tuple[float | None, bool]
"""The order of the norm, where no policy says it, and whether a norm that is not finite is an error."""


@final
class Family:
    """Parameters that are clipped together, by one clipper: those of a call, and of all calls and steps about the same.

    Args:
        clipper: The clipper, of a list of parameters, or of an optimizer.
        settings: What calls must have in common to share it.
        grows: Whether it takes up more parameters: not that of an optimizer, which gets its own.
    """

    def __init__(self, clipper: GradClipper, settings: Settings, *, grows: bool) -> None:
        self.clipper = clipper
        self.settings = settings
        self._grows = grows

    @property
    def parameters(self) -> list[Tensor]:
        """All that it has been about."""
        return self.clipper._selection.owners

    def take_up(self, parameters: Sequence[Tensor]) -> bool:
        """Take up what is new among parameters with gradients; false, with nothing done, where it clips others too."""
        asked = {id(p) for p in parameters}
        if any(p.grad is not None for p in self.parameters if id(p) not in asked):
            return False
        known = {id(p) for p in self.parameters}
        new = [p for p in parameters if id(p) not in known]
        if new and self._grows:
            self.clipper._work_on(select([*self.parameters, *new], (), ()))
        return self._grows or not new


@final
class Clippers:
    """What clips, and records, in place of a call, and before a step on gradients that no call has clipped.

    Args:
        policy: The rule in place of what callers ask for; None for theirs.
        sinks: What takes the records; those of the second family of parameters and so on carry a `group`.
    """

    def __init__(self, policy: Policy | None, sinks: Sequence[Sink]) -> None:
        listen()  # before a step, in which no hook can be added
        self._policy = policy
        self._sinks = sinks
        self._calls = 0
        self._loose: dict[
            Family, int
        ] = {}  # that no optimizer has stepped with yet, and when they were last called for
        self._of: weakref.WeakKeyDictionary[Optimizer, list[Family]] = weakref.WeakKeyDictionary()
        self._about: dict[int, list[weakref.ref[Family]]] = {}  # by the identity of a parameter
        self._same: dict[tuple[Any, ...], weakref.ref[Family]] = {}  # by those of all parameters of a call
        self._refused: weakref.WeakSet[Optimizer] = weakref.WeakSet()
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
        if self._calls % IDLE == 0:
            self._forget()
        settings: Settings = (None if self._policy else norm_type, raises)
        key = (*map(id, parameters), settings)
        known = self._same.get(key)
        family = None if known is None else known()
        if family is None or len(family.parameters) != len(parameters):
            found = (family for family in self._families_about(parameters) if family.settings == settings)
            family = next((x for x in found if x.take_up(parameters)), None) or self._made_for_call(
                parameters, settings
            )
            if family is None:
                return None
            self._know(family)
            self._same[key] = weakref.ref(family)
        if family in self._loose:
            self._loose[family] = self._calls
        return as_float64(self._told(family, max_norm, total_norm).clip()._total)

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepArguments | None:
        """Clip before a step uses its gradients: now, or where it has a closure that makes them, after that."""
        if isinstance(optimizer, LBFGS):
            callers.warn_once("Steps of LBFGS, whose line search has its own gradients, are not clipped or recorded.")
            return None
        return once_gradients_exist(args, kwargs, partial(self._clip_for, optimizer))

    def _clip_for(self, optimizer: Optimizer, loss: object) -> None:
        own = set(self._own)
        owners = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        families = self._families_about(owners)
        if clipped := [family for family in families if family.clipper._has_just_clipped(optimizer)]:
            for family in clipped:
                self._belongs(family, optimizer)
            return
        if not owners or any(watcher._clips(p) for watcher in watchers() if watcher not in own for p in owners):
            return  # which clips by itself
        gentle = (family for family in families if not family.settings[1])
        family = next((x for x in gentle if x.take_up(owners)), None) or self._made_for_steps(optimizer)
        if family is not None:
            self._know(family)
            self._belongs(family, optimizer)
            unscale_(optimizer, None)  # of a fused one, which would do so by itself
            self._told(family, math.inf, None)._clip_before(optimizer, loss)

    def end(self) -> None:
        """Clip no more."""
        for clipper in list(self._own):
            clipper.detach()
        self._loose.clear()
        self._of.clear()
        self._about.clear()
        self._same.clear()

    # Which family clips.

    def _families_about(self, parameters: Sequence[Tensor]) -> list[Family]:
        """Return the families that any of some parameters is of, the oldest first."""
        known = (family() for p in parameters for family in self._about.get(id(p), ()))
        return list(dict.fromkeys(family for family in known if family is not None))

    def _forget(self) -> None:
        """Let go of families that no call has been about for long, and of what is known of those that are gone."""
        self._loose = {family: last for family, last in self._loose.items() if self._calls - last < IDLE}
        self._same = {key: known for key, known in self._same.items() if known() is not None}
        alive = {place: [known for known in about if known() is not None] for place, about in self._about.items()}
        self._about = {place: about for place, about in alive.items() if about}

    def _know(self, family: Family) -> None:
        """Have a family be found by its parameters."""
        for p in family.parameters:
            about = self._about.setdefault(id(p), [])
            if not any(known() is family for known in about):
                self._about[id(p)] = [*(known for known in about if known() is not None), weakref.ref(family)]

    def _belongs(self, family: Family, optimizer: Optimizer) -> None:
        """Have a family live as long as an optimizer that steps with it."""
        self._loose.pop(family, None)
        families = self._of.setdefault(optimizer, [])
        if family not in families:
            families.append(family)

    @staticmethod
    def _told(family: Family, max_norm: float, total_norm: Scalar | None) -> GradClipper:
        """Return the clipper of a family, which knows what to hold norms against."""
        policy = family.clipper.policy
        if isinstance(policy, Given):
            policy.max_norm, policy.total_norm = max_norm, total_norm
        return family.clipper

    def _made_for_call(self, parameters: list[Tensor], settings: Settings) -> Family | None:
        clipper = self._made(lambda: parameters, settings[0], "raise" if settings[1] else self._gently)
        if clipper is None:
            return None
        family = Family(clipper, settings, grows=True)
        self._loose[family] = self._calls
        return family

    def _made_for_steps(self, optimizer: Optimizer) -> Family | None:
        if optimizer in self._refused:
            return None
        order = None if self._policy else 2.0
        own = [p for group in optimizer.param_groups for p in group["params"]]
        clipper = self._made(lambda: optimizer, order, self._gently)
        if clipper is None and (clipper := self._made(lambda: own, order, self._gently, says=True)) is None:
            self._refused.add(optimizer)
            return None
        return Family(clipper, (order, False), grows=False)

    @property
    def _gently(self) -> Any:
        return "skip" if self._policy else "propagate"

    def _made(
        self, given: Callable[[], Any], norm_type: float | None, nonfinite: Any, *, says: bool = False
    ) -> GradClipper | None:
        policy = self._policy or Given(2.0 if norm_type is None else norm_type)
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
