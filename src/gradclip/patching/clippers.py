"""The clippers of a script that knows of none: one for the parameters that calls and steps are about together.

They hear of all steps of a process, of those that scalers leave out, and of the records of all its clippers.
"""

import math
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradclip import callers
from gradclip.clipper import GradClipper
from gradclip.clipper.hooks import StepArguments, listen, once_gradients_exist, only_makes_state, running_steps
from gradclip.clipper.overflows import hear, hear_no_more
from gradclip.clipper.selection import parameters_in
from gradclip.clipper.turn import Turn
from gradclip.clipper.watching import WATCHERS
from gradclip.distributed.layout import may_have_gradient
from gradclip.functional import clip_grad_norm_
from gradclip.numbers import Scalar, as_float64
from gradclip.parameters import may_be_swapped
from gradclip.patching.families import Asleep, Family, Given, Settings, is_dry_run
from gradclip.policies import Policy
from gradclip.policies.fixed import measures
from gradclip.records import ClipRecord, Sink, Sinks, flush
from gradclip.records.sinks import LISTENERS, Listener
from gradclip.tracing import untraced

IDLE = 1000
"""Calls after which parameters are forgotten that none of them was about, such as those of a model that is gone."""

MOST_LISTS = 100
"""Lists of parameters whose family is known at once: a caller may make another at each step."""


