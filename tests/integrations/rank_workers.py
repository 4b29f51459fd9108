"""What ranks run in each engine."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from gradclip.records import Memory
from gradclip.testing import assert_clipped
from integrations.engines import BOUND, ENGINES, as_launched, by_torch, nobody_else_clips, ranks, shares
from integrations.loops import BATCH, MOMENTUM, RATE, loss_of, network
from layouts import need_fsdp2

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


def train_sharded_by_accelerate() -> Found:
    """Train with what Accelerate does for FSDP2."""
    need_fsdp2()
    from accelerate import Accelerator

    from gradclip.integrations.accelerate import prepare

    as_launched()
    accelerator = Accelerator(cpu=True)
    tell_to_shard(accelerator)
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
    return norms, gathered(net)


def train_sharded_by_transformers() -> Found:
    """Train with what a Trainer does for FSDP2."""
    need_fsdp2()
    from gradclip.integrations.transformers import install
    from integrations.trainers import Model, trainer_of

    as_launched()
    net, records = Model(network()), Memory()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    with TemporaryDirectory() as folder, nobody_else_clips():
        trainer = trainer_of(Path(folder), model=net, optimizer=optimizer, per_device_train_batch_size=BATCH // ranks())
        tell_to_shard(trainer.accelerator)
        trainer.is_fsdp_enabled = True
        install(trainer, BOUND, sinks=[records])
        trainer.train()
    return [record.total_norm for record in records.records], gathered(trainer.model)


def tell_to_shard(accelerator: Any) -> None:
    """Have Accelerate do on the CPU what it does for FSDP2 on GPUs only, unless it is told that it is there."""
    from accelerate import DistributedType, FullyShardedDataParallelPlugin

    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    accelerator.state.distributed_type = DistributedType.FSDP


def gathered(net: nn.Module) -> list[Any]:
    """Return the parameters of a sharded network, whole."""
    sharded = list(net.parameters())
    assert all(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in sharded[:2])
    return [p.full_tensor().tolist() for p in sharded if isinstance(p, DTensor)]
