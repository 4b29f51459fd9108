"""The same loop in each engine, by its own ways: it trains a network in place, on what this rank has of each batch."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, distributed, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from gradclip.records import Sink
from integrations.loops import BATCH, STEPS, batches, loss_of

BOUND = 0.5


class Half(nn.Module):
    """A network that computes in float16, where an engine has no precision of that name on the CPU."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            return self.net(x).float()


def by_torch(net: nn.Module, optimizer: Optimizer, dtype: torch.dtype | None, scaler: GradScaler | None) -> list[float]:
    """Train by torch alone, its clip included; return the norms."""
    wrapped = nn.parallel.DistributedDataParallel(net) if distributed.is_initialized() else net
    scaler = GradScaler("cpu", enabled=False) if scaler is None else scaler
    norms = []
    for batch in shares():
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = loss_of(wrapped, batch)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norms.append(nn.utils.clip_grad_norm_(net.parameters(), BOUND).item())
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return norms


def by_transformers(
    net: nn.Module, optimizer: Optimizer, dtype: torch.dtype | None, scaler: GradScaler | None, sinks: Sequence[Sink]
) -> None:
    from gradclip.integrations.transformers import install
    from integrations.trainers import Model, trainer_of

    with TemporaryDirectory() as folder:
        trainer = trainer_of(
            Path(folder),
            model=Model(net if scaler is None else Half(net)),
            optimizer=optimizer,
            per_device_train_batch_size=BATCH // ranks(),
            bf16=dtype == torch.bfloat16,
        )
        trainer.accelerator.scaler = scaler
        install(trainer, BOUND, sinks=sinks)
        trainer.train()


def by_accelerate(
    net: nn.Module, optimizer: Optimizer, dtype: torch.dtype | None, scaler: GradScaler | None, sinks: Sequence[Sink]
) -> None:
    from accelerate import Accelerator

    from gradclip.integrations.accelerate import prepare

    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if dtype == torch.bfloat16 else "no")
    accelerator.scaler = scaler
    model, stepping = accelerator.prepare(net if scaler is None else Half(net), optimizer)
    prepare(accelerator, model, stepping, BOUND, sinks=sinks)
    for batch in shares():
        accelerator.backward(loss_of(model, batch))
        stepping.step()
        stepping.zero_grad()


def by_lightning(
    net: nn.Module, optimizer: Optimizer, dtype: torch.dtype | None, scaler: GradScaler | None, sinks: Sequence[Sink]
) -> None:
    from lightning import pytorch as pl
    from lightning.pytorch.plugins.precision import MixedPrecision

    from gradclip.integrations.lightning import GradClipCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any) -> Tensor:
            return loss_of(self.net, batch)

        def configure_optimizers(self) -> Optimizer:
            return optimizer

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(shares(), batch_size=None)

    with TemporaryDirectory() as folder:
        pl.Trainer(
            callbacks=[GradClipCallback(BOUND, sinks=sinks)],
            default_root_dir=folder,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            accelerator="cpu",
            devices=ranks(),
            strategy="ddp" if ranks() > 1 else "auto",
            precision="bf16-mixed" if dtype == torch.bfloat16 else None,
            plugins=[] if scaler is None else [MixedPrecision("16-mixed", "cpu", scaler)],
        ).fit(Module())


def by_fabric(
    net: nn.Module, optimizer: Optimizer, dtype: torch.dtype | None, scaler: GradScaler | None, sinks: Sequence[Sink]
) -> None:
    from lightning import Fabric
    from lightning.fabric.plugins.precision import MixedPrecision

    from gradclip.integrations.lightning import setup

    fabric = Fabric(
        accelerator="cpu",
        devices=ranks(),
        strategy="ddp" if ranks() > 1 else "auto",
        precision="bf16-mixed" if dtype == torch.bfloat16 else None,
        plugins=[] if scaler is None else [MixedPrecision("16-mixed", "cpu", scaler)],
    )
    fabric.launch()
    model, stepping = fabric.setup(net, optimizer)
    setup(fabric, model, stepping, BOUND, sinks=sinks)
    for batch in shares():
        fabric.backward(loss_of(model, batch))
        stepping.step()
        stepping.zero_grad()


Engine = Callable[[nn.Module, Optimizer, torch.dtype | None, GradScaler | None, Sequence[Sink]], None]
ENGINES: dict[str, Engine] = {
    "transformers": by_transformers,
    "accelerate": by_accelerate,
    "lightning": by_lightning,
    "fabric": by_fabric,
}


def ranks() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def shares() -> list[tuple[Tensor, Tensor]]:
    """Return what this rank has of each batch."""
    if not distributed.is_initialized():
        return batches(STEPS)
    own = slice(distributed.get_rank() * BATCH // ranks(), (distributed.get_rank() + 1) * BATCH // ranks())
    return [(x[own], y[own]) for x, y in batches(STEPS)]


def nobody_else_clips() -> Any:
    """Fail where an engine calls torch's clip."""
    return patch.object(nn.utils, "clip_grad_norm_", side_effect=AssertionError("the engine clips too"))


def as_launched() -> None:
    """Say in the environment what a launcher says: the ranks are together already, and nobody asks for the port."""
    rank, world = str(distributed.get_rank()), str(distributed.get_world_size())
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world, LOCAL_WORLD_SIZE=world, GROUP_RANK="0")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", TORCHELASTIC_RUN_ID="here")
