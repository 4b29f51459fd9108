"""Take part in the steps of optimizers: of those a clipper is attached to, and, to watch, of all others."""

import sys
import threading
import weakref
from collections.abc import Callable
from functools import cache, partial
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any, NamedTuple, TypeAlias, final

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gradclip.callers import running
from gradclip.clipper import misuse
from gradclip.clipper.selection import parameters_in
from gradclip.clipper.watching import WATCHERS
from gradclip.clipper.withhold import told
from gradclip.parameters import named_parameters
from gradclip.torch_private import state_making_code, step_code, step_hooks_of, stepping_optimizer
from gradclip.tracing import untraced

_STEP: CodeType | None = step_code()
"""The code around the step of every optimizer, which runs the hooks; else that which first called them."""


StepArguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


@final
class Steps(threading.local):
    """How many steps have begun in this thread, of all optimizers: one that wraps another may run no hooks itself."""

    begun = 0


STEPS = Steps()


@cache
def listen() -> None:
    """Have torch tell of the steps of all optimizers, from the first call on."""
    register_optimizer_step_pre_hook(_begins)
    register_optimizer_step_post_hook(_ends)


def running_steps() -> list[Optimizer]:
    """Return the optimizers whose `step` this thread is in, from the innermost on.

    What a hook remembers of a step that began is wrong once the step raises; the stack is not.
    """
    return [stepping_optimizer(frame) for frame in _step_frames()]


def only_makes_state() -> bool:
    """Whether the running step is none of training, but one on zeros, at a rate of 0, that makes an optimizer's state.

    `torch.distributed.checkpoint` takes it to save, or load into, an optimizer that has not stepped yet.
    """
    return (code := state_making_code()) is not None and running(code) is not None


def on_leaving(optimizer: Optimizer, act: Callable[[], None]) -> None:
    """Act when this thread leaves the outermost running step of an optimizer: by an error too, which no hook hears of.

    Python tells this to whoever traces the frame. What does so already, in Python, such as a debugger, goes on.
    """
    frame = [frame for frame in _step_frames() if stepping_optimizer(frame) is optimizer][-1]
    before, others = sys.gettrace(), frame.f_trace
    # A tracer in C, as that of coverage.py, looks at no frame's own: it has to pause for this step.
    pauses = before is None or not isinstance(before, (FunctionType, MethodType))

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal others
        others = None if others is None else others(frame, event, argument)
        if event == "return":
            if pauses:
                sys.settrace(before)
            act()
        return trace

    frame.f_trace = trace
    if pauses:
        frame.f_trace_lines = False
        sys.settrace(lambda *_: None)  # of the frames that come, none


def _step_frames() -> list[FrameType]:
    found: list[FrameType] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code is _STEP and isinstance(stepping_optimizer(frame), Optimizer):
            found.append(frame)
        frame = frame.f_back
    return found


