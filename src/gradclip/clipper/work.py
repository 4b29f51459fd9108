"""What the stages of a clipper work on: gradients, read once a stage and written once at most, and given back whole."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import NamedTuple, final

import torch
from torch import Tensor

from gradclip.clipper.selection import Selection
from gradclip.distributed.agreement import Agreement
from gradclip.distributed.replicas import Differing, differing, everyone, is_same
from gradclip.distributed.span import Span
from gradclip.gradients import GradientSet, collect
from gradclip.gradients.nonfinite import Counts
from gradclip.gradients.told import told
from gradclip.numbers import Scalar, as_float64, is_known, is_one, isfinite, isnan, on_host, where
from gradclip.ops.registry import has_kernels
from gradclip.policies.layout import Scope
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision
from gradclip.stages import Stage, Work

FUNCTION = "GradClipper.clip"

ORDER_OF_TOTAL = 2.0
"""The order of a norm that a caller knows, who does not say which."""

MORE = 1.0 + 1e-5
"""What a norm has to be larger by, as a factor, to be that of more gradients than these: the other may be rounded."""


class Asked(NamedTuple):
    """What one clip is asked for.

    Attributes:
        step: Its number.
        each: Whether to measure the norm of each parameter whatever the policy asks for.
        count: Whether to count the elements that are not finite, where a norm is not.
        compare: Whether to ask all ranks of the program for their norms.
        writes: Whether gradients may have to be written, which those that are measured alone need not bear.
        of_closure: Whether the loss is what a closure has returned, which is that of this rank.
    """

    step: int = 0
    each: bool = False
    count: bool = False
    compare: bool = False
    writes: bool = False
    of_closure: bool = False


@final
@dataclass(eq=False)
class ClipWork(Work):
    """The gradients of one clip.

    A coefficient for all gradients waits for the stages to come, whose norms follow from it by arithmetic. What is left
    of gradients after any other decision has to be measured: it is made at once then, and can be taken back.

    Args:
        selection: The parameters.
        stages: The stages.
        group: The ranks that hold the whole model together, where one collective is to do.
        agreement: What the ranks agree on about unsummed gradients.
        asked: What it is asked for.
        loss: The loss of the step.
        undone: Whether a later stage may take back what those before it did.
        reads: Whether norms are read wherever they are. Where they are not, nobody on the host knows of one on a device
            whether it is in range only once a coefficient is applied, so that this does not wait.
        total: The 2-norm of all gradients, where a caller knows that of more than are here, until the first stage has
            written: it is what is decided from.
        failure: Why this rank cannot clip, if so: to measure raises it, once all ranks know that wait for this one.

    Attributes:
        found: Whether there is any gradient here.
        is_shared: Whether the norms are made of those of several ranks.
        nonfinite: The counts of NaN and of infinite elements here by parameter, where asked for and there may be any.
        differing: The norms of parameters that differ between ranks, where they were compared and total norms do.
    """

    selection: Selection
    stages: Sequence[Stage]
    group: Span | None
    agreement: Agreement
    asked: Asked
    loss: Scalar | None = None
    _: KW_ONLY
    undone: bool = False
    reads: bool = True
    total: Scalar | None = None
    failure: BaseException | None = None
    found: bool = field(default=False, init=False)
    is_shared: bool = field(default=False, init=False)
    nonfinite: Counts | None = field(default=None, init=False)
    differing: Differing | None = field(default=None, init=False)
    _coef: Scalar = field(default=1.0, init=False)
    _waits: bool = field(default=False, init=False)  # that coefficient, to be made
    _before: list[tuple[Tensor, Tensor]] = field(default_factory=list, init=False)
    _gradients: GradientSet = field(init=False)

    def measure(self, stage: Stage) -> tuple[Norms, bool]:
        compares = self.asked.compare and stage is self.stages[0]
        gradients, norms = self._compared(stage) if compares else self._measured(stage)
        if self.total is not None and stage.order == ORDER_OF_TOTAL:
            norms = norms._replace(total=_of_more(self.total, norms.total))
        if not gradients.any_found:
            return norms, False
        if self.asked.count and not (self.reads or is_known(norms.total)) and has_kernels(stage.layout.device):
            self.see_nonfinite(norms)  # which nobody knows in time
        # What waits may bring it in range.
        if self._waits and not math.isfinite(on_host(norms.total)) and not gradients.any_failed:
            self._make(is_last=False)
            gradients, norms = self._measured(stage)
        return norms.scaled(self._coef) if self._waits else norms, True

    def apply(self, stage: Stage, norms: Norms, decision: Decision) -> Decision:
        decision = self.selection.restricted(decision, norms)
        waits = decision.scope == "total" and decision.clamp is None
        if waits:
            is_first = not (self._waits or is_known(decision.coef))  # then it is the product as it is, without a launch
            self._coef = decision.coef if is_first else self._coef * decision.coef
            self._waits = not (is_known(self._coef) and self._coef == 1.0)
        is_last = stage is self.stages[-1]
        if self._waits and (is_last or not waits or not (self.reads or is_known(self._coef))):
            self._make(is_last=is_last)
        if not waits:
            self._keep(is_last=is_last)
            self._apply(stage, norms, decision)
            self.total = None
        return decision

    def sanitize(self, stage: Stage) -> Norms:
        if self.undone or any(later.policy.skips for later in self.stages):
            self._remember()
        self._gradients.sanitize_()
        _, norms = self._measured(stage, in_units=True)
        return norms.scaled(self._coef) if self._waits else norms

    def see_nonfinite(self, norms: Norms) -> None:
        if self.asked.count and self.nonfinite is None:
            self.nonfinite = self._gradients.count_nonfinite(norms.total)

    def complain(self, stage: Stage) -> str:
        return f"The total norm of order {stage.order:g} is not finite, and `nonfinite` is 'raise'. {self.describe()}"

    def describe(self) -> str:
        """Say which gradients are not finite, once they are measured; all ranks have to that hold them."""
        return self._gradients.describe_nonfinite()

    def check_others(self) -> None:
        self._gradients.check_others()

    def tell(self, stage: Stage, error: BaseException) -> None:
        self.failure = error
        try:
            self._measured(stage)
        except BaseException as raised:
            if raised is not error:
                raise

    @property
    def is_heard(self) -> bool:
        return not self.is_shared or self._gradients.is_heard

    def undo(self) -> None:
        with torch.no_grad():
            for gradient, before in self._before:
                gradient.copy_(before)
        self._before = []
        self._coef, self._waits = 1.0, False

    # Measuring.

    def _measured(self, stage: Stage, *, in_units: bool = False) -> tuple[GradientSet, Norms]:
        """Return the gradients, and their norms down to the scope of a stage."""
        scope: Scope = "parameter" if self.asked.each and stage.scope == "total" else stage.scope
        order = stage.order
        self._gradients = gradients = self._collected(order if scope == "total" else None)
        self.found, self.is_shared = bool(gradients.gradients), gradients.is_shared
        layout = stage.layout
        if scope == "total":
            total = gradients.total_norm(order, in_units=in_units)  # which makes the loss known
            return gradients, Norms(layout, order, total, loss=gradients.loss)
        of_units = scope == "unit"
        parts = gradients.unit_norms(stage.units, layout.columns) if of_units else gradients.norms(order)
        norms, present, total, weights = parts
        norms, weights = norms.to(layout.device), None if weights is None else weights.to(layout.device)
        loss, complete = gradients.loss, gradients.complete
        whole = Norms(layout, order, math.nan, weights=weights, present=present, loss=loss, complete=complete)
        whole = whole.with_units(norms) if of_units else whole.with_each(norms)
        if in_units and stage.scope == "total":  # whatever those of each have overflowed to
            total = gradients.total_norm(order, in_units=True)
        return gradients, whole if total is None else whole._replace(total=total)

    def _collected(self, order: float | None) -> GradientSet:
        owners, group, agreement = self.selection.owners, self.group, self.agreement
        if self.failure is not None:
            if (failed := told(self.failure, group, owners, agreement)) is None:
                raise self.failure
            return failed
        found = collect(
            FUNCTION,
            owners,
            order,
            names=self.selection.names,
            writes=self.asked.writes,
            group=group,
            loss=self.loss,
            agreement=agreement,
        )
        if self.asked.of_closure and (span := everyone()) is not None:
            found.forget_loss(unless_all_of=span)  # or ranks would decide by different ones
        return found

    def _compared(self, stage: Stage) -> tuple[GradientSet, Norms]:
        """Measure, and find out whether all ranks have the same norm: whatever happens on this one."""
        if (span := everyone()) is None:
            return self._measured(stage)
        try:
            gradients, norms = self._measured(stage)
        except BaseException:
            is_same(None, span, stage.layout.device)
            raise
        if not is_same(norms.total, span, stage.layout.device):
            self.differing = differing(gradients.copied_norms(stage.order), span)
        return gradients, norms

    # Changing.

    def _make(self, *, is_last: bool) -> None:
        """Make what waits; until then, norms are foreseen."""
        self._keep(is_last=is_last)
        self._gradients.scale_(self._coef)
        self._coef, self._waits, self.total = 1.0, False, None

    def _keep(self, *, is_last: bool) -> None:
        """Remember gradients before they are written, where a stage to come may take that back."""
        if self.undone and not is_last:
            self._remember()

    def _remember(self) -> None:
        self._before = self._before or [(x, x.clone()) for x in self._gradients.gradients]

    def _apply(self, stage: Stage, norms: Norms, decision: Decision) -> None:
        gradients, coef = self._gradients, decision.coef
        if not gradients.gradients:
            return
        if decision.scope == "total" or is_one(coef):
            gradients.scale_(coef)
        elif decision.scope == "parameter":
            gradients.scale_each_(as_float64(coef))
        else:
            gradients.scale_units_(as_float64(coef), stage.units, norms.layout.columns)
        if decision.clamp is not None:
            gradients.clamp_(decision.clamp)


def _of_more(total: Scalar, norm: Scalar) -> Scalar:
    """Return the norm of all gradients, where these are a part of them; else their own, which is more exact."""
    return where(isfinite(norm) & ((total > norm * MORE) | isnan(total)), total, norm)
