"""A clip by the 2-norm, whose launches are kept from step to step.

Gradients are at other addresses at every step, but a model has as many chunks as before: only the table and the few
numbers that come of it are new.
"""

import math
import threading
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from gradclip.numbers import Scalar
from gradclip.ops.triton import driver, writing
from gradclip.ops.triton.calls import measuring_each, norming, over_runs
from gradclip.ops.triton.copying import Bounds, copy
from gradclip.ops.triton.lane import Lane, Numbers, lane_of, numbers_of, partials_of
from gradclip.ops.triton.launch import Call, launch
from gradclip.ops.triton.sheet import Sheet, sheet_of
from gradclip.ops.triton.table import HostTable, Run, on_device

Form: TypeAlias = tuple[tuple[Run, ...], int, int, bool]
"""What the tables of one model have in common: runs, chunks, segments, and whether any tensor is wide."""

UNBOUNDED: Bounds = (math.inf, 0.0)
"""`max_norm` and `eps` where no coefficient is asked for."""

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
        device: The same.
        lane: The same.
        form: What the tables have in common, with the number of the device.
        table: The table on the device: that of the last clip.
        turn: The number of clips so far.
        measuring: What measures, once it is launched by the driver.
    """

    __slots__ = ("_partials", "_scaling", "device", "form", "lane", "measuring", "table", "turn")

    def __init__(self, host: HostTable, device: torch.device, lane: Lane | None) -> None:
        self.lane = lane
        self.form = *host[1:], device.index or 0
        with torch.inference_mode(mode=False):  # or what was made inside is not copied to outside
            self.table = on_device(host, device)
        self.turn = 0
        self._partials = partials_of(host.chunks, device, lane)  # of this plan too, as its address is in the launches
        self.device = device
        self.measuring: Sheet | None = None
        self._scaling: Sheet | None = None

    def measure(self, host: HostTable, bounds: Bounds) -> Numbers:
        """Return what a clip has of the gradients of a table."""
        self.turn += 1
        numbers = numbers_of(self.device, self.lane, wide=host.is_wide)
        if self.measuring is not None:
            self.measuring.start(host, bounds, self.table, numbers.addresses)
        else:
            last = norming(self.table, self._partials, numbers)
            calls = [*measuring_each(self.table, 2.0, self._partials), last]
            copy(host, self.table, self.lane, bounds)
            launch(calls, self.device)
            self.measuring = self._written_down(calls, numbers[:4])
        _LAST.plan = self
        return numbers

    def scale_(self, coef: Tensor) -> None:
        """Multiply by one number."""
        if self._scaling is not None:
            self._scaling.launch((coef.data_ptr(),))
        else:
            calls = over_runs(writing.scale, self.table, coef, EACH=False)
            launch(calls, self.device)
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


@final
class Measured(NamedTuple):
    """What a plan has of the gradients of a table, by which bounds, and in which of its turns."""

    plan: Plan
    turn: int
    numbers: Numbers
    bounds: Bounds


@final
class Ahead:
    """A clip like the last one, which the walk starts where it finds gradients for it.

    Args:
        plan: The plan of the last one.
        lane: That of the plan.
        sheet: What it launches to measure.
        bounds: `max_norm` and `eps`.

    Attributes:
        arguments: What the extension takes to start it: those of `Driver.start`, and what the table has to be.
    """

    __slots__ = ("_bounds", "_lane", "_numbers", "_plan", "_slot", "arguments")

    def __init__(self, plan: Plan, lane: Lane, sheet: Sheet, bounds: Bounds) -> None:
        table = plan.table
        self._plan = plan
        self._lane = lane
        self._bounds = bounds
        self._numbers = numbers = lane.numbers(wide=table.is_wide)
        self._slot = slot = lane.slots.take(table.size, lane.where)
        place, launches = (slot.address, slot.copied, slot.is_new), sheet.filled(numbers.addresses)
        self.arguments = sheet.by.functions, lane.where, plan.form, *bounds, place, table.address, launches

    def over(self, *, is_started: bool) -> Measured | None:
        """Take back what is not used any more; return what was measured, if it was."""
        lane, plan = self._lane, self._plan
        plan.turn += 1  # its table may be another's now, also where the start has failed
        (lane.slots.give_back if is_started else lane.slots.leave)(self._slot, lane.where)
        if not is_started:
            lane.leave(self._numbers, wide=plan.table.is_wide)
            return None
        return Measured(plan, plan.turn, self._numbers, self._bounds)


class _Last(threading.local):
    plan: Plan | None = None


_LAST = _Last()
"""The plan of the last clip of a thread."""


def ahead(order: float | None, bounds: tuple[Scalar, float] | None) -> Ahead | None:
    """Return a clip like the last one of this thread, where one by the 2-norm is asked for and the driver launches it.

    Args:
        order: The order of the norm, if one will be asked for.
        bounds: The `max_norm` and `eps` of a coefficient that will be.
    """
    plan = _LAST.plan
    if plan is None or plan.measuring is None or order != 2.0 or driver.found() is None:  # noqa: PLR2004
        return None
    if (lane := lane_of(plan.device)) is None or lane is not plan.lane:
        return None
    is_known = bounds is not None and not isinstance(bounds[0], Tensor)
    return Ahead(plan, lane, plan.measuring, bounds if is_known else UNBOUNDED)  # type: ignore[arg-type]


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
