"""Trainers of transformers, for the tests."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from integrations.loops import BATCH, MOMENTUM, RATE, STEPS, data, network


class Model(nn.Module):
    """As a Trainer wants it: it returns its loss."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = network() if net is None else net

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        out = self.net(x)
        return {"loss": nn.functional.mse_loss(out, y), "logits": out}


class InOrder(transformers.Trainer):
    """A trainer that takes the rows in their order."""

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer_of(
    folder: Path, *, callbacks: Any = None, model: nn.Module | None = None, optimizer: Any = None, **given: Any
) -> Any:
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": BATCH,
        "max_steps": STEPS,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **given,
    }
    model = Model() if model is None else model
    batches = arguments["max_steps"] * given.get("gradient_accumulation_steps", 1)
    rows = [{"x": x, "y": y} for x, y in data(batches)]
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    return InOrder(
        model,
        transformers.TrainingArguments(**arguments),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=callbacks,
        optimizers=(optimizer, scheduler),
    )
