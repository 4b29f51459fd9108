"""Train with DistributedDataParallel and a GradClipper.

After `backward()`, all ranks hold the same gradients, those of the whole batch. So each rank clips without
communication, and all ranks get the same result.

Run: torchrun --nproc-per-node 2 examples/distributed/ddp.py
"""

import gc

import task
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import gradclip
from gradclip.policies import FixedNorm


def main() -> None:
    """Train on all ranks, and compare the norms with those of a single process."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = DistributedDataParallel(task.build())
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


if __name__ == "__main__":
    dist.init_process_group("gloo")  # "nccl" on GPUs
    main()
    gc.collect()  # free the model first, whose parts refer to each other: torch may hang or abort if it is freed last
    dist.destroy_process_group()
