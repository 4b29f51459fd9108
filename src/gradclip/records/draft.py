"""From what a clip left to its record: at once where the host knows the numbers, later where a device does."""

import math
import time
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradclip.gradients.nonfinite import Counts
from gradclip.numbers import Scalar, is_ready
from gradclip.records.record import ClipRecord
from gradclip.result import ClipResult, Status, Unread
from gradclip.sending import Transfer

WORST = 3
"""How many of the largest norms a record names."""

COUNTED = 100
"""Parameters whose elements that are not finite a record counts, at most: the first ones."""


@final
class Draft:
    """The record of a clip that has just been, whose numbers may still be on a device.

    Args:
        result: What the clip did.
        policy: The policy, as it is written.
        optimizer: Whose step it was for; None where it was called by hand.
        loss: The loss of the step, where the clipper was told.
        nonfinite: The counts of NaN and of infinite elements, where there may be any.
        norms: Whether the norm of each parameter was asked for.
    """

    __slots__ = ("_asked", "_each", "_nonfinite", "_numbers", "_optimizer", "_policy", "_skipped", "_step", "_time")

    def __init__(
        self,
        result: ClipResult,
        policy: str,
        optimizer: Optimizer | None,
        loss: Scalar | None,
        nonfinite: Counts | None,
        *,
        norms: bool,
    ) -> None:
        self._step = result.step
        self._time = time.time()
        self._policy = policy
        self._optimizer = None if optimizer is None else type(optimizer).__name__
        self._nonfinite = nonfinite
        self._skipped = result._skipped
        # The total norm, learning rate and loss; what comes of it if the step happens; and what tells whether it does.
        if isinstance(self._skipped, Unread):
            told = (*self._skipped[:2], result._judge(Status.SKIPPED_SPIKE).threshold)
            outcome = (*result._judge(None), *told)
        else:
            outcome = tuple(result._outcome())
        self._numbers: tuple[Any, ...] = (result._total, _rate_of(optimizer), loss, *outcome)
        self._each = result._each()
        self._asked = norms

    @property
    def is_elsewhere(self) -> bool:
        """Whether to read the numbers now would wait for a device."""
        return not all(map(is_ready, (self._numbers[0], *self._vectors())))

    def _vectors(self) -> list[Tensor]:
        norms = [] if self._each is None else [self._each.norms]
        return norms if self._nonfinite is None else [*norms, self._nonfinite.counts]

    def fetch(self) -> Transfer:
        """Put copies on the host in place of what is elsewhere, and return what makes them."""
        tensors = [x for x in (*self._numbers, *self._vectors()) if not is_ready(x)]
        device = tensors[0].device
        vector = torch.cat([x.detach().reshape(-1).to(device, torch.float64, non_blocking=True) for x in tensors])
        transfer = Transfer(vector)
        pieces = transfer.host.split([x.numel() for x in tensors])
        copies = {id(x): piece.view(x.shape) for x, piece in zip(tensors, pieces, strict=True)}
        self._numbers = tuple(copies.get(id(x), x) for x in self._numbers)
        if (each := self._each) is not None:
            self._each = each._replace(norms=copies.get(id(each.norms), each.norms))
        if (bad := self._nonfinite) is not None:
            self._nonfinite = bad._replace(counts=copies.get(id(bad.counts), bad.counts))
        return transfer

    def record(self) -> ClipRecord:
        """Return the record."""
        total, lr, loss, after, threshold, coefficient, shrunk, *told = self._numbers
        skipped = self._skipped
        if isinstance(skipped, Unread):
            withheld, overflow, bound = told
            skipped = Unread(withheld, overflow, skipped.skips_nonfinite).reason(total)
            if skipped is not None:
                after, coefficient = total, 1.0
                threshold = bound if skipped is Status.SKIPPED_SPIKE else None
        status = skipped or (Status.CLIPPED if shrunk else Status.OK)
        each, counts = self._each, self._nonfinite
        bad = None if counts is None else counts.by_name(COUNTED)
        is_bad = not math.isfinite(total) or (counts is not None and counts.is_bad)  # what was set to 0 is finite now
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
            bad if bad or is_bad else None,
            each.by_name() if each is not None and self._asked else None,
            optimizer=self._optimizer,
        )


def _rate_of(optimizer: Optimizer | None) -> Scalar | None:
    rate = optimizer.param_groups[0].get("lr") if optimizer is not None and optimizer.param_groups else None
    if isinstance(rate, Tensor):
        return rate if rate.numel() == 1 else None
    return rate if isinstance(rate, (int, float)) else None
