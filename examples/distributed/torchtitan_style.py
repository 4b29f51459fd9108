"""Train with FSDP2 as torchtitan does: shard each block, then the rest, and clip once across the whole mesh.

torchtitan's own `clip_grad_norm_` takes the parameters of all model parts, and gathers the norm with `full_tensor()`.
gradclip's takes the same parameters. The norm that it returns is a plain tensor, the same on every rank.

Run: torchrun --nproc-per-node 2 examples/distributed/torchtitan_style.py
"""

import task
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

import gradclip


def apply_fsdp(model: nn.Sequential, mesh: DeviceMesh) -> None:
    """Shard each block separately, so that blocks are gathered one by one, and the rest with the root."""
    blocks = [layer for layer in model if isinstance(layer, task.Block)]
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=block is not blocks[-1])
    fully_shard(model, mesh=mesh)


def main() -> None:
    """Train on all ranks, and compare the norms with those of a single process."""
    dist.init_process_group("gloo")  # "nccl" on GPUs
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("fsdp",))
    model = task.build()
    apply_fsdp(model, mesh)
    model_parts = [model]  # a pipeline with interleaved stages has several per rank
    optimizer = torch.optim.SGD([p for part in model_parts for p in part.parameters()], lr=task.LR)

    norms = []
    for step in range(task.STEPS):
        inputs, targets = task.batch(step, mesh.get_local_rank(), mesh.size())
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        grad_norm = gradclip.clip_grad_norm_([p for part in model_parts for p in part.parameters()], task.MAX_NORM)
        optimizer.step()
        norms.append(grad_norm.item())

    if dist.get_rank() == 0:
        task.compare(norms)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
