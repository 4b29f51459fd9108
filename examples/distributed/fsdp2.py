"""Train a model that FSDP2 has sharded, with a GradClipper.

Each rank holds a shard of every parameter and of its gradient. These are DTensors, so nothing has to be declared. The
norm of a step covers all shards on all ranks. It takes one collective of a few numbers.

Run: torchrun --nproc-per-node 2 examples/distributed/fsdp2.py
"""

import task
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

import gradclip
from gradclip.policies import FixedNorm


def main() -> None:
    """Train on all ranks, and compare the norms with those of a single process."""
    dist.init_process_group("gloo")  # "nccl" on GPUs
    rank, ranks = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh("cpu", (ranks,))
    model = task.build()
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=task.LR)
    clipper = gradclip.GradClipper(model, FixedNorm(task.MAX_NORM)).attach(optimizer)

    norms = []
    for step in range(task.STEPS):
        inputs, targets = task.batch(step, rank, ranks)
        loss = cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # clips first
        norms.append(clipper.last.total_norm)

    if rank == 0:
        task.compare(norms)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
