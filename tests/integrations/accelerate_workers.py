"""What ranks run under Accelerate."""

import os
from typing import Any

import torch
from torch import distributed

from integrations.loops import RATE, batches, loss_of, network


def train() -> tuple[list[float], list[Any]]:
    """Train on this rank's half of each batch; return the norms and the parameters."""
    from accelerate import Accelerator

    from gradclip.integrations.accelerate import prepare

    rank, world = distributed.get_rank(), distributed.get_world_size()
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")  # which nobody asks: the ranks are together already
    accelerator = Accelerator(cpu=True)
    net = network()
    net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=RATE))
    clipper = prepare(accelerator, net, optimizer, 0.5)
    norms = []
    for x, y in batches(6):
        own = slice(rank * len(x) // world, (rank + 1) * len(x) // world)
        accelerator.backward(loss_of(net, (x[own], y[own])))
        optimizer.step()
        optimizer.zero_grad()
        assert clipper.last is not None
        norms.append(clipper.last.total_norm)
    return norms, [p.tolist() for p in net.parameters()]
