"""The clippers of a script that knows of none: one for the parameters that calls and steps are about together."""

import math
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from gradclip import callers
from gradclip.clipper import GradClipper
from gradclip.clipper.hooks import StepArguments, listen, once_gradients_exist, only_makes_state, running_steps
from gradclip.clipper.selection import parameters_in
from gradclip.clipper.turn import Turn
from gradclip.clipper.watching import WATCHERS
from gradclip.distributed.layout import may_have_gradient
from gradclip.functional import clip_grad_norm_
from gradclip.numbers import Scalar, as_float64
from gradclip.patching.families import Asleep, Family, Given, Settings
from gradclip.policies import Policy
from gradclip.policies.fixed import measures
from gradclip.records import ClipRecord, Sinks
from gradclip.torch_private import is_fake
from gradclip.tracing import untraced

IDLE = 1000
"""Calls after which parameters are forgotten that none of them was about, such as those of a model that is gone."""

MOST_LISTS = 100
"""Lists of parameters whose family is known at once: a caller may make another at each step."""


@final
class Clippers:
    """What clips, and records, in place of a call, and before a step on gradients that no call has clipped.

    Args:
        policy: The rule in place of what callers ask for; None for theirs.
    """

    def __init__(self, policy: Policy | None) -> None:
        listen()  # before a step, in which no hook can be added
        self._policy = policy
        self._lock = threading.RLock()  # while a family is found: threads may train side by side, each with its own
        self._calls = 0
        self._loose: dict[Family, int] = {}  # of no optimizer yet, and when they were last called for
        self._of: weakref.WeakKeyDictionary[Optimizer, list[Family]] = weakref.WeakKeyDictionary()
        self._about: dict[int, list[weakref.ref[Family]]] = {}  # by the identity of a parameter
        self._same: dict[tuple[Any, ...], weakref.ref[Family]] = {}  # by those of all parameters of a call
        self._asleep: list[Asleep] = []
        self._watched: list[weakref.ref[Optimizer]] = []  # and when they are gone
        self._refused: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._own: weakref.WeakSet[GradClipper] = weakref.WeakSet()
        self._groups: weakref.WeakKeyDictionary[Sinks, str | None] = weakref.WeakKeyDictionary()  # of own and others
        self._in_steps: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()  # see `before_step`
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
        settings: Settings = (None if self._policy else norm_type), raises
        with self._lock:
            family = self._family_for_call(parameters, settings)
        if family is None:
            return None
        if self._policy is not None and family.is_as_called():  # which it has clipped already, and learned from
            return clip_grad_norm_(parameters, math.inf, norm_type)
        family.is_called = True
        self._in_steps.update({x: True for x in running_steps() if x in self._in_steps})
        with family.clipper._turn:
            total = as_float64(family.told(max_norm, total_norm).clip()._total)
        family.remember()
        return total

    def _family_for_call(self, parameters: list[Tensor], settings: Settings) -> Family | None:
        self._calls += 1
        if self._calls % IDLE == 0:
            self._forget()
        key = (*map(id, parameters), settings)
        known = self._same.get(key)
        family = None if known is None else known()
        if family is None or len(family.parameters) != len({*map(id, parameters)}):
            found = (x for x in self.families_about(parameters) if x.settings == settings)
            family = next((x for x in found if x.take_up(parameters)), None)
            family = family or self._made_for_call(parameters, settings)
            if family is None:
                return None
            self._know(family)
            if len(self._same) > MOST_LISTS:
                self._same.clear()
            self._same[key] = weakref.ref(family)
        if family in self._loose:
            self._loose[family] = self._calls
        return family

    def before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepArguments | None:
        """Clip before a step uses its gradients: now, or where it has a closure that makes them, after that.

        A closure may run several times in a step. Where its gradients are to be recorded alone, the first are: those
        that the step sets out from. What called for a clip after this in its last step is left to that.
        """
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

    def leave_out(self, optimizer: Optimizer) -> None:
        """Record a step that a scaler keeps from happening, without a call of the optimizer."""
        with self._lock:
            family = self._family_for(optimizer)
        if family is not None:
            with family.clipper._turn:
                family.told()._hear_overflow(optimizer)

    def named(self, record: ClipRecord, sinks: Sinks) -> ClipRecord | None:
        """Return a record of any clipper, with a `group` but for that of the first; None of what is no clip here."""
        with self._lock:
            if sinks not in self._groups:  # of a clipper of the script's own
                if self._is_no_clip(sinks.policy):
                    return None
                self._groups[sinks] = self._next_group
                self._count += 1
            group = self._groups[sinks]
        return record if group is None else replace(record, group=group)

    def _is_no_clip(self, policy: object) -> bool:
        """Whether a clipper of the script's own leaves the clip to the rule, as a call with an infinite bound does."""
        return self._policy is not None and measures(policy)

    def _others(self, optimizer: Optimizer) -> list[GradClipper]:
        """Return the clippers of the script's own that work on any parameter of an optimizer."""
        found = WATCHERS.of_step(optimizer)
        return [watcher for watcher in found if isinstance(watcher, GradClipper) and watcher not in self._own]

    def _family_for(self, optimizer: Optimizer) -> Family | None:
        """Return what is to clip before a step of an optimizer, or record it; None where something else does."""
        owners = [p for p in parameters_in(optimizer) if may_have_gradient(p)]
        families = self.families_about(owners)
        clipped = [family for family in families if family.clipper._has_just_clipped(optimizer)]
        for family in clipped:
            self._belongs(family, optimizer)
        done = {id(p) for family in clipped for p in family.parameters}
        if any(family.is_called for family in clipped) or (clipped and done.issuperset(map(id, owners))):
            return None
        owners = [p for p in owners if id(p) not in done]  # without those that another optimizer has just stepped with
        others = (other for other in self._others(optimizer) if not self._is_no_clip(other.policy))
        if not owners or any(other._clips_for(optimizer) for other in others):
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
            self._know(family)
            self._belongs(family, optimizer)
        return family

    def end(self) -> None:
        """Clip no more."""
        with self._lock:
            own = list(self._own)
        for clipper in own:
            clipper.detach()
        for known in (self._loose, self._of, self._about, self._same, self._asleep, self._watched):
            known.clear()

    # Which family clips.

    def families_about(self, parameters: Sequence[Tensor]) -> list[Family]:
        """Return the families that any of some parameters is of, the oldest first."""
        known = (family() for p in parameters for family in self._about.get(id(p), ()))
        return list(dict.fromkeys(family for family in known if family is not None))

    def _forget(self) -> None:
        """Let go of families that no call has been about for long, and of what is known of those that are gone."""
        self._loose = {family: last for family, last in self._loose.items() if self._calls - last < IDLE}
        self._watched = [known for known in self._watched if known() is not None]
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
            self._watched.append(weakref.ref(optimizer, lambda _: self._rest(family)))

    def _rest(self, family: Family) -> None:
        """Keep what a family has learned, where no optimizer steps with it any more, and not its parameters."""
        # Without the lock, which another thread may hold that waits for this one; a list of the keys is made at once.
        optimizers = [own for known in self._of.keyrefs() if (own := known()) is not None]
        if family not in self._loose and not any(family in self._of.get(own, ()) for own in optimizers):
            known = [weakref.ref(p) for p in family.parameters]
            self._asleep.append(Asleep(known, family.settings, family.clipper.state_dict(), family.group))

    def _awake(self, parameters: Sequence[Tensor], settings: Settings) -> Family | None:
        """Return the family that was about these parameters before its optimizer was gone."""
        asked = {id(p) for p in parameters}
        self._asleep = [x for x in self._asleep if any(known() is not None for known in x.parameters)]
        for asleep in self._asleep:
            owners = [p for known in asleep.parameters if (p := known()) is not None]
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
        if any(p.is_meta or is_fake(p) for p in clipper._selection.owners):  # of a dry run, which has no numbers
            return None
        clipper._trust.quiet = True  # the script is not to be told of a `clip()` that it does not call
        clipper._turn = Turn(waits=True)  # nor whose threads share parameters, as those of A3C, of a clipper
        self._count += group == self._next_group
        self._own.add(clipper)
        self._groups[clipper._sinks] = group
        return Family(clipper, settings, group, grows=not isinstance(parameters, Optimizer))
