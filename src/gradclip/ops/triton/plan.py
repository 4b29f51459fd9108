"""A clip by the 2-norm, whose launches are kept from step to step.

Gradients are at other addresses at every step, but a model has as many chunks as before: only the table and the few
numbers that come of it are new.
"""

from typing import TypeAlias, final

import torch
from torch import Tensor

from gradclip.ops.triton import writing
from gradclip.ops.triton.calls import measuring_each, norming, over_runs
from gradclip.ops.triton.copying import Bounds, copy
from gradclip.ops.triton.lane import Lane, Numbers, numbers_of, partials_of
from gradclip.ops.triton.launch import Call, launch
from gradclip.ops.triton.sheet import Sheet, sheet_of
from gradclip.ops.triton.table import HostTable, Run, on_device

Form: TypeAlias = tuple[tuple[Run, ...], int, int, bool]
"""What the tables of one model have in common: runs, chunks, segments, and whether any tensor is wide."""

MOST = 8
"""Plans that are kept for a stream."""


@final
class Plan:
    """What clips whose tables have one form launch, and the memory that they share, one after the other.

    Args:
        host: The table of the first.
        device: The device.
        lane: What the thread keeps for the current stream; None for one clip alone.

    Attributes:
        lane: The same.
        table: The table on the device: that of the last clip.
        turn: The number of clips so far.
    """

    __slots__ = ("_device", "_measuring", "_partials", "_scaling", "lane", "table", "turn")

    def __init__(self, host: HostTable, device: torch.device, lane: Lane | None) -> None:
        self.lane = lane
        with torch.inference_mode(mode=False):  # or what was made inside is not copied to outside
            self.table = on_device(host, device)
        self.turn = 0
        self._partials = partials_of(host.chunks, device, lane)  # of this plan too, as its address is in the launches
        self._device = device
        self._measuring: Sheet | None = None
        self._scaling: Sheet | None = None

    def measure(self, host: HostTable, bounds: Bounds) -> Numbers:
        """Return what a clip has of the gradients of a table."""
        self.turn += 1
        numbers = numbers_of(self._device, self.lane, wide=host.is_wide)
        if self._measuring is not None:
            self._measuring.start(host, bounds, self.table, numbers.addresses)
        else:
            last = norming(self.table, self._partials, numbers)
            calls = [*measuring_each(self.table, 2.0, self._partials), last]
            copy(host, self.table, self.lane, bounds)
            launch(calls, self._device)
            self._measuring = self._written_down(calls, numbers[:4])
        return numbers

    def scale_(self, coef: Tensor) -> None:
        """Multiply by one number."""
        if self._scaling is not None:
            self._scaling.launch((coef.data_ptr(),))
        else:
            calls = over_runs(writing.scale, self.table, coef, EACH=False)
            launch(calls, self._device)
            self._scaling = self._written_down(calls, (coef,))

    def _written_down(self, calls: list[Call], numbers: tuple[Tensor, ...]) -> Sheet | None:
        blanks = [
            (launch, place, which)
            for launch, call in enumerate(calls)
            for place, argument in enumerate(call.arguments)
            for which, number in enumerate(numbers)
            if argument is number
        ]
        return sheet_of(calls, self.lane, blanks)


def plan_of(host: HostTable, device: torch.device, lane: Lane | None) -> Plan:
    """Return the plan for a table: that of the last step, where there was one."""
    if lane is None or isinstance(host.words, Tensor):
        return Plan(host, device, None)
    form: Form = host[1:]
    if (plan := lane.plans.get(form)) is None:
        if len(lane.plans) >= MOST:
            lane.plans.clear()
        plan = lane.plans[form] = Plan(host, device, lane)
    return plan
