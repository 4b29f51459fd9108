"""Train a model cut into stages, one for each rank, with a GradClipper.

Each rank holds parameters of its own, as plain tensors, which do not say that other ranks have more of the model. So it
is declared, once; from then on the norm is that of all stages, and all are scaled by the same factor.

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
            schedule.step(target=targets)  # which the last stage needs
        optimizer.step()  # clips first
        norms.append(clipper.last.total_norm)

    if rank == 0:
        task.compare(norms)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
