"""How many steps in a row were skipped, and whether these are too many."""

import math
from collections import deque
from typing import Any, final

import torch
from torch import Tensor

from gradclip.numbers import CPU, Scalar, as_float64, is_known, on_host
from gradclip.policies.fused import Withheld
from gradclip.result import Status
from gradclip.sending import Transfer, can_transfer

LATE = 4
"""Steps after which the host looks at how many in a row did not happen: the copy is there by then."""


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
        self._is_replayed = False  # by a captured graph, which counts where the count was

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
            self._heard = max(self._heard, int(transfer.host.item()))
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

    def on(self, device: torch.device) -> Tensor:
        """Return how many there are, as a number of a device that goes on counting."""
        return as_float64(self._count, device) if self._begins_on(device) else self._count  # type: ignore[return-value]

    def _begins_on(self, device: torch.device) -> bool:
        return is_known(self._count) or self._count.device != device  # as after `model.to(device)`

    def take(self, withheld: Withheld) -> None:
        """Take what a device has counted, with a step that the host does not know of.

        Raises:
            RuntimeError: If the count would begin in a captured graph.
        """
        flag, count = withheld
        if is_known(flag) or is_known(count):  # of no gradients
            self.count(skipped=bool(flag))
            return
        is_captured, begins = not can_transfer(count), self._begins_on(count.device)
        if is_captured and begins:  # each replay would begin with it anew
            raise RuntimeError(
                "`GradClipper(max_consecutive_skips=...)` must go on counting in a captured graph, got one in which "
                "the count begins, or moves to another device. Take a step outside of the graph before."
            )
        if begins:
            self._is_replayed = False
            self._done.clear()
        self._is_replayed |= is_captured
        if self._is_replayed:
            self._count.copy_(count)  # type: ignore[union-attr] -- where a graph goes on counting
        else:
            self._count = count
        if self.most < math.inf and not is_captured:
            self._under_way.append(self._done.pop().again(count) if self._done else Transfer(count))

    def __getstate__(self) -> dict[str, Any]:
        count = float(self.read())  # which hears of more
        return {**vars(Skips(self.most)), "_heard": self._heard, "_count": count}
