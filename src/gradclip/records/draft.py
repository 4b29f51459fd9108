"""From what a clip left to its record: at once where the host knows the numbers, later where a device does."""

import time
from typing import TypeAlias, cast, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradclip.numbers import Scalar, is_ready
from gradclip.records.record import ClipRecord
from gradclip.records.transfer import Transfer
from gradclip.result import ClipResult, Each, Status

WORST = 3
"""How many of the largest norms a record names."""

Numbers: TypeAlias = tuple[Scalar, Scalar, Scalar | None, Scalar, bool | Tensor, Scalar | None, Scalar | None]
"""The total norm before and after, the threshold, the coefficient, whether it is below 1, learning rate and loss."""


@final
class Draft:
    """The record of a clip that has just been, whose numbers may still be on a device.

    Args:
        result: What the clip did.
        policy: The policy, as it is written.
        optimizer: Whose step it was for; None where it was called by hand.
        loss: The loss of the step, where the clipper was told.
        nonfinite: The counts of NaN and of infinite elements, where there are any.
        norms: Whether the norm of each parameter was asked for.
    """

    __slots__ = ("_asked", "_each", "_nonfinite", "_numbers", "_optimizer", "_policy", "_skipped", "_step", "_time")

    def __init__(
        self,
        result: ClipResult,
        policy: str,
        optimizer: Optimizer | None,
        loss: Scalar | None,
        nonfinite: dict[str, tuple[int, int]] | None,
        *,
        norms: bool,
    ) -> None:
        self._step = result.step
        self._time = time.time()
        self._skipped = result.skipped
        self._policy = policy
        self._optimizer = None if optimizer is None else type(optimizer).__name__
        self._nonfinite = nonfinite
        after, threshold, coefficient, shrunk = result._outcome()
        self._numbers: Numbers = (result._total, after, threshold, coefficient, shrunk, _rate_of(optimizer), loss)
        self._each = result._each()
        self._asked = norms

    @property
    def is_elsewhere(self) -> bool:
        """Whether to read the numbers now would wait for a device."""
        total, each = self._numbers[0], self._each
        return not is_ready(total) or (each is not None and not is_ready(each.norms))

    def fetch(self) -> Transfer:
        """Put copies on the host in place of what is elsewhere, and return what makes them."""
        held = self._numbers if self._each is None else (*self._numbers, self._each.norms)
        tensors = [x for x in held if isinstance(x, Tensor) and not is_ready(x)]
        device = tensors[0].device
        vector = torch.cat([x.detach().reshape(-1).to(device, torch.float64, non_blocking=True) for x in tensors])
        transfer = Transfer(vector)
        pieces = transfer.host.split([x.numel() for x in tensors])
        copies = {id(x): piece for x, piece in zip(tensors, pieces, strict=True)}
        self._numbers = cast("Numbers", tuple(copies.get(id(x), x) for x in self._numbers))
        if (each := self._each) is not None:
            self._each = Each(each.names, copies.get(id(each.norms), each.norms), each.places)
        return transfer

    def record(self) -> ClipRecord:
        """Return the record."""
        total, after, threshold, coefficient, shrunk, lr, loss = self._numbers
        status = self._skipped or (Status.CLIPPED if shrunk else Status.OK)
        each = self._each
        return ClipRecord(
            self._step,
            self._time,
            status.value,
            float(total),
            float(after),
            None if threshold is None else float(threshold),
            float(coefficient),
            self._policy,
            () if each is None else tuple(each.worst(WORST)),
            None,
            None if lr is None else float(lr),
            None if loss is None else float(loss),
            self._nonfinite,
            each.by_name() if each is not None and self._asked else None,
            optimizer=self._optimizer,
        )


def _rate_of(optimizer: Optimizer | None) -> Scalar | None:
    rate = optimizer.param_groups[0].get("lr") if optimizer is not None and optimizer.param_groups else None
    if isinstance(rate, Tensor):
        return rate if rate.numel() == 1 else None
    return rate if isinstance(rate, (int, float)) else None
