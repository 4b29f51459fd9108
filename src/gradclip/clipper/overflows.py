"""Hear of the steps that a `torch.amp.GradScaler` leaves out: on an overflow it does not call the optimizer."""

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from torch.amp import GradScaler
from torch.optim import Optimizer

from gradclip.clipper.arguments import unwrapped
from gradclip.clipper.hooks import STEPS
from gradclip.torch_private import runs_hooks


class Hearer(Protocol):
    """What wants to know of the steps that scalers keep from happening."""

    def _hear_overflow(self, optimizer: Optimizer) -> None:
        """Hear of a step that did not happen, once or, where somebody has wrapped the method meanwhile, twice."""


_LOCK = threading.RLock()
"""Held while it changes who hears, or is looked up: trainings in several threads begin and end at any time."""

_HEARERS: "weakref.WeakSet[Hearer]" = weakref.WeakSet()
_BEFORE: "weakref.WeakKeyDictionary[Callable[..., Any], Callable[..., Any]]" = weakref.WeakKeyDictionary()
"""What stood in place of the `step` of all scalers, by what was put there."""


def hear(hearer: Hearer) -> None:
    """Tell an object of the steps that scalers leave out, for as long as it lives."""
    with _LOCK:
        _HEARERS.add(hearer)
        if GradScaler.step not in _BEFORE:
            telling = _telling(GradScaler.step)
            _BEFORE[telling] = GradScaler.step
            GradScaler.step = telling  # type: ignore[method-assign]


def hear_no_more(hearer: Hearer) -> None:
    """Tell an object no more, and once nobody is told, leave scalers as they were."""
    with _LOCK:
        _HEARERS.discard(hearer)
        while not _HEARERS and GradScaler.step in _BEFORE:
            GradScaler.step = _BEFORE[GradScaler.step]  # type: ignore[method-assign]


def _telling(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `step` of all scalers, which tells of the steps that they leave out."""

    @functools.wraps(step)
    def telling_step(scaler: GradScaler, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        own = unwrapped(optimizer)
        with _LOCK:
            hearers = list(_HEARERS)
        begun = STEPS.begun
        value = step(scaler, optimizer, *args, **kwargs)
        if STEPS.begun == begun and isinstance(own, Optimizer) and runs_hooks(own, inherited=True):
            for hearer in hearers:
                hearer._hear_overflow(own)
        return value

    return telling_step
