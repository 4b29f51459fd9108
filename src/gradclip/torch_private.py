"""Every name of torch that is private or undocumented and that gradclip uses, each in a function of its own.

Each says why it is needed, and what answers where it is missing: a new torch may cost speed or a check, never the
import of gradclip. All were seen in torch 2.6 to 2.15; `tests/test_torch_private.py` holds them to what is said here.
Beside them, `csrc/exchange.cpp` reads `torch.Tensor.__dlpack_c_exchange_api__` (torch 2.10 and newer), and
`ops/triton/recording.py` is a `TorchDispatchMode`, without which torch launches the operations of rules one by one.
Those of what is spread over ranks are in `distributed/torch_private.py`.
"""

import sys
from collections.abc import Callable
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

# Tracing.


def _dispatch_modes() -> Callable[[], int]:
    """Count the dispatch modes that watch the operations of torch, and would miss what kernels do.

    Without it, none is seen: inside one, kernels run as outside.
    """
    return getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)


def _tracing_modes() -> Callable[[], bool]:
    """Tell whether a dispatch mode of torch's own tracers is at work, in which tensors may have no numbers to read.

    Without it, as if all modes were theirs: in those of users, `patch()` records what a call leaves.
    """
    get, keys = getattr(torch._C, "_get_dispatch_mode", None), getattr(torch._C, "_TorchDispatchModeKey", None)
    if get is None or keys is None:
        return lambda: count_dispatch_modes() > 0
    known = tuple(keys.__members__.values())
    return lambda: any(get(key) is not None for key in known)


def _jit_tracing() -> Callable[[], bool]:
    """Tell whether `torch.jit.trace` is at work. Without it, no: what is traced has the numbers of its first call."""
    return getattr(torch._C, "_is_tracing", lambda: False)


def _transform() -> Callable[[], object]:
    """Return the innermost transform of `torch.func`, whose tensors may be many in one and have no memory of their own.

    Without it, none is seen: what reads their numbers is an error of torch.
    """
    return getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None)


count_dispatch_modes = _dispatch_modes()
has_tracing_mode = _tracing_modes()
is_jit_tracing = _jit_tracing()
transform = _transform()


# Devices. What is published takes several calls of Python, each of which is slow after a step has emptied the caches.


def _current_cuda_device() -> Callable[[], int]:
    """Return the number of the GPU that is current. Without it, torch's published function."""
    return getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)


def _current_cuda_stream() -> Callable[[int], int]:
    """Return what the driver calls the current stream of a GPU. Without it, that of torch's published stream."""

    def published(device: int) -> int:
        return torch.cuda.current_stream(device).cuda_stream

    return getattr(torch._C, "_cuda_getCurrentRawStream", published)


current_cuda_device = _current_cuda_device()
current_cuda_stream = _current_cuda_stream()


# Tensors.


def version_of(x: Tensor) -> int:
    """Return how often a tensor was written, which tells whether gradients changed without reading one.

    That of an inference tensor is not counted. Without it, 0: no change is noticed, so a few misuses are not.
    """
    try:
        return x._version
    except (AttributeError, RuntimeError):
        return 0


def stored_values(x: Tensor) -> Tensor:
    """Return the elements that a sparse tensor stores, as a view: `values()` wants it coalesced, and records autograd.

    Without it, `values()` of what is detached, which raises where the tensor is not coalesced.
    """
    return getattr(x, "_values", lambda: x.detach().values())()


def is_lazy_zero(x: Tensor) -> bool:
    """Tell whether a tensor is a zero without memory, as forward-mode differentiation makes it; it cannot be written.

    Without it, False: writing raises torch's own error.
    """
    return getattr(x, "_is_zerotensor", lambda: False)()


def is_fake(x: Tensor) -> bool:
    """Tell whether a tensor has a shape and no numbers, under `FakeTensorMode`. Without it, False: torch raises."""
    return type(x) is not Tensor and hasattr(x, "fake_mode")


def copy_each_(to: list[Tensor], given: list[Tensor]) -> None:
    """Copy tensors of a device to others of the same shapes, in a few launches. Without it, in one launch each."""
    if (copy := getattr(torch, "_foreach_copy_", None)) is not None:
        copy(to, given)
    else:
        for x, own in zip(to, given, strict=True):
            x.copy_(own)


