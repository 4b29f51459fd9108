"""TRL's `SFTTrainer`, on a tiny model and a data set in memory: by one line, as by its own clip."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gradclip.records import Memory
from gradclip.testing import assert_clipped

trl = pytest.importorskip("trl", reason="trl is not installed")
datasets = pytest.importorskip("datasets", reason="datasets, which trl needs, is not installed")

import tokenizers  # noqa: E402 -- where they are installed
import transformers  # noqa: E402

from gradclip.integrations.transformers import GradClipCallback, install  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = ["<pad>", "<end>", *"abcdefghijklmnop"]
BOUND, STEPS = 0.05, 6


def trainer_of(folder: Path, **given: Any) -> Any:
    tokens = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<end>"))
    tokens.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": len(WORDS)}
    special = {"pad_token": "<pad>", "eos_token": "<end>"}
    config = transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    model = transformers.GPT2LMHeadModel(config)
    rows = [{"text": " ".join(WORDS[2 + (i * k) % 16] for k in range(1, 12))} for i in range(2 * STEPS)]
    arguments = trl.SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_steps=STEPS,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        max_grad_norm=BOUND,
    )
    return trl.SFTTrainer(
        model,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **special),
        optimizers=(torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9), None),
        **given,
    )


@pytest.mark.parametrize("way", ["callback", "install"])
def test_it_trains_as_by_its_own_clip(tmp_path: Path, way: str) -> None:
    """The bound of its arguments is taken over, what the optimizer uses is below it, and the norms are in the logs."""
    plain = trainer_of(tmp_path)
    plain.train()
    records = Memory()
    callback = GradClipCallback(sinks=[records])
    trainer = trainer_of(tmp_path, callbacks=[callback] if way == "callback" else None)
    if way == "install":
        install(trainer, sinks=[records])
    with assert_clipped(trainer.optimizer, max_norm=BOUND):
        trainer.train()
    norms = [record.total_norm for record in records.records]
    assert [record.status for record in records.records] == ["clipped"] * STEPS
    assert [x["grad_norm"] for x in trainer.state.log_history if "loss" in x] == norms
    assert norms == pytest.approx([x["grad_norm"] for x in plain.state.log_history if "loss" in x], rel=1e-4)
    assert trainer.args.max_grad_norm == BOUND
    for p, q in zip(trainer.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-6)
