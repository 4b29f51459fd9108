"""Hear of the steps that a `torch.amp.GradScaler` leaves out: on an overflow it does not call the optimizer."""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, final

from torch.amp import GradScaler
from torch.optim import Optimizer

from gradclip.clipper.arguments import unwrapped


class Hearer(Protocol):
    """What wants to know of the steps that a scaler keeps from happening."""

    def _steps_of(self, optimizer: Optimizer) -> int | None:
        """Return how many steps of an optimizer it has heard of; None where it does not ask."""

    def _hear_overflow(self, optimizer: Optimizer) -> None:
        """Hear of a step that did not happen."""


@final
class TellingStep:
    """The `step` of a scaler, which does not call that of an optimizer on an overflow, and then tells clippers so.

    Args:
        scaler: The scaler, in whose place for the method this is.

    Attributes:
        before: What somebody else had put there; else its class has the step, which may be replaced meanwhile.
        hearers: Whom it tells.
    """

    def __init__(self, scaler: GradScaler) -> None:
        self.before: Callable[..., Any] | None = vars(scaler).get("step")
        self.hearers: weakref.WeakSet[Hearer] = weakref.WeakSet()
        self._scaler = scaler

    def __call__(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Step, or not."""
        step = self.before or partial(type(self._scaler).step, self._scaler)
        return tell(list(self.hearers), step, optimizer, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:  # a copy of the scaler tells nobody
        return {**vars(self), "hearers": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.hearers = weakref.WeakSet()


def tell(hearers: Sequence[Hearer], step: Callable[..., Any], optimizer: Any, *args: Any, **kwargs: Any) -> Any:
    """Step by a scaler, and tell of a step that did not happen."""
    own = unwrapped(optimizer)
    before = [(hearer, hearer._steps_of(own)) for hearer in hearers]
    value = step(optimizer, *args, **kwargs)
    for hearer, steps in before:
        if steps is not None and hearer._steps_of(own) == steps:
            hearer._hear_overflow(own)
    return value


def hear(scaler: Any, hearer: Hearer) -> None:
    """Have a scaler tell of the steps that it keeps from happening."""
    if not isinstance(scaler.step, TellingStep):
        scaler.step = TellingStep(scaler)
    scaler.step.hearers.add(hearer)


def hear_no_more(scaler: Any, hearer: Hearer) -> None:
    """Have a scaler tell one less, and leave it as it was once it tells nobody."""
    if isinstance(telling := scaler.step, TellingStep):
        telling.hearers.discard(hearer)
        if not telling.hearers:
            del scaler.step
            if telling.before is not None:
                scaler.step = telling.before
