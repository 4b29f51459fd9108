"""The parameters of `FullyShardedDataParallel` (FSDP1): plain tensors that hold pieces, and do not say of what."""

import gc
import sys
from typing import Any

from torch import Tensor

from gradclip.distributed.ownership import Ownership, declare, declared
from gradclip.validation import refuse_flattened

FLAT = "_fsdp_flattened"
"""The attribute of such a parameter."""

HANDLE = "torch.distributed.fsdp._flat_param"


def may_be_flat() -> bool:
    """Whether there can be such parameters: their module is imported."""
    return HANDLE in sys.modules


def is_flat(parameter: Tensor) -> bool:
    """Whether a parameter is sharded by FSDP1; it is marked then, whether or not it is the flat one itself."""
    return getattr(parameter, FLAT, False)


def declare_flat(parameter: Tensor) -> Ownership:
    """Find out and remember who holds a parameter that FSDP1 shards, and all others that it does.

    Only the handle of FSDP1 knows, and parameters do not lead to it: it is looked for among all objects, once.

    Raises:
        ValueError: If FSDP1 has made plain tensors of the local parts of DTensors, which leave no trace of the rest.
    """
    module: Any = sys.modules[HANDLE]
    for handle in [x for x in gc.get_objects() if type(x) is module.FlatParamHandle]:
        flat = handle.flat_param
        if any(flat._param_extensions or ()):
            refuse_flattened()
        sizes = {id(flat): (flat, sum(flat._numels))}
        sizes |= {id(x): (x, numel) for x, numel in zip(flat._params or (), flat._numels, strict=False)}
        is_sharded = handle._sharding_strategy is not module.HandleShardingStrategy.NO_SHARD
        sharded, replicated = (handle.process_group, ()) if is_sharded else ((), handle.process_group)
        for tensor, numel in sizes.values():
            if declared(tensor) is None:
                declare([tensor], Ownership(sharded=sharded, replicated=replicated, numel=numel))
    return declared(parameter) or Ownership()


def without_padding(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of a flat parameter without the zeros at the end that make all shards of one size."""
    padding = getattr(parameter, "_shard_numel_padded", 0)
    return gradient[: gradient.numel() - padding] if padding else gradient
