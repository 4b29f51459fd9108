"""What ranks do in tests of what is private in torch: ask it, by its private names and without."""

import gc
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard

from gradclip.distributed import torch_private as private


class Without:
    """A tensor that has lost its private names."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        if name in {"_spec", "_local_tensor", "_split_tensor", "_device_types"}:
            raise AttributeError(name)
        return getattr(self._of, name)


def dtensors() -> dict[str, Any]:
    """What the private names and the public ones say of a DTensor, of a placement, and of a group, on a rank."""
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    x: Any = DTensor.from_local(torch.full((2, 3), 1.0 + torch.distributed.get_rank()), mesh, [Shard(0)])
    public = private.spec_of_dtensor(Without(x))
    spec = private.spec_of_dtensor(x)
    whole = torch.arange(5.0)
    group: Any = torch.distributed.group.WORLD
    return {
        "same object": spec is private.spec_of_dtensor(x),
        "spec": (
            spec.mesh is public.mesh,
            tuple(spec.placements) == tuple(public.placements),
            spec.shape == public.shape,
        ),
        "dtype": spec.tensor_meta.dtype == public.tensor_meta.dtype,
        "local": (private.local_of_dtensor(x).tolist(), private.local_of_dtensor(Without(x)).tolist()),
        "shared": private.local_of_dtensor(Without(x)).data_ptr() == private.local_of_dtensor(x).data_ptr(),
        "pieces": [
            [piece.tolist() for piece in private.split_by(placement, whole, 2)]
            for placement in (Shard(0), Without(Shard(0)))
        ],
        "devices": private.device_types_of(group),
    }


def handles() -> dict[str, Any]:
    """What FSDP1 knows of its flat parameter, on a rank."""
    cpu = torch.device("cpu")
    model = FullyShardedDataParallel(nn.Linear(3, 1), device_id=cpu, use_orig_params=True)
    with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
        gathered = [
            hasattr(known.flat, private.GATHERED) for x in gc.get_objects() if (known := private.flat_handle(x))
        ]
    del model
    gc.collect()
    model = FullyShardedDataParallel(nn.Linear(3, 1), device_id=cpu)
    found = [known for x in gc.get_objects() if (known := private.flat_handle(x)) is not None]
    flat = next(iter(model.parameters()))
    assert model.check_is_root()
    of_model = private.handles_of(model), private.is_idle(model)
    with FullyShardedDataParallel.summon_full_params(model):
        busy = private.is_idle(model)
    return {
        "of model": ([x.numel for x in of_model[0]], of_model[1], busy),
        "of another": (private.handles_of(flat), private.is_idle(flat)),
        "numels": [(x.numel, x.is_sharded, x.is_of_dtensors) for x in found],
        "flat": [x.flat is flat for x in found],
        "gathered": gathered + [hasattr(x.flat, private.GATHERED) for x in found],
        "marked": getattr(flat, private.FLAT, False),
        "padding": private.padding_of(flat),
        "no padding": private.padding_of(torch.zeros(1)),
    }
