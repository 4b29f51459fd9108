"""What the ranks do in tests of gradients on another device: some have none, or cannot clip."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, distributed, nn

import gradclip
from gradclip.clipper import skips
from gradclip.distributed import Ownership, declare, span
from gradclip.distributed.span import Span
from gradclip.policies import AdaGC, FixedNorm, Policy, SpikeSkip, chain
from there import PLACE, There
from told_workers import FailsOnTheSecond
from withhold_workers import Late


def stage(*, here: bool = False, **ownership: Any) -> nn.Parameter:
    """A parameter of this rank alone, or what it is declared to be, with a gradient of four ones."""
    gradient, numbers = torch.ones(4), torch.zeros(4)
    parameter = nn.Parameter(numbers if here else There(numbers))
    parameter.grad = gradient if here else There(gradient)
    declare([parameter], Ownership(**(ownership or {"disjoint": distributed.group.WORLD})))
    return parameter


def fail_on_one(what: str) -> tuple[str, float, float]:
    """Measure where the second rank cannot, and the third has nothing on the device if it may; then where all can.

    Returns:
        The error of this rank, or nothing; the norm of the first call, and of the second.
    """
    world, rank = distributed.group.WORLD, distributed.get_rank()
    group = world if what == "one collective" else None
    own = {"sharded": world} if what == "each" else {}
    parameter = stage(here=rank == 2 and what == "each", **own)

    def measured(*parameters: Any) -> float:
        if what == "each":
            return float(gradclip.get_norms(parameters)["parameters[0]"].cpu())
        return float(gradclip.clip_grad_norm_(parameters, 1e9, group=group).cpu())

    parameters, error, norm = [parameter], "", 0.0
    if rank == 1:
        parameters = [parameter, "no parameter"]
    elif rank == 2 and what == "one collective":
        parameters = []
    try:
        norm = measured(*parameters)
    except Exception as caught:  # noqa: BLE001 -- which one it is, the test says
        error = type(caught).__name__
    parameter.grad = torch.ones_like(parameter)
    return error, norm, measured(parameter)


def _by_a_function(call: Callable[[list[nn.Parameter]], Tensor]) -> Callable[[list[nn.Parameter]], object]:
    return lambda parameters: call(parameters).cpu().item()


def _by_a_clipper(policy: Policy, mode: Any, **arguments: Any) -> Callable[[list[nn.Parameter]], object]:
    return lambda parameters: gradclip.GradClipper(parameters, policy, nonfinite=mode, **arguments).clip().total_norm


def _told_a_loss(parameters: list[nn.Parameter]) -> object:
    clipper = gradclip.GradClipper(parameters, TWO_STAGES, nonfinite="propagate")
    return clipper.clip(loss="no loss" if distributed.get_rank() == 1 else 1.0).total_norm  # type: ignore[arg-type]


TWO_STAGES = chain(AdaGC(100.0), FixedNorm(100.0, math.inf))
"""A norm of another order is measured anew."""

UNREAD = ("propagate", "keep")

CLIPS: dict[str, Callable[[list[nn.Parameter]], object]] = {
    **{
        f"a function, {mode}": _by_a_function(
            lambda parameters, mode=mode: gradclip.clip_grad_norm_(parameters, 100.0, 8.0, nonfinite=mode)
        )
        for mode in (*UNREAD, "raise", "sanitize")
    },
    "a total norm, raise": _by_a_function(
        lambda parameters: gradclip.get_total_norm(
            [*(p.grad for p in parameters), *["no tensor"] * (distributed.get_rank() == 1)],
            8.0,
            error_if_nonfinite=True,
            group=distributed.group.WORLD,
        )
    ),
    "a loss that fails, propagate": _told_a_loss,
    "two stages, compared": _by_a_clipper(TWO_STAGES, "propagate", check_replicas_every=1),
    **{
        f"{name}, {mode}": _by_a_clipper(policy, mode)
        for mode in ("propagate", "skip", "raise", "sanitize")
        for name, policy in {
            "a high order": FixedNorm(100.0, norm_type=8.0),
            "each": AdaGC(100.0),
            "two stages": TWO_STAGES,
            "two stages of which one fails": chain(FailsOnTheSecond(), AdaGC(100.0)),
            "four of which one fails": chain(AdaGC(100.0), FailsOnTheSecond(), FixedNorm(100.0), FixedNorm(100.0, 8.0)),
        }.items()
    },
}
"""Clips of a few collectives, some of which read the norm. A rule fails on the second rank, or its gradient is bad."""


def fail_amid(what: str) -> tuple[str, bool, float]:
    """Return the error of this rank, whether its norm was NaN, and the norm of a clip after it."""
    parameter, error, was_nan = stage(), "", False
    if distributed.get_rank() == 1 and "fails" not in what:
        parameter.grad = There(torch.ones(1)).expand(4)
    try:
        was_nan = math.isnan(CLIPS[what]([parameter]))  # type: ignore[arg-type]
    except Exception as caught:  # noqa: BLE001 -- which one it is, the test says
        error = type(caught).__name__
    parameter.grad = There(torch.ones(4))
    return error, was_nan, float(gradclip.clip_grad_norm_([parameter], 1e9).cpu())


def kinds_of_vectors(what: str) -> tuple[set[str], int, list[float]]:
    """Clip where the CPU has one backend and the device another, and one rank has no number on the device.

    Returns:
        The types of devices that vectors of collectives were on, how often ranks had to agree on one, and two norms.
    """
    parameter, bad = stage(), distributed.get_rank() == 1
    parameters = [parameter]
    if bad and what == "no parameter":
        parameters = []
    elif bad and what == "no gradient":
        parameter.grad = None
    elif bad and what == "an error":
        parameter.grad = There(torch.ones(1)).expand(4)
    elif what == "all on the CPU":
        parameters = [stage(here=True)]
    kinds: set[str] = set()
    agreed: list[object] = []
    reduce_, gather = Span.reduce_, Span.gather

    def reduce_here_(own: Span, vector: Tensor, *, maximum: bool) -> None:
        kinds.add(vector.device.type)
        here = vector.cpu()
        reduce_(own, here, maximum=maximum)
        vector.copy_(here)

    def counted(own: Span, thing: Any) -> list[Any]:
        agreed.append(thing)
        return gather(own, thing)

    both = ["cpu", PLACE.type]
    with (
        patch.object(span, "_known", {}),
        patch.object(span, "device_types_of", lambda _: both),
        patch.object(distributed, "get_backend_config", lambda _: f"cpu:gloo,{PLACE.type}:other"),
        patch.object(Span, "reduce_", reduce_here_),
        patch.object(Span, "gather", counted),
    ):
        norms = [norm_or_error(parameters) for _ in range(2)]
    return kinds, len(agreed), norms


def judge_the_loss(*, attached: bool) -> list[str]:
    """Return what became of steps where the last rank alone knows the loss, which is far off at one of them."""
    parameter, knows = stage(), distributed.get_rank() == distributed.get_world_size() - 1
    clipper = gradclip.GradClipper([parameter], SpikeSkip(math.inf, window=8, warmup=2))
    optimizer = torch.optim.AdamW([parameter], lr=0.0, fused=True)
    found = []
    with patch.object(skips, "Transfer", Late), clipper.attach(optimizer) if attached else nullcontext():
        for loss in (1.0, 1.1, 0.9, 1.0, 9.0, 1.0):
            parameter.grad = There(torch.ones(4))
            if knows:
                clipper.observe_loss(loss)
            optimizer.step() if attached else clipper.clip()
            assert clipper.last is not None
            found.append(clipper.last.status.value)
    return found


def norm_or_error(parameters: list[nn.Parameter]) -> float:
    """Return the norm of all, or -1 for an error."""
    try:
        return float(gradclip.clip_grad_norm_(parameters, 1e9, group=distributed.group.WORLD).cpu())
    except gradclip.OverlappingGradientError:
        return -1.0
