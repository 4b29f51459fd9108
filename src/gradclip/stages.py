"""The one loop over the stages of a policy: measure, judge what is not finite, decide, apply, next stage.

Whatever clips goes through it: the functions, with one stage; a `GradClipper`; the replay of recorded norms, which
brings another measure, and an apply that is arithmetic.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, final

import torch

from gradclip.exceptions import NonFiniteGradientError
from gradclip.numbers import as_float64, is_bad, is_known, isfinite, on_host, where
from gradclip.policies.fused import Fused
from gradclip.policies.layout import Layout, Scope, finest
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.policies.saving import going_on
from gradclip.result import Status
from gradclip.units import Units

NonFinite: TypeAlias = Literal["propagate", "keep", "raise", "skip", "sanitize"]
"""What to do about a total norm that is NaN or infinite: compute with it; multiply by 1 then; raise, with nothing done;
end, with nothing done; or set elements that are not finite to 0, and clip the rest, by its norm in units of the largest
element. For the first two, a norm on a device is not read."""

UNREAD = {"propagate", "keep"}


@final
class Stage:
    """A part of a policy that takes one measurement, and what it has learned.

    Args:
        policy: The part.
        layout: The parameters that norms belong to.
        at_least: The coarsest scope whose norms are measured.

    Attributes:
        scope: The scope whose norms are measured.
        order: The order of the norms.
        fused: The part, as it decides about numbers of a device.
        units: What a unit is, where the scope is that.
        state: What it has learned.
    """

    __slots__ = ("fused", "layout", "order", "policy", "scope", "state", "units")

    def __init__(self, policy: Policy, layout: Layout, at_least: Scope = "total") -> None:
        self.policy = policy
        self.fused = Fused(policy)
        self.layout = layout
        self.scope = finest((policy.scope, at_least))
        self.order = math.inf if policy.norm_type is None else policy.norm_type
        self.units: Units = policy.units
        self.state: Any = policy.init(layout)

    def decide(self, norms: Norms) -> Decision:
        """Return what to do about these norms, and learn from them."""
        decision, self.state = self.fused.decide(norms, self.state)
        return decision

    def on(self, layout: Layout) -> "Stage":
        """Return the same for parameters of another layout: what was learned of those that both have goes on."""
        made = Stage(self.policy, layout, self.scope)
        made.state = going_on(made.state, layout, self.state, self.layout)
        return made


class Work(ABC):
    """What the stages of one clip work on."""

    __slots__ = ()

    @abstractmethod
    def measure(self, stage: Any) -> tuple[Norms, bool]:
        """Measure what a stage asks for.

        Returns:
            The norms that gradients have once all that was decided before is done; and whether the stage is to decide,
            or nothing is there to clip and to learn from.
        """

    @abstractmethod
    def apply(self, stage: Any, norms: Norms, decision: Decision) -> Decision:
        """Do what a stage has decided, now or with the next; return what it comes to."""

    @abstractmethod
    def sanitize(self, stage: Any) -> Norms:
        """Set elements that are not finite to 0, and measure again."""

    def see_nonfinite(self, norms: Norms) -> None:  # noqa: B027 -- most look at nothing
        """Hear of a total norm that is known not to be finite, before anything is done about it."""

    @abstractmethod
    def complain(self, stage: Any) -> str:
        """Return why a norm that is not finite is an error."""

    def check_others(self) -> None:  # noqa: B027 -- most are of one process
        """Check that a total norm which the host knows not to be finite does not come of a rank that cannot clip."""

    def tell(self, stage: Any, error: BaseException) -> None:  # noqa: B027 -- most are of one process
        """Let all hear of an error in one stage that wait for the norms of the next."""

    @property
    def is_heard(self) -> bool:
        """Whether all have heard of one with the norms that were measured last."""
        return True

    def undo(self) -> None:  # noqa: B027 -- what has one stage does nothing before its last act
        """Leave everything as it was before the first stage."""


class Done(NamedTuple):
    """What the stages have done.

    Attributes:
        before: The norms before the first stage.
        steps: The norms that each stage decided from, and what it decided; none where nothing was done.
        asked: What the first stage decided, whatever became of it; None where it was not asked.
        skipped: Why nothing was done and the step should not happen, or None.
        refusing: What the stage decided that asked for no step, or may have.
        sanitized: Whether elements that are not finite were set to 0.
    """

    before: Norms
    steps: Sequence[tuple[Norms, Decision]]
    asked: Decision | None
    skipped: Status | None = None
    refusing: Decision | None = None
    sanitized: bool = False


def run(
    stages: Sequence[Any], work: Work, nonfinite: NonFinite, decide: Callable[[Any, Norms], Decision] | None = None
) -> Done:
    """Clip by all stages, or not at all: where a later one wants no step, or fails, nothing is done by any.

    Args:
        stages: Of a policy.
        work: What they work on.
        nonfinite: What to do about a total norm that is NaN or infinite.
        decide: Has a stage decide about norms; by default, its own method.

    Raises:
        NonFiniteGradientError: If a total norm is not finite, and that is an error.
    """
    learned: list[Any] = []  # before
    steps: list[tuple[Norms, Decision]] = []
    before: Norms | None = None
    asked: Decision | None = None
    sanitized = False
    is_measured = False  # what the next decision, or its application, needs
    try:
        for stage in stages:
            is_measured = False
            norms, decides = work.measure(stage)
            if decides and nonfinite not in UNREAD:
                norms = _read(norms, stage, work)
            if before is None:
                before = norms
            if not decides:
                break
            if is_bad(norms.total):
                work.see_nonfinite(norms)
                if nonfinite == "skip":
                    _take_back(work, stages, learned)
                    return Done(before, (), asked, Status.SKIPPED_NONFINITE)
                if nonfinite == "raise":
                    raise NonFiniteGradientError(work.complain(stage))
                if nonfinite == "sanitize":
                    norms, sanitized = _read(work.sanitize(stage), stage, work), True
                    before = norms if not steps else before
            learned.append(stage.state)
            is_measured = True
            decision = stage.decide(norms) if decide is None else decide(stage, norms)
            if nonfinite == "keep":
                coef = where(isfinite(norms.total), decision.coef, 1.0)  # without `_replace`, torch 2.6 compiles it
                decision = Decision(coef, decision.threshold, decision.scope, decision.skip, decision.clamp)
            if asked is None:
                asked = decision
            if decision.skip is not False and on_host(decision.skip):
                state = stage.state
                _take_back(work, stages, learned)
                stage.state = state  # which a policy that skips may learn from
                return Done(before, (), asked, Status.SKIPPED_SPIKE, decision)
            steps.append((norms, work.apply(stage, norms, decision)))
    except BaseException as error:
        _take_back(work, stages, learned)
        to_come = stages[len(learned) + (not is_measured) :]
        _tell(to_come, work, error, is_new=is_measured, reads=nonfinite not in UNREAD)
        raise
    if before is None:
        raise RuntimeError("the first stage of a policy can always be measured")
    return Done(before, steps, asked, None, None, sanitized)


def _tell(stages: Sequence[Any], work: Work, error: BaseException, *, is_new: bool, reads: bool) -> None:
    """Let all ranks hear of an error that may wait in any of the stages to come.

    Those that hear of it with a norm stop there, and so do those that read the norm. Others go on to the last stage.

    Args:
        stages: The stages.
        work: What they work on.
        error: The error.
        is_new: Whether it has come after the last norm, of which nobody has heard with that.
        reads: Whether norms are read.
    """
    for stage in stages:
        if not is_new and (reads or work.is_heard):
            return
        work.tell(stage, error)
        is_new = False


def _read(norms: Norms, stage: Any, work: Work) -> Norms:
    """Return norms whose total the host knows: a rule decides with floats then, many times faster, and at each step.

    The loss is read with it for a rule that skips, as whether it does would be read next.

    Raises:
        RemoteError: If another rank cannot clip.
    """
    total, loss = norms.total, norms.loss
    if not is_known(total):
        if loss is None or is_known(loss) or not stage.policy.skips:
            total = on_host(total)
        else:
            total, loss = torch.stack([total, as_float64(loss, total.device)]).tolist()
        norms = norms._replace(total=total, loss=loss)
    if is_bad(norms.total):
        work.check_others()
    return norms


def _take_back(work: Work, stages: Sequence[Any], learned: list[Any]) -> None:
    """Leave gradients, and what stages have learned, as they were."""
    work.undo()
    for stage, state in zip(stages, learned, strict=False):  # of those that were reached
        stage.state = state
