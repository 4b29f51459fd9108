"""One thread at a time."""

import threading
from types import TracebackType
from typing import NoReturn, final


@final
class Turn:
    """What a thread holds while it clips: another that comes meanwhile is refused, and does not wait.

    Two clips at a time would learn from each other's halves. To take turns is the business of whoever has the threads.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            refuse_thread()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def refuse_thread() -> NoReturn:
    """Raise where two threads clip at a time."""
    name = threading.current_thread().name
    msg = (
        f"A `GradClipper` must be used by one thread at a time, got a clip in {name!r} while another thread clips or "
        "steps. Make a clipper for each thread, or let them take turns by a lock of yours."
    )
    raise RuntimeError(msg)
