"""What ranks run in each engine."""

from typing import Any

import torch
from torch.distributed.tensor import DTensor

from gradclip.records import Memory
from gradclip.testing import assert_clipped
from integrations.engines import BOUND, ENGINES, as_launched, by_torch, nobody_else_clips, shares
from integrations.loops import MOMENTUM, RATE, loss_of, network

Found = tuple[list[float], list[Any]]


def train(engine: str | None) -> Found:
    """Train in an engine, or by torch alone; return the norms and the parameters."""
    as_launched()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    if engine is None:
        norms = by_torch(net, optimizer, None, None)
    else:
        records = Memory()
        with assert_clipped(optimizer, BOUND), nobody_else_clips():
            ENGINES[engine](net, optimizer, None, None, [records])
        norms = [record.total_norm for record in records.records]
    return norms, [p.tolist() for p in net.parameters()]


def train_sharded() -> Found:
    """Train with what Accelerate does for FSDP2, which it does on GPUs only, unless it is told that it is there."""
    from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin

    from gradclip.integrations.accelerate import prepare

    as_launched()
    accelerator = Accelerator(cpu=True)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    accelerator.state.distributed_type = DistributedType.FSDP
    net = network()
    net, optimizer = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM))
    clipper = prepare(accelerator, net, optimizer, BOUND)
    norms = []
    with nobody_else_clips():
        for batch in shares():
            accelerator.backward(loss_of(net, batch))
            optimizer.step()
            optimizer.zero_grad()
            assert clipper.last is not None
            norms.append(clipper.last.total_norm)
    sharded = list(net.parameters())
    assert all(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in sharded[:2])
    return norms, [p.full_tensor().tolist() for p in sharded if isinstance(p, DTensor)]
