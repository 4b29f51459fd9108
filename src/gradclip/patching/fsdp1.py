"""The method by which FSDP1 clips, which calls no function for it: found once a script has it, and what replaces it."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.hooks import RemovableHandle

from gradclip.distributed.span import ranks_of
from gradclip.distributed.torch_private import handles_of, is_idle
from gradclip.patching.places import Function, fsdp1

OWN = {"torch.utils._contextlib", __name__}
"""The modules of the method as torch decorates it, and of what replaces it: what others have put there stays."""


def when_imported(take: Callable[[Function], None]) -> RemovableHandle:
    """Hand over the method once: now, or as soon as a model is sharded; not after the removal.

    A model of FSDP1 registers the module that it shards as its own, of which torch tells.
    """
    is_taken = False

    def look(*_: object) -> None:
        nonlocal is_taken
        kind = None if is_taken else fsdp1()
        if kind is None:
            return
        is_taken, method = True, vars(kind).get("clip_grad_norm_")
        if method is not None and getattr(method, "__globals__", {}).get("__name__") in OWN:
            take(method)

    look()
    return register_module_module_registration_hook(look)


def in_place_of(
    original: Callable[[], Function], clip: Callable[..., Tensor], is_active: Callable[[], bool]
) -> Function:
    """Return what clips in place of the method: all parameters of a model, by a function that knows their shards.

    Args:
        original: Returns the method that is replaced, which goes on to say where it cannot be called.
        clip: The function: (parameters, max_norm, norm_type) -> norm.
        is_active: Whether it still is in place: somebody may have kept it.
    """
    known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()

    def takes(model: Any) -> bool:
        if not (is_active() and model.check_is_root() and is_idle(model)):
            return False
        if model not in known:
            known[model] = _is_of_one_group(model)
        return known[model]

    @functools.wraps(original())
    def clip_grad_norm_(self: Any, max_norm: float, norm_type: float = 2.0) -> Tensor:
        if not takes(self):
            return original()(self, max_norm, norm_type)
        parameters = list(self.parameters())
        dtypes = [p.grad.dtype for p in parameters if p.grad is not None] or [torch.float32]
        return clip(parameters, max_norm, norm_type).to(functools.reduce(torch.promote_types, dtypes))

    del clip_grad_norm_.__wrapped__  # which holds the method for as long as somebody has this
    return clip_grad_norm_


def _is_of_one_group(model: Any) -> bool:
    """Whether all is sharded over the ranks of the root, which the method adds up over.

    The ranks of other groups may hold other parameters, such as experts, or more of the same under tensor parallelism.
    """
    handles = handles_of(model)
    if not handles or any(x.is_of_dtensors for x in handles):
        return False
    own = ranks_of(model.process_group)
    return all(ranks_of(x.group) == own for x in handles if x.is_sharded)
