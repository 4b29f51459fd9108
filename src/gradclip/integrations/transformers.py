"""Clip in `transformers.Trainer`, and in the trainers that are made of it, as those of TRL."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from gradclip.clipper import GradClipper
from gradclip.integrations.shared import clipper_of, metrics_of, policy_of
from gradclip.policies import Policy
from gradclip.records import Memory, Sink

try:
    from transformers import Trainer, TrainerCallback
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    message = "this integration needs transformers: pip install transformers"
    raise ModuleNotFoundError(message, name="transformers") from None

STATE = "gradclip"
"""Where the clipper's state is among those of callbacks, in the `trainer_state.json` of a checkpoint."""


class GradClipCallback(TrainerCallback):
    """Clip by a policy before every step of a `Trainer`, in place of its `max_grad_norm`.

    Args:
        policy: A policy, or a `max_norm`; by default, the `max_grad_norm` of the arguments of the trainer.
        sinks: Callables that take a record of every clip.
        options: Other arguments of `GradClipper`: `nonfinite`, `norms_every`, and so on.

    Attributes:
        clipper: The clipper, during and after training.

    Raises:
        ValueError: When training begins, if there is neither a policy nor a `max_grad_norm`, if there is another such
            callback, or if DeepSpeed takes the steps.

    Example:
        `Trainer(model, args, train_dataset=data, callbacks=[GradClipCallback(ZClip(max_norm=1.0))])`

    Note:
        The logs of a step get `gradclip/total_norm` and so on, and `grad_norm`, the norm before clipping. The loggers
        that the trainer makes from `report_to` get them only with `install`, because callbacks run after these loggers.
        The trainer is informed of skipped steps, and then does not change the learning rate. The state of the clipper
        is saved in every checkpoint, and a resumed run continues from it. However `train()` ends, the trainer is
        restored.
    """

    def __init__(self, policy: Policy | float | None = None, *, sinks: Sequence[Sink] = (), **options: Any) -> None:
        self.clipper: GradClipper | None = None
        self._policy = policy
        self._options = options
        self._latest = Memory(maxlen=1)
        self._sinks = [*sinks, self._latest]
        self._bounds: list[float | None] = []  # of the trainer, while it trains
        self._told: Any = None  # the optimizer that says whether a step happened
        self._is_installed = False
        self._trainer: Any = None  # while it trains, where this is installed
        self._accelerator: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        """Attach to the optimizer, and switch off what the trainer clips by."""
        self._end(args)
        if getattr(args, "deepspeed", None):
            raise ValueError("`GradClipCallback` cannot clip in DeepSpeed, whose optimizer clips by its configuration.")
        optimizer = given["optimizer"]
        policy = policy_of("GradClipCallback", self._policy, args.max_grad_norm)
        clipper = clipper_of(given.get("model"), optimizer, policy, self._sinks, self._options)
        if state.global_step > 0 and (saved := state.stateful_callbacks.get(STATE)) is not None:
            clipper.load_state_dict(saved)
        self.clipper = clipper.attach(optimizer)
        state.stateful_callbacks[STATE] = _StateWhenSaved(clipper)
        self._bounds.append(args.max_grad_norm)
        args.max_grad_norm = 0.0
        if self._trainer is not None:
            self._accelerator = self._trainer.accelerator  # another one in each trial of a search
            self._accelerator.clip_grad_norm_ = _unmeasured

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        """Tell the trainer whether the step has happened: of overflows a scaler would, of other skips nobody."""
        if self.clipper is not None and self.clipper.last is not None:
            self._told = given["optimizer"]
            self._told._is_overflow = self.clipper.last.skipped is not None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **given: Any) -> None:  # noqa: ARG002
        """Add what clipping did to the logs of a step."""
        if logs is None or "loss" not in logs or self.clipper is None:
            return
        if not (metrics := metrics_of(self.clipper, self._latest)):
            return
        found = {**metrics, "grad_norm": metrics.get("gradclip/total_norm", float("nan"))}
        logs.update(found)
        if state.log_history and state.log_history[-1].get("step") == state.global_step:
            state.log_history[-1].update(found)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
        """Leave the trainer as it was."""
        self._end(args)

    def _end(self, args: Any) -> None:
        if self.clipper is not None:
            self.clipper.detach()
        if self._bounds:
            args.max_grad_norm = self._bounds.pop()
        if self._told is not None:
            self._told._is_overflow, self._told = False, None
        if self._accelerator is not None:
            vars(self._accelerator).pop("clip_grad_norm_", None)
            self._accelerator = None


@final
class _StateWhenSaved:
    """The state of a clipper, taken when the trainer copies its own to write it.

    What asks for a checkpoint may be another callback that comes after this one, or a signal.
    """

    def __init__(self, clipper: GradClipper) -> None:
        self._clipper = clipper

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:  # copied or pickled, it is plain data
        return dict, (self._clipper.state_dict(),)


def install(
    trainer: Any, policy: Policy | float | None = None, *, sinks: Sequence[Sink] = (), **options: Any
) -> GradClipCallback:
    """Clip in a trainer as `GradClipCallback` does, reach its loggers too, and skip its own pass over gradients.

    Args:
        trainer: A `transformers.Trainer`, before `train()`.
        policy: A policy, or a `max_norm`; by default, the `max_grad_norm` of the arguments of the trainer.
        sinks: Callables that take a record of every clip.
        options: Other arguments of `GradClipper`.

    Returns:
        The callback. It becomes the second one of the trainer, so all loggers get what it adds to the logs.

    Example:
        `install(trainer, ZClip(max_norm=1.0)); trainer.train()`
    """
    callback = GradClipCallback(policy, sinks=sinks, **options)
    trainer.callback_handler.callbacks.insert(1, callback)  # after the one that decides when to log
    callback._is_installed = True
    return callback


def _ending(train: Callable[..., Any]) -> Callable[..., Any]:
    """Return `Trainer.train`, of whose errors no event tells callbacks: however it ends, the trainer is as it was."""

    @functools.wraps(train)
    def train_and_end(self: Any, *args: Any, **kwargs: Any) -> Any:
        callbacks = [x for x in self.callback_handler.callbacks if isinstance(x, GradClipCallback)]
        if len(callbacks) > 1:
            raise ValueError(
                f"A trainer must have one `GradClipCallback`, got {len(callbacks)}, of which each would clip. "
                "Remove the others; two policies are one as `gradclip.policies.chain(first, second)`."
            )
        for callback in callbacks:
            callback._trainer = self if callback._is_installed else None
        try:
            return train(self, *args, **kwargs)
        finally:
            for callback in callbacks:
                callback._end(self.args)
                callback._trainer = None  # which keeps the callback

    return train_and_end


Trainer.train = _ending(Trainer.train)  # type: ignore[method-assign]


def _unmeasured(parameters: object, max_norm: float, norm_type: float = 2.0) -> Tensor:  # noqa: ARG001
    """Stand for the trainer's clip, whose bound is infinite now: the norm in the logs comes from the clipper."""
    return torch.full((), float("nan"))
