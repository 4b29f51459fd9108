"""Keep a step from happening that a number on a device decides about, which nothing waits for.

A fused optimizer does nothing where its `found_inf` is 1: it reads that on the device, for `torch.amp.GradScaler`, and
so it does here. How many steps in a row that were, the host hears later.
"""

import math
from collections import deque
from typing import final

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradclip.numbers import Scalar, as_float64, is_known, on_host, where
from gradclip.records.transfer import Transfer
from gradclip.result import Withheld
from gradclip.torch_private import fused_overflow, set_fused_overflow, takes_overflow

LATE = 8
"""Steps after which the host wants to know how many in a row did not happen."""


def can_withhold(optimizer: Optimizer) -> bool:
    """Whether a number on a device can keep the step of an optimizer from happening."""
    return takes_overflow(optimizer) and all(group.get("fused") for group in optimizer.param_groups)


@final
class Withholding:
    """A step, until `end` is called, that happens or not as a number on a device says.

    Args:
        optimizer: The optimizer whose step it is.
        withheld: Whether it does not happen, as a 0-dim tensor.
    """

    def __init__(self, optimizer: Optimizer, withheld: Tensor) -> None:
        self.optimizer = optimizer
        self._withheld = withheld
        self._states = len(optimizer.state)
        self._before = fused_overflow(optimizer)
        set_fused_overflow(optimizer, withheld.to(torch.float32))

    def end(self) -> None:
        """Leave the optimizer as it was, without a state that was made for a step which did not happen."""
        set_fused_overflow(self.optimizer, self._before)  # that of a scaler, which takes it away itself
        fresh = list(self.optimizer.state)[self._states :] if len(self.optimizer.state) > self._states else []
        if fresh and on_host(self._withheld):  # in the first step, and when a layer is unfrozen
            for parameter in fresh:
                del self.optimizer.state[parameter]


@final
class Skips:
    """How many steps in a row did not happen: on the host, or on a device, from where the host hears of it later.

    Args:
        most: How many there may be.
        count: How many there are.
    """

    def __init__(self, most: float, count: int = 0) -> None:
        self._most = most
        self._count: Scalar = count
        self._heard = count
        self._under_way: deque[Transfer] = deque()

    def read(self) -> int:
        """Return how many there are, which waits where a device counts."""
        self._set(int(on_host(self._count)))
        return self._heard

    @property
    def may_be_most(self) -> bool:
        """Whether there may be as many as allowed: every step that the host has not heard of may be one."""
        while self._under_way and (len(self._under_way) > LATE or self._under_way[0].is_done()):
            transfer = self._under_way.popleft()
            transfer.wait()
            self._heard = int(transfer.host)
        return self._heard + len(self._under_way) >= self._most

    def count(self, *, skipped: bool) -> int:
        """Count a step that the host knows of, and return how many there are now."""
        self._set(self.read() + 1 if skipped else 0)
        return self._heard

    def count_withheld(self, withheld: Withheld) -> None:
        """Count a step that a device decides about; an overflow that a scaler found leaves the count as it is."""
        counted = where(withheld.step, self._count + 1.0, 0.0)
        self._count = where(withheld.overflow, self._count, counted)
        if is_known(self._count):
            self._set(int(on_host(self._count)))
        elif self._most < math.inf:
            self._under_way.append(Transfer(as_float64(self._count)))

    def _set(self, count: int) -> None:
        self._count = self._heard = count
        self._under_way.clear()
