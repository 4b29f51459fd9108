"""Notice when clipping cannot have worked: one warning for each mistake, with the line to change.

Two kinds of events tell: the clips of a clipper, and the steps of the optimizers that own its parameters, attached or
not, which torch's hooks report. At each event it is looked at which gradients changed since the last clip and since the
last step. From this order follows what went wrong; the right loop, in all its forms, gives no warning.
"""

import weakref
from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.optim import Optimizer

from gradclip.clipper import misuse
from gradclip.clipper.hooks import running_steps
from gradclip.clipper.marks import NONE, Mark, is_same, is_same_first, mark, mark_first, watched, writes_since
from gradclip.clipper.pipeline import Clip
from gradclip.clipper.selection import Selection, parameters_in, size_of
from gradclip.clipper.watching import WATCHERS, Unclipped
from gradclip.distributed.layout import may_have_gradient
from gradclip.numbers import is_known
from gradclip.parameters import some

EMPTY = 3
"""Clips by hand in a row without any gradient that are reported."""

PATIENCE = 100
"""Steps of one optimizer after which a parameter that none has updated is reported, and clips without a gradient."""


@final
@dataclass(slots=True, eq=False)
class Known:
    """What is known of an optimizer.

    Attributes:
        places: Where its parameters are among the watched ones; none where it updates no parameter of the clipper.
        size: The number of its parameters when this was found out.
        steps: How many steps it took.
        due: After how many it is looked at who clips and updates what: seldom, and always again, as layers may thaw.
        clip: The number of the last clip before its last step.
        ready: Whether its gradients had been clipped when its step began, or would be.
        released: Whether the clipper was detached from it, and leaves it alone.
        first: The first of its gradients at the last clip, where it had none that is watched.
    """

    places: list[int]
    size: int
    steps: int = 0
    due: int = 1
    clip: int = 0
    ready: bool = False
    released: bool = False
    first: tuple[Tensor, Mark] | None = None


