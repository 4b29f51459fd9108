"""One thread at a time."""

import threading
from typing import NoReturn, final


@final
class Turn:
    """What a thread holds while it clips: another that comes meanwhile is refused, and does not wait.

    Two clips at a time would learn from each other's halves. To take turns is the business of whoever has the threads.

    Args:
        waits: Whether another thread waits all the same, as where nobody knows that there is a clipper.
    """

    __slots__ = ("_lock", "_waits")

    def __init__(self, *, waits: bool = False) -> None:
        self._lock = threading.RLock()
        self._waits = waits

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=self._waits):
            refuse_thread()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._lock.release()


def refuse_thread() -> NoReturn:
    """Raise where two threads clip at a time."""
    name = threading.current_thread().name
    msg = (
        f"A `GradClipper` must be used by one thread at a time, got a clip in {name!r} while another thread clips or "
        "steps. Make a clipper for each thread, or let them take turns by a lock of yours."
    )
    raise RuntimeError(msg)
