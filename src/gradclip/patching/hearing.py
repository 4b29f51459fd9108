"""Hear of all steps of a process, of those that scalers leave out, and of the records of all its clippers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradclip.clipper.overflows import hear, hear_no_more
from gradclip.patching.clippers import Clippers
from gradclip.records import ClipRecord, Sink, Sinks, flush
from gradclip.records.sinks import LISTENERS, Listener


@final
class Hearing:
    """What tells clippers of steps, and sinks of clips, until `end`.

    Args:
        clippers: What clips before the steps.
        sinks: What takes the records, those of clippers of the script's own too.
        holds: Whether to do so now, or another patch does.
    """

    def __init__(self, clippers: Clippers, sinks: Sequence[Sink], holds: Callable[[], bool]) -> None:
        flush()  # what is of before
        self._clippers = clippers
        self._holds = holds
        self._hook = register_optimizer_step_pre_hook(self._before_step)
        self._listeners = [Listener(sink, partial(self._give, sink)) for sink in sinks]
        LISTENERS.extend(self._listeners)
        hear(self)

    def end(self) -> None:
        """Hear no more, and have no clipper clip."""
        self._clippers.end()
        flush()
        self._hook.remove()
        LISTENERS[:] = [listener for listener in LISTENERS if listener not in self._listeners]  # or it is dropped
        hear_no_more(self)

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._clippers.before_step(optimizer, args, kwargs) if self._holds() else None

    def _give(self, sink: Sink, record: ClipRecord, source: Sinks) -> None:
        if self._holds() and (named := self._clippers.named(record, source)) is not None:
            sink(named)

    def _hear_overflow(self, optimizer: Optimizer) -> None:
        if self._holds():
            self._clippers.leave_out(optimizer)
