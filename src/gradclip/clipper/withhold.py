"""Keep a step from happening that a number on a device decides about, which the host does not wait for.

A fused optimizer does nothing where its `found_inf` is 1: it reads that on the device, for `torch.amp.GradScaler`. Here
a stand-in for the optimizer has it, in whose name one step is taken, so that it never is on the optimizer itself.
"""

import math
import os
from collections import deque
from collections.abc import Sequence
from functools import cache
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from gradclip.clipper.selection import are_same, parameters_in
from gradclip.distributed.dtensor import is_dtensor
from gradclip.numbers import CPU, Condition, Scalar, as_float64, is_known, on_host
from gradclip.result import Status
from gradclip.torch_private import FUSED_OVERFLOW, takes_overflow
from gradclip.tracing import is_captured, is_traced
from gradclip.transfer import Transfer, can_transfer

KINDS = {Adam, AdamW, SGD, Adagrad}
"""Optimizers in which all is written by a kernel that reads `found_inf`; of a subclass nobody knows."""

SHARDED = {Adam, AdamW}
"""Those whose kernel works on DTensors too, each rank on its own part; the flag is the same on all."""

TORCH = os.path.dirname(torch.optim.__file__)  # noqa: PTH120 -- a string, which is compared at each step

IS_CPU = attrgetter("is_cpu")

LATE = 4
"""Steps after which the host looks at how many in a row did not happen: the copy is there by then."""


@final
class Ground:
    """What is known of the tensors that a step works on, so that it is found out once and not at each step."""

    __slots__ = ("_known", "_sharded")

    def __init__(self) -> None:
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
            and _steps_as_torch(optimizer.step)
            and not any(map(IS_CPU, parameters))  # which may change, unlike the rest
            and self._is_known([*parameters, *owners], sharded=type(optimizer) in SHARDED)
            and _has_states(optimizer, parameters)
        )

    def _is_known(self, tensors: list[Tensor], *, sharded: bool) -> bool:
        """Whether all are on one device, and DTensors only where they may be."""
        if self._sharded == sharded and are_same(self._known, tensors):
            return True
        known = len({x.device for x in tensors}) == 1 and (sharded or not any(map(is_dtensor, tensors)))
        self._known, self._sharded = tensors if known else [], sharded
        return known


def _steps_as_torch(step: Any) -> bool:
    """Whether a step is torch's own code through and through, the wrapper of a scheduler included."""
    while step is not None:
        code = getattr(step, "__code__", None)
        if code is None or not code.co_filename.startswith(TORCH):
            return False
        step = getattr(step, "__wrapped__", None)
    return True


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


def told(optimizer: Optimizer, withheld: Tensor) -> Optimizer:
    """Return a stand-in whose step is that of an optimizer, but where a condition on the device holds, does nothing."""
    stand_in = object.__new__(_stand_in(type(optimizer)))
    stand_in.__dict__ = optimizer.__dict__  # but for one name, which is in a slot
    setattr(stand_in, FUSED_OVERFLOW, withheld.to(torch.float32))
    return stand_in


@cache
def _stand_in(kind: type[Optimizer]) -> type[Optimizer]:
    return type(kind.__name__, (kind,), {"__slots__": (FUSED_OVERFLOW,)})


@final
class Skips:
    """How many steps in a row were skipped: counted by the host, or by a device, of which the host hears later.

    What it hears depends on the number of steps alone, and not on how fast a device is: all ranks raise at the same.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self._count: Scalar = 0.0
        self._under_way: deque[Transfer] = deque()
        self._done: list[Transfer] = []
        self._heard = 0  # the most in a row that the host has heard of and not complained about

    def can_hear_later(self, device: torch.device) -> bool:
        """Whether the host need not wait for what a device counts; where it has to, it may as well decide."""
        return device != CPU and (self.most == math.inf or not Transfer.is_waited_for(device))

    def hear(self, *, but: int = 0) -> int:
        """Hear of all steps but the last few; of none while a graph is captured, in which nothing can be waited for.

        Returns:
            How many in a row were skipped, of all that the host has heard of, if these are too many; else 0.
        """
        while len(self._under_way) > but and can_transfer(self._count):
            transfer = self._under_way.popleft()
            transfer.wait()
            self._heard = max(self._heard, int(transfer.host))
            self._done.append(transfer)
        return self._heard if self._heard > self.most else 0

    def complaint(self, last: Status | None, reason: str, late: int) -> str:
        """Return why there are too many in a row, or had been before this step, and forget what the host has heard."""
        count, self._heard = max(late, self._heard), 0
        return (
            f"{count} steps in a row were skipped, the last as {(last or Status.SKIPPED_NONFINITE).value}, and "
            f"`max_consecutive_skips` is {self.most:g}.{reason} Lower the learning rate, look at the data, or go back "
            "to a checkpoint."
        )

    def read(self) -> int:
        """Return how many there are now, which waits where a device counts."""
        if is_known(self._count):
            return int(self._count)
        self.hear()
        return int(on_host(self._count))

    def load(self, count: int) -> None:
        """Go on from a count that was saved."""
        self._under_way.clear()
        self._hold(count)

    def _hold(self, count: int) -> None:
        self._heard = count
        if not is_known(self._count):
            self._count.fill_(count)  # where it is: a captured graph goes on counting there
        else:
            self._count = float(count)

    def count(self, *, skipped: bool) -> bool:
        """Count a step that the host knows of, and say whether too many in a row were skipped now."""
        count = self.read() + 1 if skipped else 0
        self._hold(count)
        return count > self.most

    def count_withheld(self, withheld: Condition, overflow: Condition) -> None:
        """Count a step that a device decides about; an overflow that a scaler found leaves the count as it is.

        Raises:
            RuntimeError: If it would begin in a captured graph.
        """
        if is_known(withheld):  # of no gradients
            self.count(skipped=withheld)
            return
        count = self._count
        if is_known(count) or count.device != withheld.device:  # as after `model.to(device)`
            if is_captured(withheld.device):  # each replay would begin with it anew
                raise RuntimeError(
                    "`GradClipper(max_consecutive_skips=...)` must go on counting in a captured graph, got one in "
                    "which the count begins, or moves to another device. Take a step outside of the graph before."
                )
            count = self._count = as_float64(count, withheld.device)
            self._done.clear()
        if is_known(overflow):
            count.add_(1.0).mul_(withheld)  # where it is, in graphs too
        else:
            count.copy_(torch.where(overflow, count, (count + 1.0) * withheld))
        if self.most < math.inf and can_transfer(count):
            self._under_way.append(self._done.pop().again(count) if self._done else Transfer(count))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_count": float(self.read()), "_under_way": deque(), "_done": []}
