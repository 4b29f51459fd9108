"""The stages of a clipper's policy, and what one clip by them came to."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, NoReturn, final

from gradclip.clipper.arguments import NonFiniteStep
from gradclip.clipper.selection import Selection
from gradclip.clipper.skips import Skips
from gradclip.clipper.work import Asked, ClipWork
from gradclip.distributed.agreement import Agreement
from gradclip.distributed.replicas import Differing
from gradclip.distributed.span import Span
from gradclip.gradients.nonfinite import Counts
from gradclip.numbers import Condition, Scalar, home, on_host, ratio, where
from gradclip.policies import Policy
from gradclip.policies.effect import after, shrinks
from gradclip.policies.fused import Withheld, withheld_of
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision
from gradclip.policies.saving import check_state, pack, refuse_state, unpack
from gradclip.policies.state import has_names, in_memory_of, recalled
from gradclip.result import ClipResult, Each, Outcome, Status, Unread
from gradclip.sending import indices
from gradclip.stages import Done, Stage, run
from gradclip.tracing import is_captured


class Clip(NamedTuple):
    """What came of one clip.

    Attributes:
        result: What was done, for the user.
        withheld: Whether the step does not happen, where a device knows.

        The others are those of `ClipWork`, which outlive the gradients.
    """

    result: ClipResult
    found: bool
    is_shared: bool
    nonfinite: Counts | None
    differing: Differing | None
    withheld: Condition


@final
class Pipeline:
    """The parameters of a clipper, and the stages of the policy that it applies to their gradients.

    Args:
        policy: The policy.
        selection: The parameters.
        nonfinite: What to do about a total norm that is NaN or infinite.
        group: The ranks that hold the whole model together, where one collective is to do.
    """

    def __init__(self, policy: Policy, selection: Selection, nonfinite: NonFiniteStep, group: Span | None) -> None:
        self._policy = policy
        self._group = group
        self._agreement = Agreement()
        self._selection = selection
        self._placed = selection.placed
        self._nonfinite: NonFiniteStep = nonfinite
        at_least = "total" if selection.scaled is None else "parameter"  # each has a coefficient of its own then
        self._stages = [Stage(stage, selection.layout_for(stage, at_least), at_least) for stage in policy.stages]
        for stage in self._stages:
            check_state(stage.policy, stage.state, stage.layout)
        may_undo = nonfinite in {"skip", "raise"} or any(stage.policy.skips for stage in self._stages[1:])
        self._undone = may_undo and len(self._stages) > 1  # by a later stage
        self._are_of_totals = all(stage.scope == "total" for stage in self._stages)
        self._captured: tuple[Any, ...] | None = None  # what was learned before a graph was captured, which it reads
        self._is_elsewhere = False  # what was learned, as the last clip was unread

    def run(self, asked: Asked, loss: Scalar | None, total: Scalar | None) -> Clip:
        """Clip, where the caller knows the 2-norm of more gradients than are here by that `total`."""
        work = self._work(asked, loss, undone=self._undone, total=total)
        in_graph, known = self._in_graph()
        if in_graph and self._nonfinite != "propagate":
            raise RuntimeError(
                f"`GradClipper(nonfinite={self._nonfinite!r})` reads the norm, which nothing can in a captured graph. "
                "Use 'propagate', or 'skip' where the step of a fused optimizer is captured too."
            )
        if self._nonfinite == "skip" and (self._is_elsewhere or self._captured is not None):
            self._stages[0].state = recalled(self._stages[0].state)  # as the host reads the norm, it decides
            self._is_elsewhere = False
        try:
            clip = _clip(asked.step, work, run(self._stages, work, self._nonfinite), is_replayed=in_graph)
        except BaseException:
            if known is not None:
                (self._know if in_graph else self._keep)(known)  # of a clip that fails, a graph replays nothing
            raise
        if known is not None:
            self._keep(known)
        return clip

    @property
    def can_run_unread(self) -> bool:
        """Whether a step can be clipped for that the host does not know whether it happens."""
        return len(self._stages) == 1 and self._nonfinite in {"skip", "propagate"} and self._group is None

    @property
    def sanitizes(self) -> bool:
        """Whether gradients are written that are not finite, whatever the policy does."""
        return self._nonfinite == "sanitize"

    def run_unread(
        self, asked: Asked, loss: Scalar | None, overflow: Condition, before: Skips
    ) -> tuple[Clip, Withheld]:
        """Clip, or not where a scaler found an overflow, with nothing read: a device knows whether the step happens."""
        work = self._work(asked, loss, reads=False)
        in_graph, known = self._in_graph()
        (stage,), skips = self._stages, self._nonfinite == "skip"
        may_be = skips or stage.policy.skips or overflow is not False
        in_a_row = before.on(stage.layout.device) if may_be else 0.0
        withheld: Withheld | None = None

        def decide(own: Stage, norms: Norms) -> Decision:
            nonlocal withheld
            decision, own.state, withheld = own.fused.decide_unread(
                norms, own.state, overflow, in_a_row, skips_nonfinite=skips
            )
            return decision._replace(skip=False)  # as far as the host knows

        done = run(self._stages, work, "propagate", decide)
        withheld = withheld or withheld_of(overflow, overflow, in_a_row)  # of no gradients
        if known is not None:
            self._keep(known)
        self._is_elsewhere = True
        unread = Unread(withheld.flag, overflow, skips_nonfinite=skips)
        done = done._replace(refusing=done.asked)
        return _clip(asked.step, work, done, unread, is_replayed=in_graph), withheld

    def overflow(self, asked: Asked) -> Clip:
        """Return what a step is that a scaler keeps from happening; nothing is clipped or learned.

        It measures what `run` does, in case that other ranks saw no overflow.
        """
        work = self._work(asked, None)
        norms, _ = work.measure(self._stages[0])
        if asked.count and not math.isfinite(on_host(norms.total)):
            work.see_nonfinite(norms)
        return _clip(asked.step, work, Done(norms, (), None, Status.SKIPPED_SCALER))

    def fail(self, asked: Asked, error: Exception) -> NoReturn:
        """Raise an error, once all ranks know of it that wait for this one in the same clip."""
        run(self._stages, self._work(asked, None, failure=error), self._nonfinite)
        raise error

    def total_norm(self) -> float:
        """Return the total norm now: where nothing happened since, that after clipping."""
        return on_host(self._work(Asked(), None).measure(self._stages[-1])[0].total)

    def describe(self) -> str:
        """Say which gradients are not finite; all ranks have to that hold them."""
        work = self._work(Asked(), None)
        work.measure(self._stages[0])
        return work.describe()

    # What was learned: a captured graph goes on reading it, and learning, where it was when it was captured.

    def _in_graph(self) -> tuple[bool, tuple[Any, ...] | None]:
        """Return whether a graph is captured now, and what was learned before that one, or an earlier one."""
        in_graph = is_captured(self._stages[0].layout.device)
        if in_graph and self._captured is None:
            return True, tuple(stage.state for stage in self._stages)
        return in_graph, self._captured

    def _keep(self, known: tuple[Any, ...]) -> None:
        """Keep what was learned where a captured graph reads it, so that each replay goes on from the one before."""
        try:
            self._know(in_memory_of(known, tuple(stage.state for stage in self._stages)))
        except RuntimeError:
            self._know(known)
            raise
        self._captured = known

    def _know(self, states: Iterable[Any]) -> None:
        for stage, state in zip(self._stages, states, strict=True):
            stage.state = state

    # What it is about.

    def _work(self, asked: Asked, loss: Scalar | None, *, reads: bool = True, **how: Any) -> ClipWork:
        self._follow()
        reads = reads and self._nonfinite != "propagate"
        return ClipWork(self._selection, self._stages, self._group, self._agreement, asked, loss, reads=reads, **how)

    def _follow(self) -> None:
        """Go on where parameters are by now, as after `model.to(device)`, and with the shapes, as after `p.data = ...`.

        Where all norms are total norms, shapes do not matter.
        """
        placed, now = self._selection.placed, None if self._are_of_totals else self._selection.reshaped()
        if now is None and placed == self._placed:
            return
        own, device = now or self._selection, home(placed)
        layouts = [replace(own.layout_for(x.policy, x.scope), device=device) for x in self._stages]  # which may raise
        self._stages[:] = [stage.on(layout) for stage, layout in zip(self._stages, layouts, strict=True)]
        self._selection, self._placed = own, placed
        self._captured = None  # whose graph works on tensors that are not the gradients any more

    def with_selection(self, selection: Selection) -> "Pipeline":
        """Return the same for more parameters: what was learned of those that were there stays."""
        self._follow()
        grown = Pipeline(self._policy, selection, self._nonfinite, self._group)
        grown._stages = [stage.on(own.layout) for own, stage in zip(grown._stages, self._stages, strict=True)]
        return grown

    # Saving.

    @property
    def has_names(self) -> bool:
        """Whether what was learned is of single parameters."""
        return any(has_names(stage.state) for stage in self._stages)

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
        self._know(states if self._captured is None else in_memory_of(self._captured, tuple(states)))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_captured": None}  # of a copy there is no graph


def _clip(step: int, work: ClipWork, done: Done, unread: Unread | None = None, *, is_replayed: bool = False) -> Clip:
    skipped = done.skipped if unread is None else unread
    judge, each = partial(_outcome_of, done), partial(_each_of, done.before)
    result = ClipResult(step, done.before.total, judge, each, skipped, is_replayed=is_replayed)
    withheld = False if unread is None else unread.withheld
    return Clip(result, work.found, work.is_shared, work.nonfinite, work.differing, withheld)


def _outcome_of(done: Done, skipped: Status | None) -> Outcome:
    """Return what came of a clip; of one that does nothing, the bound where that belongs to what asked for no step."""
    if skipped is not None or not done.steps:
        refusing = done.refusing if skipped is Status.SKIPPED_SPIKE else None
        threshold = None if refusing is None or refusing.scope != "total" else refusing.threshold
        return Outcome(done.before.total, threshold, 1.0, shrunk=False)
    norms, decision = done.steps[0]
    coef, sanitized = decision.coef, done.sanitized
    threshold = done.asked.threshold if done.asked is not None and done.asked.bounds_all_alike else None
    if (
        len(done.steps) == 1 and decision.scope == "total" and decision.clamp is None and decision.skip is False
    ):  # as a rule
        return Outcome(norms.total * coef, threshold, coef, (coef < 1.0) | sanitized)
    left, shrunk = after(norms, decision), shrinks(norms, decision)
    coef = decision.coef if decision.scope == "total" and decision.clamp is None else _ratio(norms, left)
    for own, later in done.steps[1:]:
        left, shrunk = after(own, later), shrunk | shrinks(own, later)
        coef = _ratio(norms, left) if own.order == norms.order else coef * _ratio(own, left)
    return Outcome(left.total, threshold, coef, shrunk | sanitized)


def _each_of(norms: Norms) -> Each | None:
    if norms.each is None:
        return None
    places, each = norms.present, norms.each
    return Each(norms.layout.names, each if places is None else each[indices(places, each.device)], places)


def _ratio(norms: Norms, left: Norms) -> Scalar:
    """Return what the total norm was multiplied by."""
    return where(norms.total == 0.0, 1.0, ratio(left.total, norms.total))
