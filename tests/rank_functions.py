"""What tests run on ranks: functions that another process can import."""

import os
import time
import warnings
from typing import Any

import torch
from torch import Tensor, distributed, nn


def rank() -> int:
    return distributed.get_rank()


def total(of: list[float], *, factor: float = 1.0) -> float:
    """Add up one number of each rank."""
    total = torch.tensor(of[rank()] * factor)
    distributed.all_reduce(total)
    return total.item()


def nested(x: Tensor) -> dict[str, Any]:
    """Return tensors of several kinds inside other things."""
    own = x + rank()
    return {
        "views": (own, [own[1:], own.T]),
        "parameter": nn.Parameter(own),
        "half": own.to(torch.bfloat16),
        "none": None,
        "sparse": own.to_sparse(),
    }


def surroundings() -> tuple[int, int, str]:
    """Return what the pool has set up: threads, the size of the group, its backend."""
    return torch.get_num_threads(), distributed.get_world_size(), distributed.get_backend()


def fail(message: str) -> None:
    """Raise on every rank, with a message of its own."""
    msg = f"{message} {rank()}"
    raise LookupError(msg)


def leave_the_group() -> None:
    """Fail alike, and leave nothing to work with."""
    distributed.destroy_process_group()
    raise LookupError


def fail_before_barrier(failing: int) -> None:
    """Raise on one rank, while the others wait for it."""
    if rank() == failing:
        raise LookupError("not today")
    distributed.barrier()


def fail_after_barrier(failing: int = 1) -> None:
    """Raise on one rank, while the others return."""
    distributed.barrier()
    if rank() == failing:
        raise LookupError("not today")


def hang(hanging: int) -> None:
    if rank() == hanging:
        time.sleep(600.0)


def die(dying: int) -> None:
    if rank() == dying:
        os._exit(3)


def warn() -> str:
    warnings.warn("beware", UserWarning, stacklevel=1)
    return "warned"


def leave() -> None:
    raise SystemExit(0)


def process() -> int:
    return os.getpid()


def patched_norm() -> tuple[float, float]:
    """Clip DTensors by torch's function, which is replaced, as torchtitan does; return its norm, and the right one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    import gradclip

    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    whole = torch.randn(6, 4)
    p = nn.Parameter(distribute_tensor(torch.zeros(6, 4), mesh, [Shard(0)]))
    p.grad = distribute_tensor(whole, mesh, [Shard(0)])
    with gradclip.patch():
        norm = nn.utils.clip_grad_norm_([p], 0.5)
    assert isinstance(norm, DTensor)
    return norm.full_tensor().item(), whole.norm().item()
