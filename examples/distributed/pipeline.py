"""Train a model that is split into pipeline stages, one per rank, with a GradClipper.

Each rank holds different parameters, as plain tensors. These do not show that other ranks hold the rest of the model,
so you declare it once. From then on, the norm covers all stages, and all stages are scaled by the same factor.

Run: torchrun --nproc-per-node 2 examples/distributed/pipeline.py
"""

import task
import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.nn.functional import cross_entropy

import gradclip
from gradclip.distributed import Ownership, declare
from gradclip.policies import FixedNorm

MICROBATCHES = 4


def main() -> None:
    """Train on all ranks, and compare the norms with those of a single process."""
    dist.init_process_group("gloo")  # "nccl" on GPUs
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = task.build()
    layers = len(model) // ranks
    own = model[rank * layers : (rank + 1) * layers]
    stage = PipelineStage(own, rank, ranks, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, MICROBATCHES, loss_fn=cross_entropy)  # averages gradients over micro-batches

    declare(own, Ownership(disjoint=dist.group.WORLD))
    optimizer = torch.optim.SGD(own.parameters(), lr=task.LR)
    clipper = gradclip.GradClipper(own, FixedNorm(task.MAX_NORM)).attach(optimizer)

    norms = []
    for step in range(task.STEPS):
        inputs, targets = task.batch(step)
        optimizer.zero_grad()
        if rank == 0:
            schedule.step(inputs)
        else:
            schedule.step(target=targets)  # needed by the last stage
        optimizer.step()  # clips first
        norms.append(clipper.last.total_norm)

    if rank == 0:
        task.compare(norms)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
