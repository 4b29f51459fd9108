"""Clip in Lightning: as a callback of a `Trainer`, of `lightning` and of `pytorch_lightning`; and with Fabric."""

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch.nn import Module
from torch.optim import Optimizer

from gradclip.clipper import GradClipper
from gradclip.clipper.arguments import unwrapped
from gradclip.clipper.selection import parameters_in
from gradclip.integrations.shared import Logging, OfOptimizer, clipper_of, metrics_of, policy_of, refuse_twice
from gradclip.policies import Policy
from gradclip.records import Memory, Sink

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Two names of one thing, whose trainers take callbacks of their own kind alone."""


def _bases() -> tuple[type, ...]:
    found = [import_module(name) for name in PACKAGES if find_spec(name.partition(".")[0]) is not None]
    if not found:
        raise ModuleNotFoundError("this integration needs Lightning: pip install lightning", name="lightning")
    return tuple(module.Callback for module in found)


class GradClipCallback(*_bases()):  # type: ignore[misc] -- of what is installed
    """Clip by a policy before every step of the optimizers of a module, with automatic or manual optimization.

    Args:
        policy: A policy or a `max_norm` for all optimizers, or a list with one for each optimizer.
        sinks: Callables that take a record of every clip of every optimizer. If there are several optimizers, `group`
            says which one, such as "optimizer1".
        options: Other arguments of `GradClipper`: `nonfinite`, `norms_every`, and so on.

    Attributes:
        clippers: One for each optimizer, in order, during and after training.

    Raises:
        RuntimeError: If the module calls `self.clip_gradients`, because both would clip.
        ValueError: When training begins, if the trainer has a `gradient_clip_val`, if DeepSpeed takes the steps, or if
            there are not as many policies as optimizers.

    Example:
        `Trainer(callbacks=[GradClipCallback(ZClip(max_norm=1.0))])`

    Note:
        `gradclip/total_norm` and so on are logged at every step, by the trainer's own logger. The states of the
        clippers are saved in every checkpoint, and a resumed run continues from them.
    """

    def __init__(
        self, policy: Policy | float | Sequence[Policy | float] = 1.0, *, sinks: Sequence[Sink] = (), **options: Any
    ) -> None:
        super().__init__()
        self.clippers: list[GradClipper] = []
        self._policy = policy
        self._sinks = sinks
        self._options = options
        self._latest: list[Memory] = []
        self._loaded: list[dict[str, Any]] | None = None
        self._plugin: Any = None

    def on_train_start(self, trainer: Any, pl_module: Module) -> None:
        """Attach a clipper to each optimizer."""
        self._end()
        if trainer.gradient_clip_val:
            msg = (
                f"`GradClipCallback` and `Trainer(gradient_clip_val={trainer.gradient_clip_val})` would both clip. "
                "Leave out `gradient_clip_val`, and pass the bound to the callback."
            )
            raise ValueError(msg)
        if "deepspeed" in type(trainer.strategy).__name__.lower():
            raise ValueError("`GradClipCallback` cannot clip in DeepSpeed, whose optimizer clips by its configuration.")
        policies = self._policies(len(trainer.optimizers))
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        trainer.precision_plugin.clip_gradients = self._refusing(trainer.precision_plugin.clip_gradients)
        self._plugin = trainer.precision_plugin
        self._latest = [Memory(maxlen=1) for _ in policies]
        sinks = [
            [*(self._sinks if len(policies) == 1 else [OfOptimizer(f"optimizer{i}", x) for x in self._sinks]), latest]
            for i, latest in enumerate(self._latest)
        ]
        self.clippers = []
        for optimizer, policy, own in zip(trainer.optimizers, policies, sinks, strict=True):
            self.clippers.append(clipper := clipper_of(pl_module, optimizer, policy, own, self._options))
            clipper.attach(optimizer, scaler)  # or all that are listed are detached
        loaded, self._loaded = self._loaded, None
        if loaded is not None and len(loaded) != len(self.clippers):
            msg = f"the checkpoint has the clippers of {len(loaded)} optimizers, and {len(self.clippers)} are trained."
            raise ValueError(msg)
        for clipper, saved in zip(self.clippers, loaded or [], strict=False):
            clipper.load_state_dict(saved)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:  # noqa: ARG002
        """Log what clipping did."""
        for i, (clipper, latest) in enumerate(zip(self.clippers, self._latest, strict=True)):
            prefix = "" if len(self._latest) == 1 else f"optimizer{i}/"
            if metrics := metrics_of(clipper, latest):
                pl_module.log_dict({f"{prefix}{name}": value for name, value in metrics.items()}, rank_zero_only=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        """Leave the optimizers as they were."""
        self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """The same."""
        self._end()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:  # noqa: ARG002
        """The same, where a tuner has ended it; forget a checkpoint that was loaded to validate, not to train on."""
        self._end()
        self._loaded = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the clippers, or those that are about to be taken up."""
        return {"clippers": self._loaded or [clipper.state_dict() for clipper in self.clippers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from saved states, once training begins."""
        self._loaded = state_dict["clippers"] or None  # of before a training, as a finder of learning rates saves them

    def _policies(self, count: int) -> list[Policy]:
        listed = list(self._policy) if isinstance(self._policy, Sequence) else [self._policy] * count
        if len(listed) != count:
            msg = f"`GradClipCallback(policy=...)` must be one policy, or one for each of {count} optimizers."
            raise ValueError(msg)
        return [policy_of("GradClipCallback", policy, None) for policy in listed]

    def _refusing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return the clip that a module calls as `self.clip_gradients`, but for what is clipped already."""

        @functools.wraps(original)
        def clip_gradients(optimizer: Optimizer, clip_val: float = 0.0, *args: Any, **kwargs: Any) -> Any:
            if clip_val > 0.0:
                refuse_twice("self.clip_gradients", self.clippers, parameters_in(optimizer))
            return original(optimizer, clip_val, *args, **kwargs)

        return clip_gradients

    def _end(self) -> None:
        for clipper in self.clippers:
            clipper.detach()
        if self._plugin is not None:
            vars(self._plugin).pop("clip_gradients", None)
            self._plugin = None


def setup(
    fabric: Any,
    model: Module,
    optimizer: Optimizer,
    policy: Policy | float = 1.0,
    *,
    sinks: Sequence[Sink] = (),
    **options: Any,
) -> GradClipper:
    """Clip before every step of an optimizer that `fabric.setup` has returned.

    Args:
        fabric: A `lightning.Fabric`.
        model: The model that it has set up.
        optimizer: The optimizer that it has set up.
        policy: A policy, or a `max_norm`.
        sinks: Callables that take a record of every clip.
        options: Other arguments of `GradClipper`.

    Returns:
        The clipper, attached. To resume from it, add it to the state that you pass to `fabric.save` and `fabric.load`.
        `gradclip/total_norm` and so on go to the loggers of Fabric at every step. Calling `fabric.clip_gradients` on
        its parameters is then an error, because both would clip.

    Example:
        `model, optimizer = fabric.setup(model, optimizer)`, then `clipper = setup(fabric, model, optimizer, 1.0)`
    """
    clipper = clipper_of(model, optimizer, policy_of("setup", policy, None), sinks, options)
    clipper.attach(optimizer, getattr(fabric._precision, "scaler", None))
    if fabric.loggers:  # by the name of one that is not refused
        clipper._sinks.sinks.append(Logging(fabric, lambda numbers, step: fabric.log_dict(numbers, step=step)))
    original = fabric.clip_gradients

    @functools.wraps(original)
    def clip_gradients(module: Module, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        refuse_twice("fabric.clip_gradients", [clipper], parameters_in(unwrapped(optimizer)))  # which Fabric clips
        return original(module, optimizer, *args, **kwargs)

    fabric.clip_gradients = clip_gradients
    return clipper
