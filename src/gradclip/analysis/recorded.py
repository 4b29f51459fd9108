"""A recorded step, as what the loop over stages works on."""

import math
from typing import NoReturn, final

from gradclip.numbers import is_one
from gradclip.policies import Decision, Norms, Policy
from gradclip.policies.effect import after, shrinks
from gradclip.stages import Stage, Work


@final
class Recorded(Work):
    """The norms of a step that was recorded: what would have been done to gradients is done to these.

    Attributes:
        norms: The norms after all that was done.
        clipped: Whether any gradient shrinks.
    """

    __slots__ = ("_is_unknown", "_policy", "clipped", "norms")

    def __init__(self, policy: Policy, norms: Norms) -> None:
        self._policy = policy
        self._is_unknown = False
        self.norms = norms
        self.clipped = False

    def measure(self, stage: Stage) -> tuple[Norms, bool]:
        # The norms after a limit on elements are not known, and so not what later stages do.
        return self.norms, not self._is_unknown

    def apply(self, stage: Stage, norms: Norms, decision: Decision) -> Decision:
        if is_one(decision.coef) and decision.coef == 1.0 and decision.clamp is None:
            return decision  # nothing changes, as on most steps
        self.clipped = self.clipped or bool(shrinks(norms, decision))
        self.norms = after(norms, decision)
        self._is_unknown = math.isnan(self.norms.total)
        if self._is_unknown and decision.clamp is None:
            refuse_policy(self._policy, "norms alone", "has no answer, as one that needs the numbers of elements")
        return decision

    def sanitize(self, stage: Stage) -> Norms:
        return self.norms

    def complain(self, stage: Stage) -> str:
        return f"The recorded norm {self.norms.total} is not finite."


def refuse_policy(policy: Policy, requirement: str, reason: str) -> NoReturn:
    """Raise for a policy that a recording cannot serve."""
    msg = (
        f"`replay(policy=...)` must decide from {requirement}, got {policy!r}, which {reason}. "
        "Pass what the recording holds, or try the policy in training."
    )
    raise ValueError(msg)
