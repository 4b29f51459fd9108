"""Where records go: any callables that take one."""

import atexit
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias, final

from torch.optim import Optimizer

from gradclip.gradients.nonfinite import Counts
from gradclip.numbers import Scalar
from gradclip.records.alarms import Alarms
from gradclip.records.draft import Draft
from gradclip.records.record import ClipRecord
from gradclip.result import ClipResult
from gradclip.sending import Transfer

Sink: TypeAlias = Callable[[ClipRecord], object]


class Listener(NamedTuple):
    """Who hears the records of all clippers of the process: `gradclip.patch` and `gradclip.testing.capture_records` do.

    Attributes:
        sink: What takes them.
        hear: Gives it a record, and knows which clipper that is of by its sinks.
        at_once: Whether it hears of a clip before the next line of the program: tests do not want to wait.
    """

    sink: Sink
    hear: "Callable[[ClipRecord, Sinks], object]"
    at_once: bool = False


LISTENERS: list[Listener] = []
"""Those there are."""

MOST_WAITING = 64
"""Records whose numbers are on their way from a device, at most: then the oldest is waited for."""


@final
class Sinks:
    """The sinks of one clipper. A sink that fails is dropped with a warning, and training continues.

    Attributes:
        sinks: The sinks that have not failed.
        policy: The policy of the clipper.
    """

    def __init__(self, sinks: tuple[Sink, ...], policy: object) -> None:
        self.sinks = list(sinks)
        self.policy = policy
        self._written = ""
        self._alarms = Alarms()
        self._waiting: deque[tuple[Draft, Transfer | None]] = deque()

    @property
    def wanted(self) -> bool:
        """Whether anybody would read a record."""
        return bool(self.sinks or LISTENERS)

    def record(
        self,
        result: ClipResult,
        optimizer: Optimizer | None,
        loss: Scalar | None,
        nonfinite: Counts | None,
        *,
        norms: bool,
    ) -> None:
        """Give the record of a clip that has just been, of which `Draft` says what it takes, to every sink.

        At once, where the host knows its numbers. Else they are copied to it, which nothing waits for, and the record
        is given with that of a later clip: once they are there.
        """
        self._written = self._written or repr(self.policy)
        draft = Draft(result, self._written, optimizer, loss, nonfinite, norms=norms)
        if self._waiting or draft.is_elsewhere:
            self._defer(draft)
        else:
            self._emit(draft.record())

    def flush(self) -> None:
        """Wait for the numbers of the records that were not given yet, and give them."""
        while self._waiting:
            self._emit_oldest()

    def _defer(self, draft: Draft) -> None:
        self._waiting.append((draft, draft.fetch() if draft.is_elsewhere else None))
        _WAITING.add(self)
        while self._waiting and (len(self._waiting) > MOST_WAITING or _is_there(self._waiting[0][1])):
            self._emit_oldest()
        if any(listener.at_once for listener in LISTENERS):
            self.flush()

    def _emit_oldest(self) -> None:
        draft, transfer = self._waiting.popleft()
        if transfer is not None:
            transfer.wait()
        self._emit(draft.record())

    def _emit(self, record: ClipRecord) -> None:
        if begun := self._alarms.feed(record):
            record = replace(record, alarms=begun)
        own = [(sink, _failure(partial(sink, record))) for sink in tuple(self.sinks)]
        others = [(listener, _failure(partial(listener.hear, record, self))) for listener in tuple(LISTENERS)]
        for sink, error in own:  # once all have the record: a warning may be an error
            if error is not None:
                _drop(sink, self.sinks, sink, record, error)
        for listener, error in others:
            if error is not None:
                _drop(listener, LISTENERS, listener.sink, record, error)

    def __del__(self) -> None:
        self.flush()


_WAITING: "weakref.WeakSet[Sinks]" = weakref.WeakSet()


@atexit.register
def flush() -> None:
    """Deliver to the sinks the records that still wait for numbers from a device.

    On the CPU there are none. On other devices, the last record of a run is delivered when its clipper is detached or
    deleted, or when the program ends; call this to read a sink earlier.

    Example:
        >>> import gradclip
        >>> gradclip.records.flush()
    """
    while True:
        try:
            sinks = _WAITING.pop()  # one by one, as other threads may add some meanwhile
        except KeyError:
            return
        sinks.flush()


def _is_there(transfer: Transfer | None) -> bool:
    return transfer is None or transfer.is_done()


def _failure(give: Callable[[], object]) -> Exception | None:
    try:
        give()
    except Exception as error:  # noqa: BLE001 -- whatever a sink does, training goes on
        return error
    return None


def _drop(entry: object, among: list[Any], sink: Sink, record: ClipRecord, error: Exception) -> None:
    try:
        among.remove(entry)
    except ValueError:  # another thread, in which it failed too, was faster
        return
    message = f"The sink {sink!r} failed at step {record.step} and is dropped: {error!r}"
    warnings.warn(message, stacklevel=3)
