"""From the gradients to what was done about them: measure, decide, apply, as many times as a policy has stages."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, final

from torch import Tensor

from gradclip.clipper.change import Change
from gradclip.clipper.measure import measure, spread_over
from gradclip.clipper.selection import Selection
from gradclip.distributed.replicas import Differing, differing, everyone, is_same
from gradclip.distributed.span import Span
from gradclip.exceptions import NonFiniteGradientError
from gradclip.gradients import GradientSet, collect
from gradclip.numbers import Scalar, on_host, ratio, where
from gradclip.policies import Policy
from gradclip.policies.effect import after, shrinks
from gradclip.policies.measured import SCOPES, Norms, Scope
from gradclip.policies.policy import Decision
from gradclip.policies.state import pack, unpack
from gradclip.result import ClipResult, Each, Outcome, Status
from gradclip.validation import NonFiniteStep, refuse_state

FUNCTION = "GradClipper.clip"

COUNTED = 100
"""Parameters whose non-finite elements are counted for a record, at most: the first ones."""


@final
class Stage:
    """A part of a policy that takes one measurement, and what it has learned."""

    __slots__ = ("layout", "order", "policy", "scope", "state", "units")

    def __init__(self, policy: Policy, selection: Selection) -> None:
        self.policy = policy
        self.scope: Scope = policy.scope
        if selection.scaled is not None:  # each parameter has a coefficient of its own
            self.scope = max(policy.scope, "parameter", key=SCOPES.index)
        self.order = math.inf if policy.norm_type is None else policy.norm_type
        self.units = policy.units
        self.layout = selection.layout_of(self.units) if self.scope == "unit" else selection.layout
        self.state: Any = policy.init(self.layout)


@final
class Pipeline:
    """The parameters of a clipper, and the policy that it applies to their gradients.

    Args:
        policy: The policy.
        selection: The parameters.
        nonfinite: What to do about a total norm that is NaN or infinite.
        group: The ranks that hold the whole model together, where one collective is to do.

    Attributes:
        found: Whether the last run found any gradient here.
        is_reduced: Whether the norms of the last run were made of those of several ranks.
        nonfinite: The counts of NaN and of infinite elements here by parameter, where they were asked for and the total
            norm that the last run found is known not to be finite; else None.
        differing: The norms of parameters that differ between ranks, where those of the last run were compared and the
            total norms do; else None.
        reason: Which gradients made the last run skip, in words, where they were asked for; else empty.
    """

    def __init__(self, policy: Policy, selection: Selection, nonfinite: NonFiniteStep, group: Span | None) -> None:
        self.found = False
        self.is_reduced = False
        self.nonfinite: dict[str, tuple[int, int]] | None = None
        self._group = group
        self.reason = ""
        self.differing: Differing | None = None
        self._selection = selection
        self._nonfinite = nonfinite
        self._stages = [Stage(stage, selection) for stage in policy.stages]

    def run(
        self,
        step: int,
        loss: Scalar | None,
        *,
        each: bool,
        count: bool = False,
        explain: bool = False,
        compare: bool = False,
    ) -> ClipResult:
        """Clip; measure the norm of each parameter if asked to, or where the policy needs it; count what is bad.

        Where `explain` is true, the reason of a skip is put into words, as the gradients are not kept; where `compare`
        is, all ranks are asked for their norms.
        """
        self.nonfinite, self.reason, self.differing = None, "", None
        change = Change(undone=self._may_undo, read=self._nonfinite != "propagate")
        learned = [stage.state for stage in self._stages]
        try:
            return self._run(change, learned, step, loss, each=each, count=count, explain=explain, compare=compare)
        except BaseException:
            self._take_back(change, learned)
            raise

    def _run(
        self,
        change: Change,
        learned: list[Any],
        step: int,
        loss: Scalar | None,
        *,
        each: bool,
        count: bool,
        explain: bool,
        compare: bool,
    ) -> ClipResult:
        done: list[tuple[Norms, Decision]] = []
        threshold: Scalar | None = None
        sanitized = False
        for stage in self._stages:
            scope = self._scope_of(stage, each=each)
            gradients, norms = self._measure_alike(stage, scope, loss, compare=compare and not done)
            if not gradients.any_found:  # nothing to clip, and nothing to learn
                return _untouched(step, norms, Decision())
            known = self._nonfinite != "propagate" or not isinstance(norms.total, Tensor)  # else nothing waits for it
            if change.is_waiting and not math.isfinite(on_host(norms.total)):  # it may bring them in range
                change.make(gradients, last=False)
                gradients, norms = self._measure(stage, scope, loss)
            norms = change.foreseen(norms)
            first = done[0][0] if done else norms
            bad = known and not math.isfinite(on_host(norms.total))
            if bad and count and self.nonfinite is None:
                self.nonfinite = gradients.count_nonfinite(COUNTED)
            if bad and self._nonfinite != "propagate":
                if self._nonfinite == "skip":
                    self.reason = gradients.describe_nonfinite() if explain else ""
                    self._take_back(change, learned)
                    return _untouched(step, first, Decision(), Status.SKIPPED_NONFINITE)
                if self._nonfinite == "raise":
                    raise NonFiniteGradientError(_nonfinite_message(gradients, stage.order))
                sanitized = True
                gradients.zero_nonfinite_()
                gradients, norms = self._measure(stage, scope, loss)
                norms = change.foreseen(norms)
            decision, state = stage.policy.decide(norms, stage.state)
            if decision.skip is not False and on_host(decision.skip):
                self._take_back(change, learned)
                stage.state = state  # which a policy that skips may learn from
                return _untouched(step, first, decision, Status.SKIPPED_SPIKE)
            stage.state = state
            if not done and decision.scope == "total" and not isinstance(decision.clamp, Tensor):
                threshold = decision.threshold
            if self._selection.scaled is not None:
                decision = spread_over(decision, self._selection.scaled, norms)
            change.decide(gradients, decision, norms, stage.units, last=stage is self._stages[-1])
            done.append((norms, decision))
        return ClipResult(
            step, done[0][0].total, partial(_outcome_of, done, threshold, sanitized), partial(_each_of, done[0][0])
        )

    def _take_back(self, change: Change, learned: list[Any]) -> None:
        """Leave gradients, and what stages have learned, as they were before the run."""
        change.undo()
        for stage, state in zip(self._stages, learned, strict=True):
            stage.state = state

    @property
    def _may_undo(self) -> bool:
        """Whether a stage may take back what those before it did."""
        later = self._stages[1:]
        return bool(later) and (self._nonfinite in {"skip", "raise"} or any(stage.policy.skips for stage in later))

    def overflow(self, step: int, *, each: bool, count: bool = False, compare: bool = False) -> ClipResult:
        """Return the result of a step that a scaler keeps from happening; nothing is clipped or learned.

        It measures what `run` does, in case that other ranks saw no overflow.
        """
        stage = self._stages[0]
        gradients, norms = self._measure_alike(stage, self._scope_of(stage, each=each), None, compare=compare)
        bad = count and not math.isfinite(on_host(norms.total))
        self.nonfinite = gradients.count_nonfinite(COUNTED) if bad else None
        return _untouched(step, norms, Decision(), Status.SKIPPED_SCALER)

    def total_norm(self) -> float:
        """Return the total norm now: where nothing happened since, that after clipping."""
        return on_host(self._measure(self._stages[-1], "total", None)[1].total)

    def _scope_of(self, stage: Stage, *, each: bool) -> Scope:
        return "parameter" if each and stage.scope == "total" else stage.scope

    def _measure(self, stage: Stage, scope: Scope, loss: Scalar | None) -> tuple[GradientSet, Norms]:
        selection = self._selection
        asked = stage.order if scope == "total" else None
        gradients = collect(FUNCTION, selection.owners, asked, names=selection.names, group=self._group, loss=loss)
        self.found, self.is_reduced = bool(gradients.gradients), gradients.reduction is not None
        return gradients, measure(gradients, selection.owners, stage.layout, stage.order, scope, stage.units, loss)

    def _measure_alike(
        self, stage: Stage, scope: Scope, loss: Scalar | None, *, compare: bool
    ) -> tuple[GradientSet, Norms]:
        """Measure, and find out whether all ranks have the same norm if asked to: whatever happens on this one."""
        if not compare or (span := everyone()) is None:
            return self._measure(stage, scope, loss)
        try:
            gradients, norms = self._measure(stage, scope, loss)
        except BaseException:
            is_same(None, span)
            raise
        if not is_same(norms.total, span):
            self.differing = differing(gradients.copied_norms(stage.order), span)
        return gradients, norms

    # Saving.

    def state_dict(self) -> list[dict[str, Any]]:
        """Return what was learned as plain data."""
        return [
            {"policy": type(stage.policy).__name__, "state": pack(stage.state, stage.layout)} for stage in self._stages
        ]

    def load_state_dict(self, saved: object) -> None:
        """Go on from what was saved.

        Raises:
            ValueError: If it comes from another policy or other parameters, or is damaged. Nothing is changed then.
        """
        mine = [type(stage.policy).__name__ for stage in self._stages]
        if not isinstance(saved, (list, tuple)):
            refuse_state("stages", mine, saved)
        for i, entry in enumerate(saved):
            if not isinstance(entry, Mapping) or not {"policy", "state"} <= set(entry):
                refuse_state(f"stages[{i}]", ["policy", "state"], entry)
        given = [entry["policy"] for entry in saved]
        if mine != given:
            refuse_state("policy", mine, dict.fromkeys(map(str, given)))
        states = [
            unpack(stage.policy.init(stage.layout), entry["state"], stage.layout, name)
            for stage, entry, name in zip(self._stages, saved, mine, strict=True)
        ]
        for stage, state in zip(self._stages, states, strict=True):
            stage.state = state


def _untouched(step: int, norms: Norms, decision: Decision, status: Status | None = None) -> ClipResult:
    bounded = status is Status.SKIPPED_SPIKE and decision.scope == "total"
    outcome = Outcome(norms.total, decision.threshold if bounded else None, 1.0, shrunk=False)
    return ClipResult(step, norms.total, lambda: outcome, partial(_each_of, norms), status)


def _outcome_of(done: list[tuple[Norms, Decision]], threshold: Scalar | None, sanitized: bool) -> Outcome:  # noqa: FBT001
    norms, decision = done[0]
    coef = decision.coef
    if len(done) == 1 and decision.scope == "total" and decision.clamp is None and decision.skip is False:  # as a rule
        return Outcome(norms.total * coef, threshold, coef, (coef < 1.0) | sanitized)
    left, shrunk = after(norms, decision), shrinks(norms, decision)
    coef = _ratio(norms, decision, left)
    for later in done[1:]:
        left, shrunk = after(*later), shrunk | shrinks(*later)
        coef = coef * _ratio(*later, left)
    return Outcome(left.total, threshold, coef, shrunk | sanitized)


def _each_of(norms: Norms) -> Each | None:
    if norms.each is None:
        return None
    places = norms.present
    return Each(norms.layout.names, norms.each if places is None else norms.each[places], places)


def _ratio(norms: Norms, decision: Decision, left: Norms) -> Scalar:
    """Return what a decision multiplied the total norm by."""
    if decision.scope == "total" and decision.clamp is None:
        return decision.coef
    return where(norms.total == 0.0, 1.0, ratio(left.total, norms.total))


def _nonfinite_message(gradients: GradientSet, order: float) -> str:
    return (
        f"The total norm of order {order:g} is not finite, and `nonfinite` is 'raise'. {gradients.describe_nonfinite()}"
    )
