"""A patch that holds in a process, and in those that it starts by `multiprocessing`."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import current_process, parent_process, util
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, final

from gradclip.patching import patch
from gradclip.records import ClipRecord, Sink, flush
from gradclip.records.jsonlines import rank

if TYPE_CHECKING:
    from gradclip.policies import Policy


@final
class PatchedProcesses:
    """torch's functions replaced in this process, and in all that it starts, and that they start.

    One that is forked has everything as it is. Any other is given this together with what it runs, and makes it anew
    before it runs that. A file is opened there by the first record, so that one that takes no step leaves nothing.

    Args:
        policy: The rule that `patch` is given.
        sinks: What takes the records, in each process.
    """

    def __init__(self, policy: "Policy | None", sinks: Sequence[Sink]) -> None:
        self._arguments = policy, sinks
        self._patch = patch(policy, sinks=sinks)
        self._start = BaseProcess.start
        self._own_start = _taking_along(self, BaseProcess.start)
        self._is_alone = True  # no process was started
        BaseProcess.start = self._own_start  # type: ignore[method-assign]
        util.register_after_fork(self, _flush_at_the_end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_parent=self._note_process)

    def _note_process(self) -> None:
        self._is_alone = False

    @property
    def had_nothing_to_do(self) -> bool:
        """Whether there was something to do before steps or in calls, and neither came, nor a process for them."""
        clippers = self._patch._clippers
        return self._is_alone and clippers is not None and clippers.is_idle and not self._patch.was_called

    def end(self) -> None:
        """Put everything back in this process."""
        if BaseProcess.start is self._own_start:
            BaseProcess.start = self._start  # type: ignore[method-assign]
        self._patch.undo()

    def __reduce__(self) -> tuple[Any, ...]:
        return PatchedProcesses, self._arguments


def _taking_along(patched: PatchedProcesses, start: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return what starts a process that takes a patch along."""

    @functools.wraps(start)
    def taking_along(process: Any) -> None:
        patched._note_process()
        process._gradclip = patched  # which is pickled with it
        start(process)

    return taking_along


def _flush_at_the_end(patched: PatchedProcesses) -> None:  # noqa: ARG001 -- of all
    """Have records that wait for a device be written when a process ends, which may be without `atexit`."""
    util.Finalize(None, flush, exitpriority=0)


@final
class OfProcess:
    """A sink whose records say which process they are of, but for the first process and for ranks.

    Args:
        sink: What takes them then.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __call__(self, record: ClipRecord) -> None:
        """Take a record."""
        if parent_process() is not None and rank() is None:
            name = current_process().name
            record = replace(record, group=name if record.group is None else f"{name}, {record.group}")
        self._sink(record)

    def __repr__(self) -> str:
        return repr(self._sink)
