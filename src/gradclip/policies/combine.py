"""Policies one after the other, or for a time."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, NamedTuple, NoReturn, final

from gradclip.numbers import Scalar, is_known, isfinite, not_, where
from gradclip.policies import effect
from gradclip.policies.history import COUNTS, told
from gradclip.policies.holds import COUNT
from gradclip.policies.layout import Layout, Scope, finest
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy, check_policies
from gradclip.policies.state import remembers_all
from gradclip.policies.together import both, decided, either, taught
from gradclip.units import Units
from gradclip.validation import check_number


def chain(*policies: Policy) -> Policy:
    """Apply policies one after the other: each sees the norms that the policies before it leave.

    Args:
        policies: One or more. Policies that use the same order of the norm share one pass over the gradients. After a
            policy that uses another order, or that limits elements, the gradients are measured again.

    Example:
        >>> import math
        >>> from gradclip.policies import FixedNorm, ZClip, chain, warmup
        >>> policy = chain(warmup(1000, FixedNorm(1.0)), ZClip(math.inf))
    """
    check_policies("chain", policies)
    links = tuple(x for policy in policies for x in (policy.links if isinstance(policy, Chain) else policy.stages))
    return links[0] if len(links) == 1 else Chain(links)


def warmup(steps: int, policy: Policy) -> Policy:
    """Apply a policy only in the first steps.

    Args:
        steps: How many, >= 0. Skipped steps do not count. Steps whose norm is not finite do not count either, unless
            the policy is or contains a `schedule` or remembers all norms.
        policy: The policy.
    """
    check_policies("warmup", (policy,))
    return Warmup(int(check_number("warmup", "steps", steps, at_least=0, integer=True)), policy)


def schedule(policy_of: Callable[[int], Policy]) -> Policy:
    """Apply the policy that a function returns for each step, for instance to move a threshold.

    Args:
        policy_of: Maps the number of steps so far, from 0, to the policy of the next step. Skipped steps do not count.
            All policies must be of one type, norm type and scope; what an adaptive policy learns is kept from step to
            step. To pickle the clipper, use a function defined at the top level of a module.

    Example:
        >>> from gradclip.policies import FixedNorm, schedule
        >>> policy = schedule(lambda step: FixedNorm(1.0 + 9.0 * 0.99**step))
    """
    if not callable(policy_of):
        raise TypeError(
            f"`schedule(policy_of=...)` must map a step to a policy, got {policy_of!r}. Write for instance "
            "`schedule(lambda step: FixedNorm(1.0))`."
        )
    check_policies("schedule", (policy_of(0),), one_stage=True)
    return Schedule(policy_of)


class Composed(Policy):
    """A policy that is made of others: it asks for the norms that these need."""

    @property
    @abstractmethod
    def members(self) -> tuple[Policy, ...]:
        """The others."""

    @property
    def norm_type(self) -> float | None:
        return next((member.norm_type for member in self.members if member.norm_type is not None), None)

    @property
    def scope(self) -> Scope:
        return finest(member.scope for member in self.members)

    @property
    def units(self) -> Units:
        return next((member.units for member in self.members if member.scope == "unit"), Units())

    @property
    def clamps(self) -> bool:
        return any(member.clamps for member in self.members)

    @property
    def skips(self) -> bool:
        return any(member.skips for member in self.members)

    @property
    def state_kind(self) -> tuple[Any, ...]:
        return (type(self), *(member.state_kind for member in self.members))


@final
@dataclass(frozen=True)
class Chain(Composed):
    """What `chain` returns."""

    links: tuple[Policy, ...]

    @property
    def members(self) -> tuple[Policy, ...]:
        return self.links

    @cached_property
    def stages(self) -> tuple[Policy, ...]:
        stages: list[list[Policy]] = []
        for link in self.links:
            together = (*stages[-1], link) if stages else (link,)
            orders = {x.norm_type for x in together if x.norm_type is not None}
            units = {x.units for x in together if x.scope == "unit"}
            if not stages or len(orders) > 1 or len(units) > 1 or any(x.clamps for x in stages[-1]):
                stages.append([])
            stages[-1].append(link)
        return tuple(stage[0] if len(stage) == 1 else Chain(tuple(stage)) for stage in stages)

    def init(self, layout: Layout) -> tuple[Any, ...]:
        return tuple(link.init(layout) for link in self.links)

    def decide(self, norms: Norms, state: tuple[Any, ...]) -> tuple[Decision, tuple[Any, ...]]:
        together = Decision()
        decisions: list[Decision] = []
        states: list[Any] = []
        for link, before in zip(self.links, state, strict=True):
            decision, learned = decided(link, norms, before)
            states.append(learned)
            together = both(together, decision, norms.layout) if decisions else decision
            decisions.append(decision)
            if len(decisions) == len(self.links):
                break
            if decision.clamp is not None and not link.clamps:
                refuse_clamp(link)
            left = effect.after(norms, decision)
            if decision.skip is False:
                left.total_after(norms)
            norms = left
        return together, taught(together.skip, decisions, state, states)


class Taken(NamedTuple):
    """How many steps a policy has taken part in, and what it has learned."""

    steps: Annotated[Scalar, COUNT]
    inner: Any


class Led(Composed):
    """What leads its only member."""

    def init(self, layout: Layout) -> Taken:
        return Taken(0.0, self.members[0].init(layout))


@final
@dataclass(frozen=True)
class Warmup(Led):
    """What `warmup` returns."""

    steps: int
    policy: Policy

    @property
    def members(self) -> tuple[Policy, ...]:
        return (self.policy,)

    @property
    def stages(self) -> tuple[Policy, ...]:
        stages = self.policy.stages
        return (self,) if len(stages) == 1 else tuple(Warmup(self.steps, stage) for stage in stages)

    @cached_property
    def _asks(self) -> bool:
        return has_to_know(self.policy)

    def decide(self, norms: Norms, state: Taken) -> tuple[Decision, Taken]:
        is_on = state.steps < self.steps
        if not is_known(is_on) and (self._asks or remembers_all(state)):  # which would grow for ever
            is_on = told(is_on, COUNTS) > 0.0
        return either(is_on, self._take_part, self._stand_by, norms, state)

    def _take_part(self, norms: Norms, state: Taken) -> tuple[Decision, Taken]:
        decision, inner = decided(self.policy, norms, state.inner)
        left_out = decision.skip if self._asks else decision.skip | not_(isfinite(norms.total))
        return decision, Taken(where(left_out, state.steps, state.steps + 1.0), inner)

    def _stand_by(self, norms: Norms, state: Taken) -> tuple[Decision, Taken]:
        return Decision(scope=self.scope), state


@final
@dataclass(frozen=True)
class Schedule(Led):
    """What `schedule` returns."""

    policy_of: Callable[[int], Policy]

    @property
    def members(self) -> tuple[Policy, ...]:
        return (self.policy_of(0),)

    def decide(self, norms: Norms, state: Taken) -> tuple[Decision, Taken]:
        step = int(told(state.steps, COUNTS))
        policy, first = self.policy_of(step), self.members[0]
        if policy.state_kind != first.state_kind:  # then it cannot go on from what that of step 0 began
            msg = (
                f"`schedule(policy_of=...)` must give policies of one type, norm_type and scope, got {policy!r} at "
                f"step {step} and {first!r} at step 0: the windows, and all that they are made of, must be of one kind "
                "too, as what was learned goes on. To change the rule, make a `chain` of `warmup`."
            )
            raise ValueError(msg)
        decision, inner = decided(policy, norms, state.inner)
        return decision, Taken(where(decision.skip, state.steps, state.steps + 1.0), inner)


def has_to_know(policy: Policy) -> bool:
    """Whether the host has to know the step, or how many norms are remembered, on which the form of a rule depends."""
    asks = isinstance(policy, Schedule) or getattr(policy, "window", 0) is None
    return asks or (isinstance(policy, Composed) and any(map(has_to_know, policy.members)))


def refuse_clamp(policy: Policy) -> NoReturn:
    """Raise for a policy that limits elements, and does not say so to what comes after it in a chain."""
    msg = (
        f"`chain(...)` must know of policies that limit elements: {type(policy).__name__} decided on a `clamp`, and "
        "its property `clamps` is False. Let it return True: gradients are then measured again for the next policy."
    )
    raise ValueError(msg)
