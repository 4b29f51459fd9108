"""Private and undocumented names of torch, of what is spread over ranks: as `gradclip.torch_private` has the others."""

import sys
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

# DTensors.


class PublicSpec(NamedTuple):
    """What a DTensor says of itself through its public names."""

    mesh: Any
    placements: Any
    shape: Any
    tensor_meta: Any


class Meta(NamedTuple):
    """The dtype of a DTensor."""

    dtype: torch.dtype


def spec_of_dtensor(x: Any) -> Any:
    """Return the spec of a DTensor: mesh, placements, global shape and dtype, the same object while none changes.

    The walk of the kernels reads it too, and the local part; it leaves a DTensor without them to Python.
    Without it, one that is made anew from its public names, and so compared by its parts.
    """
    spec = getattr(x, "_spec", None)
    return PublicSpec(x.device_mesh, x.placements, x.shape, Meta(x.dtype)) if spec is None else spec


def local_of_dtensor(x: Any) -> Tensor:
    """Return the local part of a DTensor itself. Without it, `to_local()`, which may be a view of it."""
    return x.detach().to_local() if (local := getattr(x, "_local_tensor", None)) is None else local


def arrived(x: Any) -> Tensor:
    """Return what a functional collective is still making once it is there. Without it, torch waits when it is used."""
    return x.trigger_wait() if type(x) is not Tensor and hasattr(x, "trigger_wait") else x


def split_by(placement: Any, x: Tensor, parts: int) -> list[Tensor]:
    """Return what the ranks along a sharded dimension hold, in order, strided shards included.

    Without it, the pieces of `torch.chunk`, which is how a plain `Shard` cuts.
    """
    split: Any = getattr(placement, "_split_tensor", None)
    if split is None:
        return list(x.chunk(parts, dim=placement.dim))
    return split(x, parts, with_padding=False, contiguous=False)[0]


LOCALIZED = "_st_info"
"""The attribute of a parameter that DDP has made of a DTensor's local part. Without it, such a one counts as a copy."""

LOCALIZER = "torch.distributed.tensor.parallel.ddp"
"""The module that makes them."""


# FSDP1, and process groups.

FLAT = "_fsdp_flattened"
"""The attribute that marks the parameters of FSDP1; without it, they count as copies."""

GATHERED = "_saved_grad_shard"
"""What a flat parameter has while each rank has all gradients of its pieces. Without it, these count as pieces then."""

FSDP1 = "torch.distributed.fsdp._flat_param"
"""The module of its handles."""


class FlatHandle(NamedTuple):
    """What a handle of FSDP1 knows of its flat parameter.

    Attributes:
        flat: The flat parameter.
        pieces: The parameters that are views of it, with their numbers of elements as wholes.
        numel: The number of elements of all.
        group: The ranks it is over.
        is_sharded: Whether these hold pieces, and not copies.
        is_of_dtensors: Whether it was made of DTensors.
    """

    flat: Tensor
    pieces: list[tuple[Tensor, int]]
    numel: int
    group: Any
    is_sharded: bool
    is_of_dtensors: bool


def flat_handle(x: object) -> FlatHandle | None:
    """Return what an object knows if it is a handle of FSDP1: parameters do not lead to it, so all objects are asked.

    Without its names, AttributeError: nothing else says who holds what.
    """
    module, handle = sys.modules.get(FSDP1), cast("Any", x)
    if module is None or type(x) is not module.FlatParamHandle:
        return None
    flat, counts, extensions = handle.flat_param, handle.flat_param._numels, handle.flat_param._param_extensions or ()
    is_sharded = handle._sharding_strategy is not module.HandleShardingStrategy.NO_SHARD
    pieces = list(zip(flat._params or (), counts, strict=False))
    return FlatHandle(flat, pieces, sum(counts), handle.process_group, is_sharded, any(extensions))


def handles_of(model: Any) -> list[FlatHandle]:
    """Return what all handles of an FSDP1 model know. Without it, none, and its own `clip_grad_norm_` answers."""
    return [known for x in getattr(model, "_all_handles", ()) if (known := flat_handle(x)) is not None]


def is_idle(model: Any) -> bool:
    """Tell whether a model of FSDP1 is between two passes, as its `clip_grad_norm_` wants it. Without it, no."""
    return getattr(getattr(model, "training_state", None), "name", None) == "IDLE"


def padding_of(parameter: Tensor) -> int:
    """Return how many zeros at the end make all shards of a flat parameter of one size. Without it, 0: they add 0."""
    return getattr(parameter, "_shard_numel_padded", 0)


def device_types_of(group: Any) -> list[str]:
    """Return the types of devices whose tensors a process group reduces. Without it, `cuda` for NCCL, else `cpu`."""
    devices = getattr(group, "_device_types", None)
    if devices is None:
        return ["cuda" if torch.distributed.get_backend(group) == "nccl" else "cpu"]
    return [device.type for device in devices]