@final
class Trust:
    """The misuse that one clipper can notice.

    Args:
        selection: The parameters of the clipper.
        quiet: Whether to give no warning, as where a clipper only measures.
    """

    def __init__(self, selection: Selection, *, quiet: bool) -> None:
        self.quiet = quiet
        self.is_attached = False  # to any optimizer, be it gone: whoever forgot another is not told to attach at all
        self._warned: set[str] = set()
        self._optimizers: weakref.WeakKeyDictionary[Optimizer, Known] = weakref.WeakKeyDictionary()
        self._watch(selection)

    def follow(self, selection: Selection) -> None:
        """Watch more parameters; what was seen of optimizers stays, and what was seen of gradients is forgotten."""
        before, self._optimizers = self._optimizers, weakref.WeakKeyDictionary()
        self._watch(selection)
        for optimizer, known in before.items():
            self.owns(optimizer)
            now = self._optimizers[optimizer]
            now.released, now.steps, now.due = known.released, known.steps, known.due

    def _watch(self, selection: Selection) -> None:
        places = watched(selection.owners)
        self._selection = selection
        self._owners = [selection.owners[i] for i in places]
        self._names = [selection.names[i] for i in places]
        self._covered = {id(p) for p in (*selection.owners, *selection.ignored)}
        self.clips = 0  # the number of the last, and what it left
        self._at_clip: list[Mark] = []
        self._found = False  # any gradient
        self._by_hand = False
        self._late = False  # after the step that it was for
        self._empty = self._zeros = 0  # clips in a row that found no gradient, and none but zeros
        self._repeats = 1  # clips by hand without a step in between, of gradients that were added to
        self._depth = 0  # of steps that run: optimizers that call each other take one together, the outermost
        self._at_step: list[Mark] = []
        self._step_at = 0  # the number of the last clip before it
        self._step_clipped = False
        self._step_attached = False

    # What the clipper tells.

    def covers(self, parameter: Tensor) -> bool:
        """Whether a parameter is one of the clipper's, be it to be left alone."""
        return id(parameter) in self._covered

    def owns(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer updates a parameter of the clipper: found out anew where it has got more of them."""
        known = self._optimizers.get(optimizer)
        size = size_of(optimizer)
        if known is None or known.size != size:
            owned = {*map(id, parameters_in(optimizer))}
            places = [i for i, owner in enumerate(self._owners) if id(owner) in owned]
            known = Known(places or self._watch_one_more(owned), size, released=known is not None and known.released)
            self._optimizers[optimizer] = known
        return bool(known.places)

    @property
    def is_outermost(self) -> bool:
        """Whether the step that runs is part of no other's that updates parameters of the clipper."""
        return self._depth == 1

    def is_of_others(self, optimizer: Optimizer) -> bool:
        """Whether all gradients of an optimizer, here or elsewhere, are of parameters that are not the clipper's."""
        owners = [p for p in parameters_in(optimizer) if may_have_gradient(p)]
        return len(owners) > 0 and not any(map(self.covers, owners))

    def release(self, optimizer: Optimizer) -> None:
        """Let an optimizer step without clipping from now on."""
        self._optimizers[optimizer].released = True

    def is_as_clipped(self, optimizer: Optimizer) -> bool:
        """Whether the gradients of an optimizer are as the last clip left them."""
        return self.clips > 0 and self._changed_place(self._optimizers[optimizer]) is None

    def is_clipped_for(self, optimizer: Optimizer) -> bool:
        """Whether the last clip, by hand or for another optimizer, was for the next step of this one too."""
        if self.has_stepped(optimizer) or not self.is_as_clipped(optimizer):
            return False
        known = self._optimizers[optimizer]
        return self._by_hand or self._is_watched(known) or is_same_first(parameters_in(optimizer), known.first)

    def has_stepped(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer has stepped since the last clip."""
        return self._optimizers[optimizer].clip == self.clips

    @property
    def has_any_stepped(self) -> bool:
        """Whether any optimizer has stepped since the last clip."""
        return self._step_at == self.clips

    def steps_of(self, optimizer: Optimizer) -> int:
        """Return how many steps an optimizer took."""
        return self._optimizers[optimizer].steps

    def has_fresh_gradients(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer has a gradient that was not there yet when the last step was over."""
        places = [i for i in self._optimizers[optimizer].places if self._owners[i].grad is not None]
        return any(not self._at_step or not is_same(self._owners[i], self._at_step[i]) for i in places)

    def before_clip(self) -> None:
        """Judge the place of a `clip()` by hand in the loop, before it changes anything."""
        self._late = False
        if self._at_step and self._is_unchanged_since_step():
            if self._step_attached:
                self._warn("by hand", misuse.BY_HAND_TOO)
            elif not self._step_clipped:
                self._late = True
                self._warn("order", misuse.AFTER_STEP)
        repeated = self._by_hand and self._step_at < self.clips and self._was_added_to()
        self._repeats = self._repeats + 1 if repeated else 1

    def after_clip(self, clip: Clip, *, by_hand: bool) -> None:
        """Remember what a clip left, and whether it found any gradient here, or zeros alone; others may have some."""
        self._empty = 0 if clip.found or clip.is_shared else self._empty + 1
        if by_hand and self._empty == EMPTY and not any(k.steps for k in self._optimizers.values() if k.places):
            self._warn("no gradient", misuse.NO_GRADIENT.format(count=EMPTY))
        if self._empty == PATIENCE:
            self._warn("no gradient", misuse.NEVER_A_GRADIENT.format(count=PATIENCE))
        total = clip.result._total
        self._zeros = self._zeros + 1 if clip.found and is_known(total) and total == 0.0 else 0
        if self._zeros == PATIENCE:
            self._warn("only zeros", misuse.ONLY_ZEROS.format(count=PATIENCE))
        self.clips += 1
        self._at_clip = mark(self._owners)
        if NONE in self._at_clip:  # or each optimizer has a gradient that is watched
            for optimizer, known in self._optimizers.items():
                known.first = None if self._is_watched(known) else mark_first(parameters_in(optimizer))
        self._by_hand, self._found = by_hand, clip.found

    # What torch's hooks tell.

    def before_attached_clip(self, optimizer: Optimizer, *, scaled: bool) -> None:
        """Judge the last clip, where an attached optimizer steps on the gradients that it left."""
        if self._found and self.is_clipped_for(optimizer):
            if self._by_hand:
                self._warn("by hand", misuse.BY_HAND_TOO)
            elif scaled:
                self._warn("order", misuse.LOSS_SCALE)

    def step_begins(self, optimizer: Optimizer, *, attached: bool, scaled: bool) -> None:
        """Judge the last clip, where the optimizer that steps is not attached; `scaled` if it saw a scaled loss."""
        known = self._optimizers[optimizer]
        if self._depth:  # of this step too, unless the one before has raised
            self._depth = sum(self.owns(running) for running in running_steps()[1:])
        self._depth += 1
        if self._depth > 1:
            return
        stepped = self.has_stepped(optimizer)
        known.ready = attached or not stepped or self.is_as_clipped(optimizer)
        if attached or self._late or stepped:
            return
        place = self._changed_place(known)
        if scaled:
            self._warn("order", misuse.LOSS_SCALE)
        elif place is None and self._repeats > 1:
            self._warn("order", misuse.EVERY_BATCH.format(count=self._repeats))
        elif place is not None and not self._found:
            self._warn("order", misuse.BEFORE_BACKWARD)
        elif place is not None and self._is_unclipped(known):
            changed = misuse.CHANGED.format(name=self._names[place])
            self._warn("order", changed if self._by_hand else self._never())

    def step_ends(self, optimizer: Optimizer, unclipped: Unclipped, *, attached: bool) -> None:
        """Judge a step after all, and remember which gradients it used."""
        known = self._optimizers[optimizer]
        self._depth -= 1
        clipped = known.ready or not self.has_stepped(optimizer)
        if self._depth == 0 and known.steps and not clipped and not known.released and self._is_unclipped(known):
            self._warn("order", self._never())
        known.steps += 1
        known.clip = self.clips
        self._at_step = mark(self._owners)
        self._step_at, self._step_attached = self.clips, attached
        self._step_clipped = clipped and not self._late
        if known.steps == known.due and not self.quiet:
            known.due = max(PATIENCE, 2 * known.due)
            self._judge_coverage(known, unclipped)

    # How it finds out.

    def _watch_one_more(self, owned: set[int]) -> list[int]:
        """Watch a parameter of an optimizer too that owns none of those watched so far."""
        owners = self._selection.owners
        places = [i for i, owner in enumerate(owners) if id(owner) in owned]
        if not places:
            return []
        place = max(places, key=lambda i: owners[i].requires_grad)
        self._owners.append(owners[place])
        self._names.append(self._selection.names[place])
        if self._at_clip:
            self._at_clip += mark([owners[place]])
        if self._at_step:
            self._at_step.append(NONE)
        return [len(self._owners) - 1]

    def _is_watched(self, known: Known) -> bool:
        return any(self._owners[i].grad is not None for i in known.places)

    def _changed_place(self, known: Known) -> int | None:
        return next((i for i in known.places if not is_same(self._owners[i], self._at_clip[i])), None)

    def _is_unchanged_since_step(self) -> bool:
        return all(map(is_same, self._owners, self._at_step)) and any(x.grad is not None for x in self._owners)

    def _was_added_to(self) -> bool:
        """Whether just one `backward` took place since the last clip: setting gradients to 0 is one more write."""
        writes = [writes_since(owner, before) for owner, before in zip(self._owners, self._at_clip, strict=True)]
        return 1 in writes and {*writes} <= {0, 1}  # of others, it was made anew or set to 0

    def _is_unclipped(self, known: Known) -> bool:
        owners = [self._owners[i] for i in known.places if self._owners[i].grad is not None]
        others = (other for p in owners for other in WATCHERS.of(p) if other._trust is not self)
        return bool(owners) and not any(other._clips for other in others)

    def _never(self) -> str:
        return misuse.NEVER_OF_THIS if self.is_attached else misuse.NEVER

    def _judge_coverage(self, known: Known, unclipped: Unclipped) -> None:
        missing = [name for name, p in unclipped() if not self.covers(p)]
        if missing:
            self._warn("not clipped", misuse.NOT_CLIPPED.format(count=len(missing), names=some(missing)))
        if missing or known.steps < PATIENCE:  # parameters that were replaced, nobody updates either
            return
        updated = {id(p) for other in self._optimizers for p in parameters_in(other)}
        pairs = zip(self._selection.names, self._selection.owners, strict=True)
        unused = [name for name, p in pairs if p.grad is not None and id(p) not in updated]
        if unused:
            self._warn("not updated", misuse.NOT_UPDATED.format(count=len(unused), names=some(unused)))

    def _warn(self, mistake: str, message: str) -> None:
        if not self.quiet:
            self.warn(mistake, message)

    def warn(self, mistake: str, message: str) -> None:
        """Warn once of a mistake."""
        if mistake not in self._warned:
            self._warned.add(mistake)
            misuse.warn(message)
