"""A clip by the 2-norm, whose launches are kept from step to step.

Gradients are at other addresses at every step, but a model has as many chunks as before: only the table and the few
numbers that come of it are new. To write launches down takes longer than to make them.
"""

from typing import TypeAlias, final

import torch
from torch import Tensor

from gradclip.ops.triton import driver, writing
from gradclip.ops.triton.calls import measuring_each, norming, over_runs
from gradclip.ops.triton.lane import Lane
from gradclip.ops.triton.launch import Call, launch, launch_again, launches_of, start, start_again
from gradclip.ops.triton.table import HostTable, Run, on_device

Form: TypeAlias = tuple[tuple[Run, ...], int, int, bool]
"""What the tables of one model have in common: runs, chunks, segments, and whether any tensor is wide."""

MOST = 8
"""Plans that are kept for a stream."""


@final
class Sheet:
    """Launches with blanks for the addresses of some numbers.

    Args:
        launches: The launches.
        calls: What they are.
        numbers: The numbers that are others each time.
    """

    __slots__ = ("_blanks", "_launches")

    def __init__(self, launches: list[driver.Launch], calls: list[Call], numbers: tuple[Tensor, ...]) -> None:
        self._launches = launches
        self._blanks = [
            (arguments, place, which)
            for (*_, arguments), call in zip(launches, calls, strict=True)
            for place, argument in enumerate(call.arguments)
            for which, number in enumerate(numbers)
            if argument is number
        ]

    def on(self, *numbers: Tensor) -> list[driver.Launch]:
        """Return the launches on these numbers, until the next call."""
        addresses = [number.data_ptr() for number in numbers]
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
        count = max(1, host.chunks)  # what combines none writes all the same
        empty = torch.empty(count, dtype=torch.float64, device=device) if lane is None else lane.partials(count)
        self._partials = empty  # of this plan too, as its address is in the launches
        self._device = device
        self._measuring: Sheet | None = None
        self._scaling: Sheet | None = None

    def norm_and_coefficient(self, host: HostTable, bounds: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the norm in float64, the coefficient, and the norm as it is returned, by `max_norm` and `eps`."""
        self.turn += 1
        dtype = torch.float64 if host.is_wide else torch.float32
        length, coef = torch.empty(2, dtype=torch.float64, device=self._device).unbind()
        numbers = length, coef, torch.empty((), dtype=dtype, device=self._device)
        if self._measuring is not None and self.lane is not None:
            start_again(host, bounds, self.table, self._measuring.on(*numbers), self.lane)
        else:
            calls = [*measuring_each(self.table, 2.0, self._partials), norming(self.table, self._partials, *numbers)]
            start(host, bounds, self.table, calls, self.lane)
            self._measuring = self._sheet(calls, numbers)
        return numbers

    def scale_(self, coef: Tensor) -> None:
        """Multiply by one number."""
        if self._scaling is not None and self.lane is not None:
            launch_again(self._scaling.on(coef), self._device, self.lane)
        else:
            calls = over_runs(writing.scale, self.table, coef, EACH=False)
            launch(calls, self._device)
            self._scaling = self._sheet(calls, (coef,))

    def _sheet(self, calls: list[Call], numbers: tuple[Tensor, ...]) -> Sheet | None:
        """Write calls down, if the driver launches them."""
        found = None if self.lane is None else launches_of(calls, self._device)
        return None if found is None else Sheet(found, calls, numbers)


def plan_of(host: HostTable, device: torch.device, lane: Lane | None) -> Plan:
    """Return the plan for a table: that of the last step, where there was one."""
    if lane is None or not isinstance(host.words, bytearray):
        return Plan(host, device, None)
    form: Form = (tuple(host.runs), *host[2:])
    if (plan := lane.plans.get(form)) is None:
        if len(lane.plans) >= MOST:
            lane.plans.clear()
        plan = lane.plans[form] = Plan(host, device, lane)
    return plan
