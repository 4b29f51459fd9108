"""What clips before the steps of optimizers, hears of all their steps, and keeps those from happening that it skips."""

import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradclip.clipper import misuse
from gradclip.clipper.arguments import check_attachable, check_loss, is_loss, scaler_of, unwrapped
from gradclip.clipper.hooks import Attachment, attach, listen, only_makes_state, release
from gradclip.clipper.overflows import hear, hear_no_more
from gradclip.clipper.pipeline import Clip, Pipeline
from gradclip.clipper.scaling import overflow_in, stepping_scaler, unscale_
from gradclip.clipper.selection import Selection, Source
from gradclip.clipper.skips import Skips
from gradclip.clipper.suppress import Suppression
from gradclip.clipper.trust import Trust
from gradclip.clipper.turn import Turn
from gradclip.clipper.watching import WATCHERS, Unclipped
from gradclip.clipper.withhold import Ground
from gradclip.distributed.replicas import describe
from gradclip.numbers import Condition, Scalar, is_known, on_host
from gradclip.ops.registry import has_kernels
from gradclip.policies import Policy
from gradclip.policies.fixed import measures
from gradclip.records import Sink, Sinks
from gradclip.result import ClipResult, Status
from gradclip.torch_private import fused_scale
from gradclip.tracing import untraced

if TYPE_CHECKING:
    from typing_extensions import Self


