"""Clip where Accelerate has prepared a model and its optimizer."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from gradclip.clipper import GradClipper
from gradclip.integrations.shared import Logging, clipper_of, policy_of, refuse_twice
from gradclip.policies import Policy
from gradclip.records import Sink


def prepare(
    accelerator: Any,
    model: Module,
    optimizer: Optimizer,
    policy: Policy | float = 1.0,
    *,
    sinks: Sequence[Sink] = (),
    **options: Any,
) -> GradClipper:
    """Clip before every step of an optimizer that `accelerator.prepare` has returned.

    Gradients are unscaled by the scaler of the accelerator, and clipped when they are synchronised, so once for all
    micro-batches of `accumulate`. The state of the clipper is saved and loaded with that of the accelerator.

    Args:
        accelerator: An `accelerate.Accelerator`.
        model: The model that it has prepared.
        optimizer: The optimizer that it has prepared.
        policy: A policy, or a `max_norm`.
        sinks: Callables that take a record of every clip.
        options: Other arguments of `GradClipper`.

    Returns:
        The clipper, attached. Calling `accelerator.clip_grad_norm_` or `clip_grad_value_` on its parameters is then an
        error, because both would clip. `accelerator.end_training` detaches the clipper.

    Raises:
        ValueError: If the optimizer was not prepared, or if DeepSpeed or Megatron takes the steps.

    Example:
        `model, optimizer, data = accelerator.prepare(model, optimizer, data)`, then
        `clipper = prepare(accelerator, model, optimizer, ZClip(max_norm=1.0))`
    """
    if not hasattr(optimizer, "accelerator_state"):
        msg = (
            f"`prepare(optimizer=...)` must be what `accelerator.prepare` returned, got {type(optimizer).__name__}. "
            "Prepare it first: an FSDP model has other parameters afterwards."
        )
        raise ValueError(msg)
    if str(accelerator.distributed_type).rpartition(".")[2] in {"DEEPSPEED", "MEGATRON_LM"}:
        msg = f"`prepare(accelerator=...)` must not be of {accelerator.distributed_type}, which clips by itself."
        raise ValueError(msg)
    clipper = clipper_of(model, optimizer, policy_of("prepare", policy, None), sinks, options)
    clipper.attach(optimizer)
    if accelerator.log_with:  # by the name of one that is not refused
        clipper._sinks.sinks.append(Logging(accelerator, lambda numbers, step: accelerator.log(numbers, step=step)))
    accelerator.register_for_checkpointing(clipper)
    for name in ("clip_grad_norm_", "clip_grad_value_"):
        setattr(accelerator, name, _refusing(clipper, name, getattr(accelerator, name)))
    end_training = accelerator.end_training

    @functools.wraps(end_training)
    def detach_and_end() -> None:
        clipper.detach()  # the last records are logged first
        end_training()

    accelerator.end_training = detach_and_end
    return clipper


def _refusing(clipper: GradClipper, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a clip of the accelerator's own, but for parameters that a clipper clips."""

    @functools.wraps(original)
    def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        refuse_twice(f"accelerator.{name}", [clipper], listed)
        return original(listed, *args, **kwargs)

    return clip
