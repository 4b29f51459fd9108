"""The way of a table to a device, without a wait."""

from typing import TypeAlias

import torch
from torch import Tensor

from gradclip.numbers import CPU
from gradclip.ops.triton import driver
from gradclip.ops.triton.lane import Lane, pinned, slots_of
from gradclip.ops.triton.table import HostTable, Table, write
from gradclip.sending import for_replays
from gradclip.tracing import is_captured

Bounds: TypeAlias = tuple[float, float]
"""`max_norm` and `eps`, which lie behind a table."""


def copy(table: HostTable, to: Table, lane: Lane | None, bounds: Bounds = (0.0, 0.0)) -> None:
    """Copy a table to a device.

    Args:
        table: The table on the host.
        to: The same on the device.
        lane: What the thread keeps for the current stream, if it does.
        bounds: Read by kernels that make a coefficient.
    """
    there = to.words
    if lane is not None and (by := driver.found()) is not None and not isinstance(table.words, Tensor):
        start(by, table, bounds, to, [], lane)
        return
    if there.device.type == "cpu":  # that of Triton's interpreter
        write(table, bounds, there)
        return
    captured = is_captured(there.device)
    host = slots_of(there.device).take_spare(len(there)) if captured else pinned(len(there))
    if host is None:
        host = torch.empty(len(there), dtype=torch.int64, device=CPU)
    host = host[: len(there)]
    write(table, bounds, host)
    there.copy_(for_replays(host) if captured else host, non_blocking=True)


def start(
    by: driver.Driver, table: HostTable, bounds: Bounds, to: Table, launches: list[driver.Launch], lane: Lane
) -> None:
    """Write a table, copy it and launch what goes by it, in one call of the extension, which has made the table."""
    slots, where = lane.slots, lane.where
    slot = slots.take(to.size, where)
    try:
        while not by.start(where, table.words, bounds, (slot.address, slot.copied, slot.is_new), to.address, launches):
            busy, slot = slot, slots.new(to.size)
            slots.leave(busy, where)
    finally:  # the copy may be under way where a launch has failed, or Ctrl-C comes
        slots.give_back(slot, where)
