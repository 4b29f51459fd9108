"""The pipeline tied to an optimizer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, final, get_args

from torch import Tensor
from torch.optim import Optimizer

from gradclip.clipper.arguments import (
    NonFiniteStep,
    check_loss,
    check_max_skips,
    check_pattern_list,
    check_sinks,
    unwrapped,
)
from gradclip.clipper.attaching import Attaching
from gradclip.clipper.pipeline import Clip, Pipeline
from gradclip.clipper.selection import Source, select
from gradclip.clipper.skips import LATE, Skips
from gradclip.clipper.work import Asked
from gradclip.distributed.span import Group, spanning
from gradclip.exceptions import ConsecutiveSkipsError
from gradclip.numbers import Condition, on_host
from gradclip.parameters import Parameters
from gradclip.policies import FixedNorm, Policy
from gradclip.policies.holds import COUNT
from gradclip.policies.policy import check_policies
from gradclip.policies.saving import refuse_number, refuse_state
from gradclip.records import Sink
from gradclip.result import ClipResult, Status
from gradclip.tracing import is_captured, untraced
from gradclip.validation import check_number, check_word

TRANSIENT = ("_attachments", "_ground", "_last", "_loss", "_sinks", "_source", "_suppression", "_trust", "_turn")
"""What is not copied or pickled with a clipper."""

KEEPS = "What functions call 'keep' is 'skip' here."
"""The remedy for a word that only functions know."""

ENTRIES = ("step", "skips", "parameters", "stages")
"""What is saved of one: how many clips, how many skips in a row, its parameters, and what it has learned."""


@final
class GradClipper(Attaching):
    r"""Clip the gradients of parameters by a policy, once for every step of their optimizer.

    Args:
        parameters: What to clip together: a module, an optimizer, a tensor, or an iterable of tensors or of (name,
            tensor) pairs. Each parameter counts once. Parameters that this optimizer gets later, by `add_param_group`
            or in place of others, are clipped from then on.
        policy: One of `gradclip.policies`; by default, `FixedNorm(1.0)`.
        nonfinite: What to do if the total norm is NaN or infinite. `"skip"` skips the step of the optimizer: no bit of
            the parameters, the optimizer state or the step counts changes, and the gradients are left untouched.
            `"raise"` raises an error with the names of the parameters; `"sanitize"` sets non-finite elements to 0 and
            clips the rest; `"propagate"` lets the policy compute with the norm.
        max_consecutive_skips: How many steps in a row may be skipped; `math.inf` for no limit. Overflows that a
            `GradScaler` finds do not count, unless you call `clip` by hand, which cannot tell them from other skips.
        counted_only: Patterns of names, with shell wildcards as in `"blocks.*.weight"`, of parameters that count in the
            norm but are not scaled, such as those of an optimizer that normalises (Muon).
        ignored: Patterns of names of parameters that are neither clipped nor counted.
        norms_every: Every how many clips to measure the norm of each parameter, for `ClipResult.norms` and `worst`; 0
            to measure it only if the policy needs it. It takes no second pass.
        sinks: Callables that take a `ClipRecord` of each clip.
        group: A process group or mesh of all ranks that hold the model together. One collective per clip is then
            enough, and a rank may have no parameters. What the tensors do not say about these ranks has to be declared,
            see `gradclip.distributed`.
        check_replicas_every: Every how many clips, beginning with the first, to compare the total norm over all ranks
            of the program; 0 for never. Ranks that hold copies of a model get different norms if gradients were not
            reduced, as inside `no_sync()`. A `MisuseWarning` then names the parameters. The check takes one small
            collective and waits for it, so all ranks have to clip at the same steps.

    Attributes:
        policy: The policy.
        last: The result of the last clip, or None.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range, a pattern matches nothing, or the policy does not fit the parameters.

    Example:
        >>> import torch, gradclip
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> clipper = gradclip.GradClipper(model, gradclip.policies.ZClip(max_norm=1.0))
        >>> clipper.attach(optimizer)  # every optimizer.step() now clips first
        GradClipper(2 parameters, ZClip(max_norm=1.0, ...), attached to 1 optimizer)
        >>> model(torch.ones(4, 2)).square().sum().backward()
        >>> optimizer.step()
        >>> clipper.last.total_norm_after <= 1.0
        True

    Note:
        *Distributed:* norms are those of the whole model, as in `clip_grad_norm_`, so every rank that holds a part of
        the model decides and learns the same. Norms of single parameters take one number for each parameter over the
        network, and norms of units, as in `AGC`, one for each unit. All of these ranks need the same arguments, except
        `sinks`.

        *Host sync:* on a device other than the CPU, every `nonfinite` except `"propagate"`, and every policy that
        skips, waits for one number per step. `"skip"` and such policies do not wait before a step of a fused Adam,
        AdamW, SGD or Adagrad, and `ConsecutiveSkipsError` is then four steps late. They still wait with a `schedule`, a
        chain of several norms, or a `warmup` of a policy that remembers all norms.

        *Threads:* only one thread may use a clipper at a time. A clip while another thread clips, or is in a skipped
        step, raises a `RuntimeError`.

        Attachments and sinks are not copied or pickled, neither with a clipper nor with an optimizer: call `attach`
        again. A copy also forgets which optimizer it was made from, and does not clip parameters that this optimizer
        gets later.
    """

    def __init__(
        self,
        parameters: Parameters,
        policy: Policy | None = None,
        *,
        nonfinite: NonFiniteStep = "skip",
        max_consecutive_skips: float = 25,
        counted_only: Sequence[str] = (),
        ignored: Sequence[str] = (),
        norms_every: int = 0,
        sinks: Sequence[Sink] = (),
        group: Group | None = None,
        check_replicas_every: int = 0,
    ) -> None:
        self.policy = FixedNorm(1.0) if policy is None else policy
        check_policies("GradClipper", (self.policy,))
        check_word("GradClipper", "nonfinite", nonfinite, get_args(NonFiniteStep), KEEPS)
        self._skips = Skips(check_max_skips(max_consecutive_skips))
        self._every = int(check_number("GradClipper", "norms_every", norms_every, at_least=0, integer=True))
        compares = check_number("GradClipper", "check_replicas_every", check_replicas_every, at_least=0, integer=True)
        self._compares_every = int(compares)
        given = check_sinks("GradClipper", sinks)
        span = spanning("GradClipper", group)
        patterns = check_pattern_list("counted_only", counted_only), check_pattern_list("ignored", ignored)
        source: Any = unwrapped(parameters) if isinstance(parameters, Optimizer) else parameters
        self._selection = select(source, *patterns, may_be_empty=group is not None)
        self._source: Source | None = None
        self._patterns = patterns
        if isinstance(source, Optimizer):
            self._take_from(source, lambda optimizer: optimizer)
        self._pipeline = Pipeline(self.policy, self._selection, nonfinite, span)
        self._step = 0
        self._listen(given)

    # Clipping.

    @untraced
    def clip(self, *, loss: float | Tensor | None = None) -> ClipResult:
        """Clip now: between `loss.backward()` and `optimizer.step()`, once per step. Not needed after `attach`.

        Args:
            loss: The loss of the step, for policies that use it.

        Returns:
            What was done. If `result.skipped` is not None, the optimizer's next step on these gradients is skipped.

        Raises:
            ConsecutiveSkipsError: If more steps in a row were skipped than allowed.
            NonFiniteGradientError: If the total norm is not finite and `nonfinite` is `"raise"`.
            OverlappingGradientError: If a gradient cannot be written in place.
            RemoteError: If another rank cannot clip.

        Warns:
            MisuseWarning: If clipping cannot have worked at this place in the training loop.
        """
        with self._turn:
            self._suppression.check_thread()
            try:
                self._follow()
                if loss is not None:
                    self._loss = check_loss("GradClipper.clip", loss)
                self._suppression.recover()
                self._trust.before_clip()
            except Exception as error:  # noqa: BLE001 -- raised once all know, whatever it is
                self._fail(error)
            clip = self._clip()
            self._obey(clip)  # in the step whose closure this is, if it is one
        return clip.result

    def observe_loss(self, loss: float | Tensor) -> None:
        """Pass the loss of the next step to the policy, if you do not call `clip` by hand.

        The loss that a closure returns is passed without this call. On several ranks, the policy gets the loss of a
        closure only if the norm is computed from all of them, and then its mean. Otherwise, as under DDP, pass a loss
        that is the same on all ranks.
        """
        self._loss = check_loss("GradClipper.observe_loss", loss)

    def _clip(
        self,
        stepping: Optimizer | None = None,
        *,
        overflow: Condition = False,
        reads: bool = True,
        of_closure: bool = False,
    ) -> Clip:
        """Clip, for the step of an optimizer or by hand, or not where a scaler found an overflow.

        Where it `reads` nothing, whether the step happens is left on the device where the norm is.
        """
        loss, self._loss = self._loss, None  # told for this step, whatever becomes of it
        asked, skips = self._asked(), self._skips
        if of_closure and loss is not None:
            asked = asked._replace(of_closure=True)
        late, too_many, reason = skips.hear(but=0 if reads else LATE - 1), False, ""
        if not reads and not late:
            clip, withheld = self._pipeline.run_unread(asked, loss, overflow, skips)
            skips.take(withheld)
        elif overflow is not False and on_host(overflow):
            clip = self._pipeline.overflow(asked)
        else:
            clip = self._pipeline.run(asked, loss, self._total)
            too_many = skips.count(skipped=clip.result.skipped is not None) or late > 0
            if too_many and clip.result.skipped is Status.SKIPPED_NONFINITE:
                reason = f" {self._pipeline.describe()}"  # before anything of this rank alone may fail, as a sink
        self._step, self._last = asked.step, clip
        self._trust.after_clip(clip, by_hand=stepping is None)
        if asked.count:
            self._sinks.record(clip.result, stepping, loss, clip.nonfinite, norms=asked.each)
        if too_many:
            raise ConsecutiveSkipsError(skips.complaint(clip.result.skipped, reason, late))
        return clip

    def _asked(self) -> Asked:
        """Return what the next clip is asked for: no record in a graph that is captured, where nothing can be read."""
        step, every, compares_every = self._step + 1, self._every, self._compares_every
        each = every > 0 and step % every == 0
        compare = compares_every > 0 and self._step % compares_every == 0  # the first one too
        count = self._sinks.wanted and not is_captured(self._selection.device)
        return Asked(step, each, count, compare, self._writes)

    def _fail(self, error: Exception) -> NoReturn:
        """Raise an error that comes before a clip, once all ranks know of it that clip together."""
        self._pipeline.fail(self._asked()._replace(count=False), error)

    def _take_from(self, optimizer: Optimizer, named: Callable[[Optimizer], Parameters]) -> None:
        """Take up parameters that an optimizer gets later, under the names that `named` has for them."""
        patterns = self._patterns
        self._source = Source(optimizer, lambda own: select(named(own), *patterns))

    # Saving.

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs to continue bit for bit: numbers, words, lists and dicts by name.

        You can load it with `torch.load(weights_only=True)`, or save it as JSON. Attachments and sinks are not part of
        it.
        """
        self._follow()
        names, stages = list(self._selection.names), self._pipeline.state_dict()
        return {"step": self._step, "skips": self._skips.read(), "parameters": names, "stages": stages}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state; hyper-parameters stay those of this clipper.

        Raises:
            ValueError: If the state comes from another policy or other parameters, or holds a value that no run can
                have saved, such as a mean that is NaN. Nothing is changed then.
        """
        self._follow()
        names: Any = self._selection.names
        if not isinstance(state_dict, Mapping) or not {*ENTRIES} <= {*state_dict}:
            refuse_state("the top", ENTRIES, state_dict)
        step, skips, parameters, stages = (state_dict[entry] for entry in ENTRIES)
        for name, count in (("step", step), ("skips", skips)):
            if not COUNT.holds(count):
                refuse_number(name, str(COUNT), count)
        if not isinstance(parameters, (list, tuple)):
            refuse_state("parameters", names, parameters)
        given = dict.fromkeys(map(str, parameters))
        if self._pipeline.has_names and set(given) != set(names):
            refuse_state("parameters", names, given)
        self._pipeline.load_state_dict(stages)
        self._step = int(step)
        self._skips.load(int(skips))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in TRANSIENT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._source = None
        self._listen()

    def __repr__(self) -> str:
        count, attached = len(self._selection.owners), len(self._attachments)
        to = f", attached to {attached} optimizer{'s' * (attached > 1)}" if attached else ""
        return f"GradClipper({count} parameters, {self.policy!r}{to})"
