"""Keep a step from happening."""

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradclip.clipper.hooks import on_leaving, running_steps
from gradclip.clipper.selection import parameters_in
from gradclip.clipper.turn import refuse_thread
from gradclip.result import ClipResult


@final
class Suppression:
    """The step that a clipper keeps from happening, if there is one.

    Args:
        owns: Whether an optimizer updates parameters of the clipper.
    """

    def __init__(self, owns: Callable[[Optimizer], bool]) -> None:
        self._owns = owns
        self._step: SuppressedStep | None = None

    def check_thread(self) -> None:
        """Refuse to clip while another thread is in such a step."""
        if self._step is not None and not self._step.is_here:
            if self._step.thread in sys._current_frames():
                refuse_thread()
            self._end(self._step)  # that thread is gone

    @property
    def is_on(self) -> bool:
        """Whether there is such a step."""
        return self._step is not None

    def is_complete(self) -> bool:
        """Whether there is one, and no gradient has come up in it."""
        return self._step is not None and self._step.is_complete()

    def obey(self, result: ClipResult) -> None:
        """Keep the running step from happening where a clip says so, and let it happen where the clip does not."""
        if result.skipped is not None:
            self.suppress()
        else:
            self._step = None  # where a closure made other gradients than those that were skipped

    def suppress(self) -> None:
        """Keep the step from happening that is running, the outermost where optimizers wrap each other."""
        if self._step is None and (running := [x for x in running_steps() if self._owns(x)]):
            self._step = step = SuppressedStep(running[-1])
            on_leaving(step.optimizer, partial(self._end, step))
        if self._step is not None:  # known before it takes a gradient, as Ctrl-C may come anywhere
            self._step.hold()

    def recover(self, *, within: int = 0) -> None:
        """End a suppressed step that is over; it is not while one of the outer steps."""
        if self._step is not None and self._step.is_here and self._step.optimizer not in running_steps()[within:]:
            self._end(self._step)

    def _end(self, step: "SuppressedStep") -> None:
        if self._step is step:  # once
            step.end()
            self._step = None


@final
class SuppressedStep:
    """An optimizer whose step, until `end` is called, finds no gradients and so does nothing.

    An optimizer passes over a parameter without a gradient: no update, no weight decay, no state, no count. What it
    writes elsewhere all the same is put back: parameter groups and states of no parameter, where some count, and empty
    states.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.thread = threading.get_ident()
        self._states = set(optimizer.state)
        self._kept = [(owner, _numbers(owner)) for owner in (*optimizer.param_groups, *_of_no_parameter(optimizer))]
        self._gradients: list[tuple[Tensor, Tensor]] = []

    @property
    def is_here(self) -> bool:
        """Whether it is a step of this thread."""
        return self.thread == threading.get_ident()

    def hold(self) -> None:
        """Take the gradients out that are there now."""
        gradients = [(p, p.grad) for p in parameters_in(self.optimizer) if p.grad is not None]
        if gradients:
            self._gradients = gradients
            for parameter, _ in gradients:
                parameter.grad = None

    def is_complete(self) -> bool:
        """Whether no other gradient has come up since."""
        return all(parameter.grad is None or parameter.grad is own for parameter, own in self._gradients)

    def end(self) -> None:
        """Give the gradients back, as they were; unless, after an error in the step, there are new ones."""
        if self.is_complete():
            for parameter, gradient in self._gradients:
                parameter.grad = gradient
        self._gradients = []  # whoever holds this, holds no gradient
        for parameter in [p for p in self.optimizer.state if p not in self._states]:
            del self.optimizer.state[parameter]
        for owner, before in self._kept:
            _restore(owner, before)


def _of_no_parameter(optimizer: Optimizer) -> list[dict[Any, Any]]:
    """Return where an optimizer keeps what belongs to no parameter: its state, by words, and in these maybe more."""
    words = [value for key, value in optimizer.state.items() if not isinstance(key, Tensor)]
    return [optimizer.state, *(value for value in words if isinstance(value, dict))]


def _named(owner: dict[Any, Any]) -> list[Any]:
    return [key for key in owner if not isinstance(key, Tensor) and key != "params"]


def _numbers(owner: dict[Any, Any]) -> dict[Any, tuple[Any, Tensor | None]]:
    """Return what is held by names, but for parameters, and copies of tensors, which may be written."""
    held = {key: owner[key] for key in _named(owner)}
    return {key: (value, value.clone() if isinstance(value, Tensor) else None) for key, value in held.items()}


def _restore(owner: dict[Any, Any], before: dict[Any, tuple[Any, Tensor | None]]) -> None:
    for key in _named(owner):
        if key not in before:
            del owner[key]
    for key, (value, copy) in before.items():
        owner[key] = value
        if copy is not None:
            with torch.no_grad():
                value.copy_(copy)
