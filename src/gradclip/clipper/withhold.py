"""Keep a step from happening that a number on a device decides about, which the host does not wait for.

A fused optimizer does nothing where its `found_inf` is 1: it reads that on the device, for `torch.amp.GradScaler`. Here
a stand-in for the optimizer has it, in whose name one step is taken, so that it never is on the optimizer itself.
"""

import os
from collections.abc import Sequence
from functools import cache
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from gradclip.clipper.selection import are_same, parameters_in
from gradclip.distributed.dtensor import is_dtensor
from gradclip.torch_private import FUSED_OVERFLOW, takes_overflow
from gradclip.tracing import is_traced

KINDS = {Adam, AdamW, SGD, Adagrad}
"""Optimizers in which all is written by a kernel that reads `found_inf`; of a subclass nobody knows."""

SHARDED = {Adam, AdamW}
"""Those whose kernel works on DTensors too, each rank on its own part; the flag is the same on all."""

TORCH = os.path.dirname(torch.optim.__file__)  # noqa: PTH120 -- a string, which is compared at each step

IS_CPU = attrgetter("is_cpu")


@final
class Ground:
    """What is known of the tensors that a step works on, so that it is found out once and not at each step."""

    __slots__ = ("_known", "_sharded", "_step")

    def __init__(self) -> None:
        self._step: object = None  # the last that was found to be torch's own
        self._known: list[Tensor] = []
        self._sharded = False  # whether DTensors may be among them

    def allows(self, optimizer: Optimizer, owners: Sequence[Tensor]) -> bool:
        """Whether a number on a device can keep the next step of an optimizer from happening, and every bit in place.

        What is clipped for its step are `owners`.
        """
        groups = optimizer.param_groups
        if type(optimizer) not in KINDS or not all(group.get("fused") for group in groups) or is_traced():
            return False
        parameters = parameters_in(optimizer)
        return (
            takes_overflow(optimizer)
            and self._steps_as_torch(optimizer.step)
            and not any(map(IS_CPU, parameters))  # which may change, unlike the rest
            and self._is_known([*parameters, *owners], sharded=type(optimizer) in SHARDED)
            and _has_states(optimizer, parameters)
        )

    def _steps_as_torch(self, step: Any) -> bool:
        """Whether a step is torch's own code through and through, the wrapper of a scheduler included."""
        function = inner = getattr(step, "__func__", step)
        while inner is not None and function is not self._step:
            code = getattr(inner, "__code__", None)
            if code is None or not code.co_filename.startswith(TORCH):
                return False
            inner = getattr(inner, "__wrapped__", None)
        self._step = function
        return True

    def _is_known(self, tensors: list[Tensor], *, sharded: bool) -> bool:
        """Whether all are on one device, and DTensors only where they may be."""
        if self._sharded == sharded and are_same(self._known, tensors):
            return True
        known = len({x.device for x in tensors}) == 1 and (sharded or not any(map(is_dtensor, tensors)))
        self._known, self._sharded = tensors if known else [], sharded
        return known


def _has_states(optimizer: Optimizer, parameters: list[Tensor]) -> bool:
    """Whether a step would make no state: one that does not happen must leave none."""
    states, is_made = optimizer.state, bool
    if type(optimizer) is SGD:
        parameters = [p for group in optimizer.param_groups if group["momentum"] != 0 for p in group["params"]]
        is_made = _has_momentum
    if are_same(states, parameters) and all(map(is_made, states.values())):  # as a rule, and without a hash of each
        return True
    return all(p.grad is None or is_made(states.get(p, {})) for p in parameters)


def _has_momentum(state: dict[str, Any]) -> bool:
    return state.get("momentum_buffer") is not None


def told(optimizer: Optimizer, flag: Tensor) -> Optimizer:
    """Return a stand-in whose step is that of an optimizer, but where a flag on the device is 1, does nothing."""
    stand_in = object.__new__(_stand_in(type(optimizer)))
    stand_in.__dict__ = optimizer.__dict__  # but for one name, which is in a slot
    setattr(stand_in, FUSED_OVERFLOW, flag)
    return stand_in


@cache
def _stand_in(kind: type[Optimizer]) -> type[Optimizer]:
    return type(kind.__name__, (kind,), {"__slots__": (FUSED_OVERFLOW,)})