class Attaching:
    """A clipper as optimizers see it."""

    policy: Policy
    _selection: Selection
    _pipeline: Pipeline
    _skips: Skips
    _source: Source | None
    _compares_every: int
    _clip: Callable[..., Clip]
    _fail: Callable[..., NoReturn]

    def _listen(self, sinks: tuple[Sink, ...] = ()) -> None:
        """Begin to hear of steps, with nothing clipped yet."""
        self._loss: Scalar | None = None
        self._total: Scalar | None = None  # of more gradients than these, where whoever calls knows it
        self._writes = not measures(self.policy) or self._pipeline.sanitizes  # gradients, unless whoever calls knows
        self._sinks = Sinks(sinks, self.policy)
        self._last: Clip | None = None
        self._attachments: weakref.WeakKeyDictionary[Optimizer, Attachment] = weakref.WeakKeyDictionary()
        self._trust = Trust(self._selection, quiet=measures(self.policy))
        self._suppression = Suppression(self._trust.owns)
        self._turn = Turn()
        self._ground = Ground()
        listen()
        WATCHERS.add(self, (*self._selection.owners, *self._selection.ignored))

    @property
    def last(self) -> ClipResult | None:
        """The result of the last clip, or None."""
        return None if self._last is None else self._last.result

    def attach(self, optimizer: Optimizer, scaler: GradScaler | None = None) -> "Self":
        """Clip before every step of an optimizer.

        A clipper that is attached to several optimizers measures all its parameters together, once for all steps that
        follow one `backward`. Optimizers that do not step together, such as those of two adversaries, need one clipper
        each.

        Args:
            optimizer: Any optimizer that updates parameters of the clipper and evaluates a closure at most once. It may
                be wrapped by Accelerate, Lightning or Fabric, or be SAM with its `base_optimizer`.
            scaler: The `torch.amp.GradScaler` of its loss; by default that of the wrapper, if it has one. Gradients are
                unscaled once, here or by your earlier call of `scaler.unscale_`. If any scaler finds an overflow, the
                scaler skips the step itself. The clipper still learns of such steps: `GradScaler.step` reports them
                while a clipper is attached.

        Returns:
            The clipper. In a `with` statement, it is detached at the end.

        Raises:
            TypeError: If `optimizer` is not an optimizer, is an `LBFGS`, whose line search evaluates unclipped
                gradients, or steps within `backward`, as LOMO.
            ValueError: If the clipper is already attached to it, or it updates no parameter of the clipper.

        Warns:
            MisuseWarning: If another clipper of the same parameters is attached to it.
        """
        scaler = scaler_of(optimizer) if scaler is None else scaler
        optimizer = unwrapped(optimizer)
        check_attachable(optimizer, scaler, attached=optimizer in self._attachments)
        if not self._trust.owns(optimizer):
            raise ValueError(
                f"`GradClipper.attach(optimizer=...)` must update parameters of the clipper, got "
                f"{type(optimizer).__name__} of none of them. Make the clipper from the optimizer: "
                "`GradClipper(optimizer, ...)`."
            )
        others = [x for p in self._selection.owners for x in WATCHERS.of(p) if x is not self and not x._trust.quiet]
        if not self._trust.quiet and any(optimizer in other._attachments for other in others):
            misuse.warn(misuse.ATTACHED_TWICE)
        self._attachments[optimizer] = attach(optimizer, scaler, self._clip_for)
        hear(self)
        self._trust.is_attached = True
        return self

    def detach(self, optimizer: Optimizer | None = None) -> None:
        """Stop clipping before the steps of an optimizer, or of all attached optimizers.

        Raises:
            ValueError: If the clipper is not attached to it.
        """
        self._suppression.recover()
        for one in [unwrapped(optimizer)] if optimizer is not None else list(self._attachments):
            if one not in self._attachments:
                raise ValueError(
                    "`GradClipper.detach(optimizer=...)` must be an optimizer that the clipper is attached to, got "
                    f"{type(one).__name__} that it is not. To detach it from all, pass none."
                )
            release(one, self._attachments.pop(one))
            self._trust.release(one)
        if not self._attachments:
            hear_no_more(self)
        self._ground = Ground()  # which holds what was stepped with
        self._trust.is_attached = bool(self._attachments)
        self._sinks.flush()

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    @untraced
    def _clip_for(self, optimizer: Optimizer, loss: Any, *, alone: bool = False) -> Tensor | None:
        """Clip for the step of an attached optimizer, or keep it from happening.

        Where nobody but this clipper has a say in the step, it may return, on a device, whether to do so.
        """
        with self._turn:
            self._suppression.check_thread()
            if self._suppression.is_complete() or only_makes_state():  # of a suppressed step, or none of training
                return None
            return self._clip_attached(optimizer, loss, reads=not (alone and self._can_withhold(optimizer)))

    def _can_withhold(self, optimizer: Optimizer) -> bool:
        is_only = len(self._attachments) == 1 and self._trust.is_outermost and not self._suppression.is_on
        hears = is_only and self._skips.can_hear_later(self._selection.device)
        may_be = hears and self._compares_every == 0 and self._pipeline.can_run_unread
        counts = may_be and (not self._sinks.wanted or has_kernels(self._selection.device))  # what a record names
        return counts and self._ground.allows(optimizer, self._selection.owners)

    def _clip_attached(self, optimizer: Optimizer, loss: Any, *, reads: bool) -> Tensor | None:
        self._trust.before_attached_clip(optimizer, scaled=self._is_loss_scaled(optimizer))
        of_closure = self._loss is None  # as none was told
        try:
            if of_closure and is_loss(loss):
                self._loss = check_loss("GradClipper.observe_loss", loss)
            overflow = self._unscale(optimizer, reads=reads)
        except Exception as error:
            if self._trust.is_clipped_for(optimizer):
                raise
            self._fail(error)
        if (clip := self._last) is None or not self._trust.is_clipped_for(optimizer):
            clip = self._clip(optimizer, overflow=overflow, reads=reads, of_closure=of_closure)
            if not clip.found and self._trust.is_of_others(optimizer):
                raise RuntimeError(
                    f"`GradClipper` found no gradient of its own parameters, and {type(optimizer).__name__} updates "
                    "others by now, as `fully_shard` and `accelerator.prepare` put them in place. Make the clipper, "
                    "and attach it, after that."
                )
        if not reads and not is_known(clip.withheld):
            return clip.withheld
        self._obey(clip)
        return None

    def _obey(self, clip: Clip) -> None:
        """Keep the step from happening where a clip says so; then warn where ranks were found to differ."""
        self._suppression.obey(clip.result)
        if clip.differing is not None:
            self._trust.warn("replicas", describe(clip.differing))

    def _unscale(self, stepping: Optimizer, *, reads: bool) -> Condition:
        """Unscale what is clipped together; return whether a scaler found an overflow in it."""
        overflow: Condition = False
        scalers: dict[Optimizer, GradScaler | None] = {stepping: None}
        if (own := self._attachments.get(stepping)) is not None:
            scalers[stepping] = own.scaler
        if len(self._attachments) > 1 or own is None:
            scalers |= {optimizer: attachment.scaler for optimizer, attachment in list(self._attachments.items())}
        for optimizer, scaler in scalers.items():
            if optimizer is stepping or self._trust.has_fresh_gradients(optimizer):
                unscale_(optimizer, scaler)
                found = overflow_in(optimizer, scaler)
                overflow = (bool(on_host(found)) if reads else found) | overflow
        return overflow

    def _is_loss_scaled(self, optimizer: Optimizer) -> bool:
        """Whether the last clip, of the gradients of a step that begins, saw them multiplied by a loss scale."""
        if fused_scale(optimizer) is not None:  # by which a fused optimizer divides
            return self.last is None or self.last._skipped is not Status.SKIPPED_SCALER  # which did not clip
        if self._last is not None and self._last.is_shared:  # a look at the norm would have all ranks wait
            return False
        if self.last is None or self._trust.steps_of(optimizer) > 0 or not self._trust.is_as_clipped(optimizer):
            return False
        if (scaler := stepping_scaler()) is None:
            return False
        after, scale = self.last.total_norm_after, scaler.get_scale()
        # A scaler leaves no other trace: a norm nearer to what its division makes of that after the clip than to that.
        return math.isfinite(after) and (self._pipeline.total_norm() * math.sqrt(scale) - after) * (scale - 1.0) < 0.0

    # Hearing of the steps of its parameters.

    def _follow(self) -> None:
        """Take up the parameters that the optimizer which the clipper was made from has got since."""
        if self._source is not None:
            self._source.follow(self._work_on)

    def _work_on(self, selection: Selection) -> None:
        """Go on with other parameters, those of the same name as before."""
        self._pipeline = self._pipeline.with_selection(selection)
        self._selection = selection
        WATCHERS.add(self, [p for p in (*selection.owners, *selection.ignored) if not self._trust.covers(p)])
        self._trust.follow(selection)

    def _step_begins(self, optimizer: Optimizer) -> None:
        """Look at a step of any optimizer, and suppress one that `clip`, called by hand, has skipped."""
        self._follow()
        if not self._trust.owns(optimizer):
            return
        self._suppression.recover(within=1)
        attached = optimizer in self._attachments
        scaled = not attached and self._is_loss_scaled(optimizer)
        self._trust.step_begins(optimizer, attached=attached, scaled=scaled)
        if attached or self._suppression.is_on:
            return
        skipped = None if self.last is None else self.last.skipped
        if skipped not in {None, Status.SKIPPED_SCALER} and self._trust.is_as_clipped(optimizer):
            self._suppression.suppress()

    def _step_ends(self, optimizer: Optimizer, unclipped: Unclipped) -> None:
        """Put things back after a step."""
        if not self._trust.owns(optimizer):
            return
        self._suppression.recover(within=1)
        self._trust.step_ends(optimizer, unclipped, attached=optimizer in self._attachments)

    def _hear_overflow(self, optimizer: Optimizer) -> None:
        """Hear of a step of any optimizer that a scaler kept from happening."""
        if optimizer in self._attachments and self._trust.owns(optimizer):
            self._leave_out(optimizer)

    def _leave_out(self, optimizer: Optimizer) -> None:
        """Count a step as skipped that a scaler kept from happening, without a call of the optimizer."""
        with self._turn:
            if not self._has_just_clipped(optimizer):  # together with what another optimizer updates
                self._clip(optimizer, overflow=True)

    def _clip_before(self, optimizer: Optimizer, loss: object) -> None:
        """Clip for a step that has begun, of an optimizer that the clipper is not attached to."""
        if self._trust.owns(optimizer):
            self._clip_for(optimizer, loss)

    def _has_just_clipped(self, optimizer: Optimizer) -> bool:
        """Whether the gradients that an optimizer is about to use are as the last clip left them."""
        return self._trust.owns(optimizer) and self._trust.is_clipped_for(optimizer)

    def _clips_for(self, optimizer: Optimizer) -> bool:
        """Whether it clips for a step that has begun: attached to that optimizer, or by hand since the step before."""
        trust = self._trust
        return trust.owns(optimizer) and (optimizer in self._attachments or not trust.has_stepped(optimizer))

    @property
    def _clips(self) -> bool:
        """Whether it clips, or is attached and about to."""
        return (self._trust.clips > 0 or len(self._attachments) > 0) and not self._trust.quiet
