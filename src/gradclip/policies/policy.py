"""What a policy is: numbers in, coefficients out. It never touches a gradient.

A policy is a frozen dataclass of its hyper-parameters. What it has learned is in a state of its own, which `init` makes
and every `decide` makes anew: the same norms always lead to the same decisions, in training and in a replay.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from gradclip.numbers import Condition, Scalar, is_one
from gradclip.policies.layout import Layout, Scope
from gradclip.policies.measured import Norms
from gradclip.units import Units


class Decision(NamedTuple):
    """What to do with the gradients of one step: multiply them, then limit their elements; or skip the step.

    Attributes:
        coef: The factor: one number, or one for each parameter, of shape (P,), or for each unit, of shape (U,).
        threshold: What the norms of the scope were compared with, in the same shape; infinite if nothing limits them.
        scope: What has its own coefficient.
        skip: Whether to skip the step.
        clamp: The largest absolute value of an element, one number or one for each parameter; None for no limit.
    """

    coef: Scalar = 1.0
    threshold: Scalar = float("inf")
    scope: Scope = "total"
    skip: Condition = False
    clamp: Scalar | None = None

    @property
    def bounds_all_alike(self) -> bool:
        """Whether the threshold is one number for all gradients."""
        return self.scope == "total" and (self.clamp is None or is_one(self.clamp))


class Policy(ABC):
    """Turns norms into a decision.

    Subclasses are frozen dataclasses. The methods are pure: what they return depends only on their arguments.
    """

    @property
    def norm_type(self) -> float | None:
        """The order of the norms to measure; None if any order will do."""
        return 2.0

    @property
    def scope(self) -> Scope:
        """The finest scope whose norms are needed."""
        return "total"

    @property
    def units(self) -> Units:
        """What a unit is, if the scope is `"unit"`."""
        return Units()

    @property
    def clamps(self) -> bool:
        """Whether decisions may limit elements. Norms other than the maximum are not known after that."""
        return False

    @property
    def skips(self) -> bool:
        """Whether decisions may skip the step. What earlier stages did to the gradients is then undone."""
        return False

    @property
    def state_kind(self) -> tuple[Any, ...]:
        """What another policy must have in common with this one to continue from its state.

        For a policy that remembers norms, it includes the field `window`.
        """
        return (type(self), self.norm_type, self.scope, self.units, self.clamps, getattr(self, "window", None))

    @property
    def stages(self) -> tuple["Policy", ...]:
        """The parts of the policy that need one measurement each, in order."""
        return (self,)

    def init(self, layout: Layout) -> Any:
        """Return the state before the first step: a tuple of numbers, tensors, histories, and tuples of these."""
        return ()

    @abstractmethod
    def decide(self, norms: Norms, state: Any) -> tuple[Decision, Any]:
        """Return what to do about these norms, and the state after this step."""


LARGEST = 1e15
"""Numbers below it may be meant as thresholds."""

LONGEST = 80
"""Characters of what is no policy that an error shows; a model has thousands."""


def check_policies(function: str, policies: tuple[object, ...], *, one_stage: bool = False) -> None:
    """Check that there are policies, and that each needs no second measurement where that cannot be."""
    if not policies:
        msg = f"`{function}()` must be given one policy or more, got none."
        raise TypeError(msg)
    for policy in policies:
        stages = getattr(policy, "stages", None)
        if stages is None or isinstance(policy, type):
            shown = f"{policy!r} ({type(policy).__name__})"
            shown = shown if len(shown) <= LONGEST else f"a {type(policy).__name__}"
            msg = f"`{function}()` must be given policies, got {shown}. {_instead(function, policy)}"
            raise TypeError(msg)
        if one_stage and len(stages) > 1:
            msg = (
                f"`{function}()` must be given policies that take one measurement, got {policy!r}, whose second part "
                f"needs the norms after the first. Write a `chain` of two `{function}` instead."
            )
            raise ValueError(msg)


def _instead(function: str, given: object) -> str:
    """Return what to write in place of what is no policy."""
    if isinstance(given, type):
        return f"Write `{given.__name__}(...)`."
    if isinstance(given, (int, float)) and not isinstance(given, bool) and 0 <= given < LARGEST:
        return f"Write `FixedNorm({given})`."
    if isinstance(given, (list, tuple)):
        return "Pass each policy by itself." if function == "chain" else "Write `chain(...)` with them."
    return "Write one of `gradclip.policies`, such as `ZClip(max_norm=1.0)`."