def _begins(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
    global _STEP  # noqa: PLW0603 -- one in torch
    _STEP = _STEP or sys._getframe(1).f_code
    _tell_begin(optimizer)


@untraced
def _tell_begin(optimizer: Optimizer) -> None:
    if only_makes_state():
        return
    if COPIED in optimizer.__dict__:
        _judge_copy(optimizer)
    STEPS.begun += 1
    for clipper in WATCHERS.of_step(optimizer):
        clipper._step_begins(optimizer)


@untraced
def _ends(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
    if only_makes_state():
        return
    clippers = WATCHERS.of_step(optimizer)
    unclipped = partial(_unclipped, optimizer)
    if len(clippers) > 1:
        unclipped = cache(unclipped)  # found out once for all that ask
    for clipper in clippers:
        clipper._step_ends(optimizer, unclipped)


def _unclipped(optimizer: Optimizer) -> list[tuple[str, Tensor]]:
    """Return the parameters with a gradient that an optimizer updates and nobody clips, with their names."""
    return [
        (name, p)
        for name, p in named_parameters(optimizer)
        if p.grad is not None and not any(clipper._clips for clipper in WATCHERS.of(p))
    ]


class Attachment(NamedTuple):
    """What a clipper keeps of an optimizer that it is attached to: what scales its loss, and the hook to remove."""

    scaler: GradScaler | None
    handle: RemovableHandle


@final
class ClipFirst:
    """The hook of an attached optimizer."""

    def __init__(self, clip: Callable[..., Tensor | None]) -> None:
        self._clip = clip

    def __call__(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepArguments | None:
        """Clip before the step, or once its closure has made the gradients."""
        is_plain = args[:1] == (optimizer,) and all(x is None for x in (*args[1:], *kwargs.values()))
        if not is_plain or not self._is_alone(optimizer):
            return once_gradients_exist(args, kwargs, partial(self._clip, optimizer))
        withheld = self._clip(optimizer, None, alone=True)
        return None if withheld is None else ((told(optimizer, withheld), *args[1:]), kwargs)

    def _is_alone(self, optimizer: Optimizer) -> bool:
        """Whether no hook that comes after may change for whom the step is taken, nor another clipper look on."""
        hooks = step_hooks_of(optimizer).values()
        is_last = next(reversed(hooks), None) is self
        return is_last and not any(isinstance(hook, ClipFirst) and hook is not self for hook in hooks)


def attach(optimizer: Optimizer, scaler: GradScaler | None, clip: Callable[..., Tensor | None]) -> Attachment:
    """Clip before each step of an optimizer, which from then on keeps alive what clips.

    Args:
        optimizer: The optimizer, which is not kept alive.
        scaler: What scales its loss, if anything.
        clip: Clips for a step, given the loss that its closure returned, and whether nobody else has a say in it: it
            may then return, on a device, whether the step should not happen.
    """
    handle = optimizer.register_step_pre_hook(ClipFirst(clip))
    optimizer.__dict__.pop(COPIED, None)
    optimizer.__getstate__ = partial(_state_for_copies, weakref.ref(optimizer))  # type: ignore[method-assign]
    return Attachment(scaler, handle)


# Copies: torch gives them no hooks, so they would step unclipped.

COPIED = "_copied_from_attached"
"""The attribute of a copy of an optimizer that a clipper was attached to, until its first step."""


@final
class Copied:
    """What such an attribute is: wherever a copy is made, in another process too, its steps are listened to."""

    def __init__(self) -> None:
        listen()

    def __reduce__(self) -> tuple[type["Copied"], tuple[()]]:
        return Copied, ()


def _state_for_copies(reference: "weakref.ref[Optimizer]") -> Any:
    optimizer: Any = reference()
    state = type(optimizer).__getstate__(optimizer)
    if not isinstance(state, dict):  # that of somebody else's class, which knows what to do with it
        return state
    return {**{key: value for key, value in state.items() if key != "__getstate__"}, COPIED: Copied()}


def release(optimizer: Optimizer, attachment: Attachment) -> None:
    """Let an optimizer step, and be copied, as if it had not been attached to by this clipper."""
    attachment.handle.remove()
    if not any(isinstance(hook, ClipFirst) for hook in step_hooks_of(optimizer).values()):
        optimizer.__dict__.pop("__getstate__", None)


def _judge_copy(optimizer: Optimizer) -> None:
    """Warn once, where a step of a copy begins on gradients of no clipper's."""
    owners = [p for p in parameters_in(optimizer) if p.grad is not None]
    if owners:
        del optimizer.__dict__[COPIED]
        if not any(map(WATCHERS.of, owners)):
            misuse.warn(misuse.COPIED)


def once_gradients_exist(
    args: tuple[Any, ...], kwargs: dict[str, Any], act: Callable[[Any], object], *, again: bool = True
) -> StepArguments | None:
    """Act before a step uses its gradients: now, or where it has a closure that makes them, once that has run.

    Args:
        args: What the pre-hook of the step was given.
        kwargs: The same, by name.
        act: What to do, given the loss that the closure returned, or None.
        again: Whether to do so each time that the closure runs in the step, or the first time alone.

    Returns:
        What the pre-hook should return.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if not callable(closure):  # but what an optimizer of somebody else's has in its place
        act(None)
        return None
    acts = True

    def acting_closure() -> Any:
        nonlocal acts
        loss = closure()
        if acts:
            act(loss)
            acts = again
        return loss

    if len(args) > 1:
        return (args[0], acting_closure, *args[2:]), kwargs
    return args, {**kwargs, "closure": acting_closure}
