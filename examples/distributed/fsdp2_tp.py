"""Train a model with FSDP2 and tensor parallelism, and clip with `gradclip.clip_grad_norm_`.

There are four ranks. Two read one half of the batch, and two the other half. Of two ranks that read the same half,
each has half of the units of every block, and both have all of the other layers. So the model has DTensors of two
meshes, for which `torch.nn.utils.clip_grad_norm_` raises an error.

Run: torchrun --nproc-per-node 4 examples/distributed/fsdp2_tp.py
"""

import task
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy

import gradclip


def main() -> None:
    """Train on all ranks, and compare the norms with those of a single process."""
    dist.init_process_group("gloo")  # "nccl" on GPUs
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    model = task.build()
    for layer in model:
        if isinstance(layer, task.Block):
            parallelize_module(layer, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        fully_shard(layer, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    optimizer = torch.optim.SGD(model.parameters(), lr=task.LR)

    norms = []
    for step in range(task.STEPS):
        inputs, targets = task.batch(step, mesh["dp"].get_local_rank(), mesh["dp"].size())
        loss = cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        norms.append(gradclip.clip_grad_norm_(model.parameters(), task.MAX_NORM).item())
        optimizer.step()

    if dist.get_rank() == 0:
        task.compare(norms)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
