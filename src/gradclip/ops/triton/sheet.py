"""Launches that are kept from step to step: to write them down takes longer than to make them."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias, final

from gradclip.ops.triton import driver
from gradclip.ops.triton.copying import Bounds, start
from gradclip.ops.triton.lane import Lane
from gradclip.ops.triton.launch import Call, launches_of
from gradclip.ops.triton.table import HostTable, Table

Blank: TypeAlias = tuple[int, int, int]
"""A launch, which of its arguments, and which of the addresses of a run that is."""


@final
class Sheet:
    """Launches by the driver, with blanks for what is at another address each time.

    Args:
        by: The driver.
        lane: What the thread keeps for the stream.
        launches: The launches.
        blanks: Where addresses go.

    Attributes:
        by: The driver.
    """

    __slots__ = ("_blanks", "_lane", "_launches", "by")

    def __init__(self, by: driver.Driver, lane: Lane, launches: list[driver.Launch], blanks: Iterable[Blank]) -> None:
        self.by = by
        self._lane = lane
        self._launches = launches
        self._blanks = [(launches[launch][-1], argument, which) for launch, argument, which in blanks]

    def launch(self, addresses: Sequence[int]) -> None:
        """Launch, on what is there."""
        self.by.launch(self._lane.where, self.filled(addresses))

    def start(self, host: HostTable, bounds: Bounds, to: Table, addresses: Sequence[int]) -> None:
        """Copy a table, and launch."""
        start(self.by, host, bounds, to, self.filled(addresses), self._lane)

    def filled(self, addresses: Sequence[int]) -> list[driver.Launch]:
        """Return the launches, on what is there."""
        for arguments, place, which in self._blanks:
            arguments[place] = addresses[which]
        return self._launches


def sheet_of(calls: list[Call], lane: Lane | None, blanks: Iterable[Blank]) -> Sheet | None:
    """Write down what was launched in the stream of a lane, if the driver does it from now on."""
    by = driver.found()
    if by is None or lane is None or (found := launches_of(calls, lane.device)) is None:
        return None
    return Sheet(by, lane, found, blanks)