@final
class Clippers:
    """What clips, and records, in place of a call, and before a step on gradients that no call has clipped.

    It does so until `end`.

    Args:
        policy: The rule in place of what callers ask for; None for theirs.
        sinks: What takes the records, those of clippers of the script's own too.
        holds: Whether to hear of steps and records now, or another patch does.
    """

    def __init__(self, policy: Policy | None, sinks: Sequence[Sink], holds: Callable[[], bool]) -> None:
        listen()  # before a step, in which no hook can be added
        flush()  # what is of before
        self._policy = policy
        self._holds = holds
        self._lock = threading.RLock()  # while a family is found: threads may train side by side, each with its own
        self._calls = 0
        self._loose: dict[Family, int] = {}  # of no optimizer yet, and when they were last called for
        self._families: weakref.WeakValueDictionary[int, Family] = weakref.WeakValueDictionary()  # by their clippers
        self._same: dict[tuple[Any, ...], weakref.ref[Family]] = {}  # by those of all parameters of a call
        self._asleep: list[Asleep] = []
        self._refused: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._groups: weakref.WeakKeyDictionary[Sinks, str | None] = weakref.WeakKeyDictionary()  # of own and others
        self._in_steps: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()  # see `_before_step`
        self._count, self._is_over = 0, False
        self.is_idle = True  # no step with gradients was seen
        self._hook = register_optimizer_step_pre_hook(self._before_step)
        self._listeners = [Listener(sink, partial(self._give, sink)) for sink in sinks]
        LISTENERS.extend(self._listeners)
        hear(self)

    def clip(
        self,
        parameters: list[Tensor],
        max_norm: Scalar,
        norm_type: float,
        *,
        raises: bool = False,
        total_norm: Scalar | None = None,
    ) -> Tensor | None:
        """Clip for a call, and return the norm before; None, with nothing done, where no clipper takes them."""
        settings: Settings = (None if self._policy else norm_type), raises
        with self._lock:
            family = self._family_for_call(parameters, settings)
        if family is None:
            return None
        if self._policy is not None and family.is_as_called():  # which it has clipped already, and learned from
            return clip_grad_norm_(parameters, math.inf, norm_type)
        family.is_called = True
        for optimizer in running_steps():
            if optimizer in self._in_steps:
                self._in_steps[optimizer] = True
        with family.clipper._turn:
            total = as_float64(family.told(max_norm, total_norm).clip()._total)
        family.remember()
        return total

    def _family_for_call(self, parameters: list[Tensor], settings: Settings) -> Family | None:
        self._calls += 1
        if self._calls % IDLE == 0:
            self._loose = {family: last for family, last in self._loose.items() if self._calls - last < IDLE}
        key = (*map(id, parameters), settings)
        known = self._same.get(key)
        family = None if known is None else known()
        if family is None or len(family.parameters) != len({*map(id, parameters)}):
            found = (x for x in self.families_about(parameters) if x.settings == settings)
            family = next((x for x in found if x.take_up(parameters)), None)
            family = family or self._made_for_call(parameters, settings)
            if family is None:
                return None
            if len(self._same) > MOST_LISTS:
                self._same.clear()
            self._same[key] = weakref.ref(family)
        if family in self._loose:
            self._loose[family] = self._calls
        return family

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepArguments | None:
        """Clip before a step uses its gradients: now, or where it has a closure that makes them, after that.

        A closure may run several times in a step. Where its gradients are to be recorded alone, the first are: those
        that the step sets out from. What called for a clip after this in its last step is left to that.
        """
        if not self._holds():
            return None
        if running_steps().count(optimizer) == 1 and self._in_steps.pop(optimizer, False):
            self._in_steps[optimizer] = False
            return None
        return once_gradients_exist(args, kwargs, partial(self._clip_for, optimizer), again=self._by_rule(optimizer))

    def _by_rule(self, optimizer: Optimizer) -> bool:
        return self._policy is not None and not isinstance(optimizer, LBFGS)

    @untraced
    def _clip_for(self, optimizer: Optimizer, loss: object) -> None:
        if only_makes_state():
            return
        with self._lock:
            family = self._family_for(optimizer)
        if family is None:
            return
        if self._policy is not None and not self._by_rule(optimizer):
            callers.warn_once(
                "Steps of LBFGS are recorded, and not clipped by a policy, as its line search needs gradients that fit "
                "the loss. Call `clip_grad_norm_` in the closure, after `backward()`, if you want it so."
            )
        with family.clipper._turn:
            family.told()._clip_before(optimizer, loss)
        self._in_steps[optimizer] = False

    def _hear_overflow(self, optimizer: Optimizer) -> None:
        """Record a step that a scaler keeps from happening, without a call of the optimizer."""
        if not self._holds():
            return
        with self._lock:
            family = self._family_for(optimizer)
        if family is not None:
            with family.clipper._turn:
                family.told()._leave_out(optimizer)

    def _give(self, sink: Sink, record: ClipRecord, source: Sinks) -> None:
        """Give a sink the record of any clipper, with a `group` but for that of the first; not of what is no clip."""
        if not self._holds():
            return
        with self._lock:
            if source not in self._groups:  # of a clipper of the script's own
                if self._is_no_clip(source.policy):
                    return
                self._groups[source] = self._next_group
                self._count += 1
            group = self._groups[source]
        sink(record if group is None else replace(record, group=group))

    def _is_no_clip(self, policy: object) -> bool:
        """Whether a clipper of the script's own leaves the clip to the rule, as a call with an infinite bound does."""
        return self._policy is not None and measures(policy)

    def _family_for(self, optimizer: Optimizer) -> Family | None:
        """Return what is to clip before a step of an optimizer, or record it; None where something else does."""
        owners = [p for p in parameters_in(optimizer) if may_have_gradient(p)]
        self.is_idle = self.is_idle and all(p.grad is None for p in owners)
        families = self.families_about(owners)
        clipped = [family for family in families if family.clipper._has_just_clipped(optimizer)]
        for family in clipped:
            self._belongs(family, optimizer)
        done = {id(p) for family in clipped for p in family.parameters}
        if any(family.is_called for family in clipped) or (clipped and done.issuperset(map(id, owners))):
            return None
        owners = [p for p in owners if id(p) not in done]  # without those that another optimizer has just stepped with
        others = [x for x in WATCHERS.of_step(optimizer) if id(x) not in self._families]  # the script's own
        if not owners or any(x._clips_for(optimizer) for x in others if not self._is_no_clip(x.policy)):
            return None
        settings: Settings = (None if self._by_rule(optimizer) else 2.0), False
        gentle = (x for x in families if not x.settings[1] and (x.settings[0] is None) == (settings[0] is None))
        family = next((x for x in gentle if x.take_up(owners)), None)
        if family is None and clipped:
            family = self._made_for_call(owners, settings)
        elif family is None:
            family = self._made_for_steps(optimizer, settings)
        if family is not None:
            family.is_called = False
            self._belongs(family, optimizer)
        return family

    def end(self) -> None:
        """Hear no more, and clip no more."""
        with self._lock:
            self._is_over = True
            families = list(self._families.values())
            for family in families:
                for held in family.held.values():
                    held.detach()
        for family in families:
            family.clipper.detach()
        for known in (self._loose, self._same, self._asleep):
            known.clear()
        flush()
        self._hook.remove()
        LISTENERS[:] = [listener for listener in LISTENERS if listener not in self._listeners]  # or it is dropped
        hear_no_more(self)

    # Which family clips.

    def families_about(self, parameters: Sequence[Tensor]) -> list[Family]:
        """Return the families that any of some parameters is of, the oldest first."""
        return [known for x in WATCHERS.of_any(parameters) if (known := self._families.get(id(x))) is not None]

    def _belongs(self, family: Family, optimizer: Optimizer) -> None:
        """Have a family live as long as an optimizer that steps with it; after the end, as long as its step runs."""
        self._loose.pop(family, None)
        if optimizer not in family.held and not self._is_over:
            family.held[optimizer] = held = weakref.finalize(optimizer, self._rest, family)
            held.atexit = False

    def _rest(self, family: Family) -> None:
        """Keep what a family has learned, where no optimizer steps with it any more, and not its parameters."""
        # Without the lock, which another thread may hold that waits for this one; a list of the keys is made at once.
        is_over = family not in self._loose and all(optimizer() is None for optimizer in family.held.keyrefs())
        if is_over and not any(map(may_be_swapped, family.parameters)):  # which may not be referred to weakly
            self._asleep.append(Asleep.of(family))

    def _awake(self, parameters: Sequence[Tensor], settings: Settings) -> Family | None:
        """Return the family that was about these parameters before its optimizer was gone."""
        asked = {id(p) for p in parameters}
        self._asleep = [x for x in self._asleep if x.owners()]
        for asleep, owners in [(x, x.owners()) for x in self._asleep]:
            of_these = asleep.settings == settings and any(id(p) in asked for p in owners)
            if not of_these or len(owners) < len(asleep.parameters):
                continue
            named = list(zip(asleep.state["parameters"], owners, strict=True))
            found = self._made(named, settings, asleep.group)
            if found is not None and found.take_up(parameters):
                found.clipper.load_state_dict(asleep.state)
                self._asleep.remove(asleep)
                return found
        return None

    def _made_for_call(self, parameters: list[Tensor], settings: Settings) -> Family | None:
        family = self._awake(parameters, settings)
        if family is None:
            family = self._made(parameters, settings, self._next_group, says=self._policy is not None)
        if family is not None:
            self._loose[family] = self._calls
        return family

    def _made_for_steps(self, optimizer: Optimizer, settings: Settings) -> Family | None:
        if optimizer in self._refused:
            return None
        own = parameters_in(optimizer)
        family = self._awake(own, settings) or self._made(optimizer, settings, self._next_group)
        if family is None and (family := self._made(own, settings, self._next_group, says=True)) is None:
            self._refused.add(optimizer)
        return family

    @property
    def _next_group(self) -> str | None:
        return None if self._count == 0 else f"parameters {self._count + 1}"

    def _made(self, parameters: Any, settings: Settings, group: str | None, *, says: bool = False) -> Family | None:
        order, raises = settings
        policy = self._policy if order is None else Given(order)
        nonfinite: Any = "raise" if raises else "skip" if order is None else "propagate"
        try:
            clipper = GradClipper(parameters, policy, nonfinite=nonfinite, max_consecutive_skips=math.inf)
        except (TypeError, ValueError) as error:  # a script that runs without it has to run
            if says:
                callers.warn_once(f"Some gradients are neither recorded nor clipped by a policy. {error}")
            return None
        if is_dry_run(clipper._selection.owners):
            return None
        clipper._trust.quiet = True  # the script is not to be told of a `clip()` that it does not call
        clipper._turn = Turn(waits=True)  # nor whose threads share parameters, as those of A3C, of a clipper
        self._count += group == self._next_group
        self._groups[clipper._sinks] = group
        family = self._families[id(clipper)] = Family(clipper, settings, group, not isinstance(parameters, Optimizer))
        return family