def norms_in_float64(tensors: list[Tensor], order: float) -> list[Tensor]:
    """Return the norm of each tensor of a device in float64, in a few launches. Without it, in one launch each."""
    if (norms := getattr(torch, "_foreach_norm", None)) is None:
        return [torch.linalg.vector_norm(x, order, dtype=torch.float64) for x in tensors]
    return norms(tensors, order, dtype=torch.float64)


def sums_of_groups(x: Tensor, places: Tensor, order: Tensor, starts: Tensor) -> Tensor:
    """Return the sums of groups, each added up in one order. Without it, on a device in whatever order threads come."""
    if (sums := getattr(torch, "segment_reduce", None)) is None:
        return x.new_zeros(len(starts) - 1).index_add_(0, places, x)
    return sums(x[order], "sum", offsets=starts, unsafe=True)


# Optimizers and scalers.


def runs_hooks(optimizer: Optimizer, *, inherited: bool = False) -> bool:
    """Tell whether the step of an optimizer runs hooks, or a step that it overrides. Without it, as if one does.

    One that never called `Optimizer.__init__` does not; a class in place of another may go on to that one's step.
    """
    steps = [vars(kind)["step"] for kind in type(optimizer).__mro__ if "step" in vars(kind)]
    return any(getattr(x, "hooked", False) for x in steps[: None if inherited else 1]) or not _marks_hooked_steps()


@lru_cache(maxsize=1)
def _marks_hooked_steps() -> bool:
    probe = torch.optim.SGD([torch.zeros(1, device="cpu", requires_grad=True)], lr=0.0)
    return hasattr(type(probe).step, "hooked")


def step_code() -> CodeType | None:
    """Return the code around the step of every optimizer, which runs the hooks, to find it on the stack.

    Without it, None: what first calls a hook is taken for it, and a step before that is not found.
    """
    wrap: Any = getattr(Optimizer, "profile_hook_step", None)
    return None if wrap is None else wrap(lambda: None).__code__


def state_making_code() -> CodeType | None:
    """Return the code that steps to have an optimizer make its state, for a checkpoint. Without it, None."""
    module = sys.modules.get("torch.distributed.checkpoint.state_dict")
    return getattr(getattr(module, "_init_optim_state", None), "__code__", None)


def stepping_optimizer(frame: FrameType) -> Any:
    """Return the optimizer whose step a frame is, where it is the one that runs hooks. Without it, None."""
    return frame.f_locals.get("self")


def step_hooks_of(optimizer: Optimizer) -> dict[int, Any]:
    """Return the hooks that run before the steps of an optimizer. Without it, none: copies are less often noticed."""
    return getattr(optimizer, "_optimizer_step_pre_hooks", {})


def run_last(optimizer: Any, hook: RemovableHandle) -> None:
    """Have a hook run after all others before a step. Without it, it runs in its turn."""
    if (hooks := getattr(optimizer, "_optimizer_step_pre_hooks", None)) is not None:
        hooks[hook.id] = hooks.pop(hook.id)


def fused_scale(optimizer: Optimizer) -> Tensor | None:
    """Return what a fused optimizer will divide gradients by in the step that a scaler has called, if it has."""
    return getattr(optimizer, "grad_scale", None)


def forget_fused_scale(optimizer: Any) -> None:
    """Have a fused optimizer divide by nothing: its gradients are unscaled."""
    optimizer.grad_scale = None


FUSED_OVERFLOW = "found_inf"
"""The attribute that keeps the step of a fused optimizer from happening if it is 1, which a kernel reads."""


def fused_overflow(optimizer: Optimizer) -> Tensor | None:
    """Return what keeps the step of a fused optimizer from happening if it is not 0, where a scaler has set it."""
    return getattr(optimizer, FUSED_OVERFLOW, None)


def takes_overflow(optimizer: Optimizer) -> bool:
    """Whether the step of an optimizer reads that attribute. Without it, no: the host decides about steps."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def has_scaled(scaler: GradScaler) -> bool:
    """Tell whether a scaler has scaled any loss yet. Without it, as if it has."""
    return scaler.is_enabled() and getattr(scaler, "_scale", True) is not None


def overflows_found(scaler: GradScaler, optimizer: Optimizer) -> list[Tensor] | None:
    """Return what a scaler has found in the gradients of an optimizer that it has unscaled; None if it has not.

    Without it, None: it is asked to unscale, and says so if it has.
    """
    state = getattr(scaler, "_per_optimizer_states", {}).get(id(optimizer))
    if state is None or state["stage"].name == "READY":
        return None
    return list(state["found_inf_per_device"].values())
