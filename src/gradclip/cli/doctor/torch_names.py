"""The private names of torch in files called `torch_private`: where one is missing, something else answers."""

import importlib
from typing import Any

NAMES: dict[str, tuple[str, ...]] = {
    "torch": ("_foreach_copy_", "_foreach_norm"),
    "torch._C": ("_TorchDispatchModeKey", "_get_dispatch_mode", "_is_tracing", "_len_torch_dispatch_stack"),
    "torch._C._functorch": ("peek_interpreter_stack",),
    "torch.utils._python_dispatch": ("TorchDispatchMode",),
    "torch.Tensor": ("__dlpack_c_exchange_api__", "_is_zerotensor", "_values", "_version"),
    "torch._subclasses.FakeTensor": ("fake_mode",),
    "torch.distributed.ProcessGroup": ("_device_types",),
    "torch.distributed.checkpoint.state_dict": ("_init_optim_state",),
    "torch.distributed._functional_collectives.AsyncCollectiveTensor": ("trigger_wait",),
    "torch.distributed.fsdp._flat_param": ("FlatParamHandle", "HandleShardingStrategy"),
    "torch.distributed.fsdp._flat_param.FlatParameter": (
        "_numels",
        "_param_extensions",
        "_params",
        "_saved_grad_shard",
        "_shard_numel_padded",
    ),
    "torch.distributed.tensor.DTensor": ("_local_tensor", "_spec"),
    "torch.distributed.tensor.Shard": ("_split_tensor",),
    "torch.optim.Optimizer": ("_optimizer_step_pre_hooks", "profile_hook_step"),
}
"""Names by what has them. Those that torch gives to objects as it goes, such as the `found_inf` of an optimizer or all
that a `GradScaler` holds, or has in builds for GPUs alone, are not here: that they are missing now says nothing."""


def missing_names() -> list[str]:
    """Return the names that this torch does not have."""
    return [f"{place}.{name}" for place, names in NAMES.items() for name in names if not _has(_find(place), name)]


def verdict() -> str:
    """Say how many are found, and which are not."""
    missing, count = missing_names(), sum(map(len, NAMES.values()))
    return f"{count - len(missing)} of {count} found" + (f"; missing: {', '.join(missing)}" if missing else "")


def _find(place: str) -> Any:
    """Return a module or what is in one, or None."""
    try:
        return importlib.import_module(place)
    except ImportError:
        outer, _, name = place.rpartition(".")
        return getattr(_find(outer), name, None) if outer else None


def _has(x: Any, name: str) -> bool:
    """Tell whether something has a name, or declares that its instances do."""
    return hasattr(x, name) or name in getattr(x, "__annotations__", {})
