"""A clip by the 2-norm, whose launches are kept from step to step.

Gradients are at other addresses at every step, but a model has as many chunks as before: only the table and the few
numbers that come of it are new. To write launches down takes longer than to make them.
"""

from typing import TypeAlias, final

import torch
from torch import Tensor

from gradclip.ops.triton import driver, writing
from gradclip.ops.triton.calls import measuring_each, norming, over_runs
from gradclip.ops.triton.copying import Bounds, copy, start
from gradclip.ops.triton.lane import Lane, Numbers, numbers_of, partials_of
from gradclip.ops.triton.launch import Call, launch, launches_of
from gradclip.ops.triton.table import HostTable, Run, Table, on_device

Form: TypeAlias = tuple[tuple[Run, ...], int, int, bool]
"""What the tables of one model have in common: runs, chunks, segments, and whether any tensor is wide."""

MOST = 8
"""Plans that are kept for a stream."""


@final
class Sheet:
    """Launches by the driver, with blanks for the addresses of some numbers.

    Args:
        by: The driver.
        lane: What the thread keeps for the stream.
        launches: The launches.
        calls: What they are.
        numbers: The numbers that are others each time.
    """

    __slots__ = ("_blanks", "_by", "_lane", "_launches")

    def __init__(
        self,
        by: driver.Driver,
        lane: Lane,
        launches: list[driver.Launch],
        calls: list[Call],
        numbers: tuple[Tensor, ...],
    ) -> None:
        self._by = by
        self._lane = lane
        self._launches = launches
        self._blanks = [
            (arguments, place, which)
            for (*_, arguments), call in zip(launches, calls, strict=True)
            for place, argument in enumerate(call.arguments)
            for which, number in enumerate(numbers)
            if argument is number
        ]

    def launch(self, addresses: tuple[int, ...]) -> None:
        """Launch, on numbers that are there."""
        self._by.launch(self._lane.where, self._on(addresses))

    def start(self, host: HostTable, bounds: Bounds, to: Table, addresses: tuple[int, ...]) -> None:
        """Copy a table, and launch."""
        start(self._by, host, bounds, to, self._on(addresses), self._lane)

    def _on(self, addresses: tuple[int, ...]) -> list[driver.Launch]:
        for arguments, place, which in self._blanks:
            arguments[place] = addresses[which]
        return self._launches


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
            self._measuring = self._sheet(calls, numbers[:4])
        return numbers

    def scale_(self, coef: Tensor) -> None:
        """Multiply by one number."""
        if self._scaling is not None:
            self._scaling.launch((coef.data_ptr(),))
        else:
            calls = over_runs(writing.scale, self.table, coef, EACH=False)
            launch(calls, self._device)
            self._scaling = self._sheet(calls, (coef,))

    def _sheet(self, calls: list[Call], numbers: tuple[Tensor, ...]) -> Sheet | None:
        """Write calls down, if the driver launches them."""
        by = driver.found()
        if by is None or self.lane is None or (found := launches_of(calls, self._device)) is None:
            return None
        return Sheet(by, self.lane, found, calls, numbers)


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
