"""Scripts of a Trainer and of Lightning, as they are, by `gradclip run`: clipped by the rule, and recorded."""

import json
from pathlib import Path

import pytest

from cli.test_run import launched, records_in
from integrations.loops import needed

TASK = """
import json
import warnings

warnings.simplefilter("ignore")
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

torch.manual_seed(0)
rows = [{"x": 3.0 * torch.randn(5), "y": torch.randn(1)} for _ in range(48)]
seen = []


def look(optimizer, args, kwargs):
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
    seen.append(torch.cat([x.flatten() for x in gradients]).norm().item())


register_optimizer_step_post_hook(look)
"""

TRAINER = """
import transformers


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(5, 1)

    def forward(self, x, y):
        return {"loss": torch.nn.functional.mse_loss(self.net(x), y)}


if __name__ == "__main__":
    arguments = transformers.TrainingArguments(
        "out", per_device_train_batch_size=8, num_train_epochs=1, max_grad_norm=0.5, save_strategy="no",
        report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
    )
    transformers.Trainer(Model(), arguments, train_dataset=rows).train()
    print(json.dumps(seen))
"""

LIGHTNING = """
import lightning


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(5, 1)

    def training_step(self, batch):
        return torch.nn.functional.mse_loss(self.net(batch["x"]), batch["y"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


if __name__ == "__main__":
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, gradient_clip_val=0.5, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(rows, batch_size=8))
    print(json.dumps(seen))
"""


@pytest.mark.parametrize(("package", "engine"), [("transformers", TRAINER), ("lightning", LIGHTNING)])
def test_a_script_of_an_engine(package: str, engine: str, tmp_path: Path) -> None:
    """Which sets a bound of its own: each step saw that of the command, and left one record."""
    needed(package)
    (tmp_path / "train.py").write_text(TASK + engine)
    done = launched("--record", "r.jsonl", "--max-norm", 0.125, "train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = records_in(tmp_path / "r.jsonl")
    assert [record["step"] for record in found] == list(range(1, 7))
    assert all(record["total_norm"] > 0.5 and record["threshold"] == 0.125 for record in found)
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen == pytest.approx([0.125] * 6, rel=1e-5)
