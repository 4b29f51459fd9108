"""The tables of names for Lightning, which trains by itself: both sides of a row leave the same weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from docs.tables import evaluated, needed, rows


class Small:
    """What both sides train, and what they are given: three batches, whose gradients are large."""

    def __init__(self, engine: str) -> None:
        self.lightning = needed(engine, "integrations")
        torch.manual_seed(0)
        self.batches = list(10.0 * torch.randn(3, 4, 8))

    def module(self) -> Any:
        outer = self.lightning

        class Module(outer.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(1)
                self.layer = nn.Linear(8, 1)

            def training_step(self, batch: Tensor) -> Tensor:
                return self.layer(batch).square().mean()

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        return Module()

    def fit(self, code: str) -> Tensor:
        """Train by the trainer of a cell, and return the weights."""
        from gradclip.integrations.lightning import GradClipCallback

        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }

        def trainer(**arguments: Any) -> Any:
            return self.lightning.Trainer(accelerator="cpu", devices=1, max_epochs=1, **quiet, **arguments)

        module = self.module()
        evaluated(code, Trainer=trainer, GradClipCallback=GradClipCallback).fit(
            module, DataLoader(self.batches, batch_size=None)
        )
        return module.layer.weight.detach()

    def loop(self, code: str) -> Tensor:
        """Train by the line of a cell for Fabric, before the loop or in it, and return the weights."""
        from gradclip.integrations.lightning import setup

        fabric = self.lightning.Fabric(accelerator="cpu", devices=1)
        module = self.module()
        model, optimizer = fabric.setup(module.layer, torch.optim.SGD(module.parameters(), lr=0.1))
        names = {"fabric": fabric, "model": model, "optimizer": optimizer, "setup": setup}
        once = code.startswith("setup(")
        clipper = evaluated(code, **names) if once else None
        for batch in self.batches:
            optimizer.zero_grad()
            fabric.backward(model(batch).square().mean())
            if not once:
                evaluated(code, **names)
            optimizer.step()
        assert clipper is None or clipper.last.clipped
        return module.layer.weight.detach()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("theirs", "ours"), rows("lightning"), ids=[row[0] for row in rows("lightning")])
def test_lightning_trains_alike(theirs: str, ours: str) -> None:
    """The weights after three steps."""
    if theirs.startswith("Trainer("):
        small = Small("lightning.pytorch")
        results = [small.fit(code) for code in (theirs, ours, "Trainer()")]
    else:
        small = Small("lightning")
        results = [small.loop(code) for code in (theirs, ours, "None")]
    assert torch.allclose(results[0], results[1], rtol=1e-5)
    assert not torch.allclose(results[0], results[2], rtol=1e-2)
