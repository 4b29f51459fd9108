"""`transformers.Trainer`: one clip a step, by the policy, in its logs and its checkpoints."""

import json
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gradclip.policies import AdaGC, Decision, FixedNorm, Layout, Norms, Policy, ZClip
from gradclip.records import Memory
from gradclip.testing import assert_clipped
from integrations.loops import RATE, STEPS, late, needed, same, trained

transformers, _ = needed("transformers", "accelerate")

from gradclip.integrations.transformers import GradClipCallback, install  # noqa: E402 -- where it is installed
from integrations.engines import nobody_else_clips  # noqa: E402
from integrations.trainers import Model, trainer_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

POLICIES = [FixedNorm(0.5), ZClip(max_norm=1.0, warmup=3), AdaGC(1.0, warmup=3)]


@pytest.mark.parametrize("way", ["callback", "install"])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_it_trains_as_a_plain_loop(tmp_path: Path, policy: Policy, way: str) -> None:
    """The same parameters, and the norm before clipping in the logs, with the trainer's own clip switched off."""
    records = Memory()
    callback = GradClipCallback(policy, sinks=[records])
    trainer = trainer_of(tmp_path, callbacks=[callback] if way == "callback" else None)
    if way == "install":
        callback = install(trainer, policy, sinks=[records])
    trainer.train()
    expected, clipper = trained(policy)
    same(trainer.model.net, expected)
    assert callback.clipper is not None
    assert trainer.args.max_grad_norm == 1.0  # put back
    norms = [record.total_norm for record in records.records]
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["grad_norm"] for entry in logs] == norms
    assert [entry["gradclip/total_norm"] for entry in logs] == norms
    assert len(norms) == STEPS
    assert norms[-1] == pytest.approx(clipper.last.total_norm, rel=1e-5)
    assert not callback.clipper._attachments


def test_numbers_on_their_way_are_those_of_their_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, from which a record comes with a later clip."""
    late(monkeypatch)
    records = Memory()
    trainer = trainer_of(tmp_path, callbacks=[GradClipCallback(0.5, sinks=[records])])
    trainer.train()
    logs = [entry["grad_norm"] for entry in trainer.state.log_history if "loss" in entry]
    assert logs == [record.total_norm for record in records.records]
    assert len(logs) == STEPS


def test_the_bound_of_the_trainer(tmp_path: Path) -> None:
    """Without a policy, it is that of `max_grad_norm`; what the optimizer sees is below it."""
    trainer = trainer_of(tmp_path, callbacks=[GradClipCallback()], max_grad_norm=0.25)
    with assert_clipped(trainer.optimizer, max_norm=0.25):
        trainer.train()
    same(trainer.model.net, trained(FixedNorm(0.25))[0])
    with pytest.raises(ValueError, match=r"`GradClipCallback\(policy=\.\.\.\)` must be a policy or a bound"):
        trainer_of(tmp_path, callbacks=[GradClipCallback()], max_grad_norm=0.0).train()


def test_reporters_hear_of_what_is_installed(tmp_path: Path) -> None:
    """They are asked after it."""
    heard: list[dict[str, Any]] = []

    class Reporter(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            heard.append(dict(logs))

    trainer = trainer_of(tmp_path, callbacks=[Reporter()])
    callback = install(trainer, 0.5)
    trainer.train()
    assert callback.clipper is not None
    assert heard[STEPS - 1]["gradclip/total_norm"] == heard[STEPS - 1]["grad_norm"] > 0.5


def test_micro_batches(tmp_path: Path) -> None:
    """One clip for four of them."""
    records = Memory()
    callback = GradClipCallback(0.5, sinks=[records])
    trainer_of(tmp_path, callbacks=[callback], gradient_accumulation_steps=4, max_steps=5).train()
    assert [record.step for record in records.records] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("restore", [False, True])
def test_it_resumes(tmp_path: Path, restore: bool) -> None:
    """From a checkpoint, bit for bit as without a stop; whether or not the trainer restores callbacks itself."""
    policy = ZClip(max_norm=1.0, warmup=3)
    whole = trainer_of(tmp_path / "whole", callbacks=[GradClipCallback(policy)])
    whole.train()
    saving = {"save_strategy": "steps", "save_steps": 8}
    first = trainer_of(tmp_path / "parts", callbacks=[GradClipCallback(policy)], **saving)
    first.train()
    saved = json.loads((tmp_path / "parts" / "checkpoint-8" / "trainer_state.json").read_text())
    assert saved["stateful_callbacks"]["gradclip"]["step"] == 8
    callback = GradClipCallback(policy)
    options = {"restore_callback_states_from_checkpoint": True} if restore else {}
    second = trainer_of(tmp_path / "parts", callbacks=[callback], **saving, **options)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-8"))
    same(second.model.net, whole.model.net, tolerance=0.0)
    assert callback.clipper is not None and callback.clipper.last is not None
    assert callback.clipper.last.step == STEPS


def test_a_second_training(tmp_path: Path) -> None:
    """Of the same trainer: one clip a step again."""
    records = Memory()
    trainer = trainer_of(tmp_path, callbacks=[GradClipCallback(0.5, sinks=[records])], max_steps=3)
    trainer.train()
    trainer.train()
    assert [record.step for record in records.records] == [1, 2, 3, 1, 2, 3]


@dataclass(frozen=True)
class SkipLarge(Policy):
    """No step where the norm is large."""

    @property
    def skips(self) -> bool:
        return True

    def init(self, layout: Layout) -> tuple[()]:
        return ()

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        return Decision(1.0, skip=norms.total > 1e6), state


@pytest.mark.parametrize("scales", [False, True])
def test_a_step_that_is_skipped_is_told(tmp_path: Path, scales: bool) -> None:
    """Neither parameters nor the learning rate move, be it an overflow or a spike that no scaler knows of."""
    model = Model()
    rates: list[float] = []

    class Poison(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 1:
                model.net[0].weight.grad.fill_(1e9) if scales else model.net[0].weight.grad.fill_(math.nan)

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            rates.append(given["lr_scheduler"].get_last_lr()[0])

    callback = GradClipCallback(SkipLarge() if scales else 0.5)
    trainer = trainer_of(tmp_path, callbacks=[callback, Poison()], model=model, max_steps=3)
    if scales:
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer.lr_scheduler.lr_lambdas = [lambda step: 0.5**step]
    trainer.train()
    assert rates == pytest.approx([RATE / 2, RATE / 2, RATE / 4])
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_last_step_that_is_skipped_is_told_no_more(tmp_path: Path) -> None:
    """Without the callback, the trainer's steps count again; and a bound of None comes back as that."""

    class Poison(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 2:
                given["model"].net[0].weight.grad.fill_(math.nan)

    trainer = trainer_of(tmp_path, callbacks=[callback := GradClipCallback(0.5), Poison()], max_steps=3)
    trainer.args.max_grad_norm = None
    trainer.train()
    assert callback.clipper is not None and callback.clipper.last is not None and callback.clipper.last.skipped
    assert trainer.args.max_grad_norm is None
    assert not trainer.optimizer.step_was_skipped


def test_what_was_installed_is_taken_away(tmp_path: Path) -> None:
    """A trainer without the callback clips by itself again."""
    trainer = trainer_of(tmp_path, max_grad_norm=0.125, max_steps=3)
    install(trainer, 1.0)
    trainer.train()
    trainer.remove_callback(GradClipCallback)
    with assert_clipped(trainer.optimizer.optimizer, max_norm=0.125):
        trainer.train()


@pytest.mark.parametrize("way", ["callback", "added", "install"])
def test_a_training_that_raises(tmp_path: Path, way: str) -> None:
    """Leaves nothing behind, in the middle of a step too; the trainer goes on, and clips once a step."""
    records = Memory()
    callback = GradClipCallback(0.5, sinks=[records])
    trainer = trainer_of(tmp_path, callbacks=[callback] if way == "callback" else None, max_steps=3)
    if way == "added":
        trainer.add_callback(callback)
    elif way == "install":
        callback = install(trainer, 0.5, sinks=[records])
    backward = trainer.accelerator.backward

    def failing(*args: Any, **kwargs: Any) -> None:
        backward(*args, **kwargs)
        if trainer.state.global_step == 1:
            raise RuntimeError("out of memory")

    trainer.accelerator.backward = failing
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert trainer.args.max_grad_norm == 1.0
    assert callback.clipper is not None and not callback.clipper._attachments
    assert "clip_grad_norm_" not in vars(trainer.accelerator)
    trainer.accelerator.backward = backward
    trainer.train()
    assert [record.step for record in records.records] == [1, 1, 2, 3]
    trainer.remove_callback(callback)
    with assert_clipped(trainer.optimizer.optimizer, max_norm=1.0):  # by itself
        trainer.train()
    assert len(records.records) == 4


def test_the_best_checkpoint_has_the_state(tmp_path: Path) -> None:
    """Though what is the best is found out after the step."""
    options: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "best"}
    options |= {"metric_for_best_model": "loss", "label_names": ["y"]}
    trainer = trainer_of(tmp_path, callbacks=[GradClipCallback(0.5)], max_steps=4, **options)
    trainer.train()
    saved = [json.loads(path.read_text()) for path in tmp_path.glob("checkpoint-*/trainer_state.json")]
    assert saved
    assert all(state["stateful_callbacks"]["gradclip"]["step"] == state["global_step"] for state in saved)


@pytest.mark.parametrize("way", ["callback", "install"])
@pytest.mark.parametrize("who", ["callback", "jit", "save_state"])
def test_whoever_saves_saves_the_state(tmp_path: Path, way: str, who: str) -> None:
    """As it is then: another callback that comes later may ask for it, and a signal at any time."""

    class Saver(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            control.should_save |= who == "callback" and state.global_step == 7

        def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 7 and who == "jit":
                trainer._save_checkpoint(trainer.model, trial=None)  # as transformers does on SIGTERM
            if state.global_step == 7 and who == "save_state":
                trainer.save_state()

    callbacks = [GradClipCallback(0.5)] if way == "callback" else []
    trainer = trainer_of(tmp_path, callbacks=[*callbacks, Saver()], save_strategy="steps", save_steps=5, max_steps=8)
    if way == "install":
        install(trainer, 0.5)
    trainer.train()
    folder = tmp_path if who == "save_state" else tmp_path / "checkpoint-7"
    saved = json.loads((folder / "trainer_state.json").read_text())
    assert saved["global_step"] == saved["stateful_callbacks"]["gradclip"]["step"] == 7
    assert type(pickle.loads(pickle.dumps(trainer.state)).stateful_callbacks["gradclip"]) is dict  # noqa: S301 -- our own


def test_another_accelerator(tmp_path: Path) -> None:
    """As each trial of a search for hyper-parameters makes one: the trainer's own pass is saved there too."""
    trainer = trainer_of(tmp_path, max_steps=3)
    install(trainer, 0.5)
    trainer.create_accelerator_and_postprocess()
    with nobody_else_clips():
        trainer.train()
    assert "clip_grad_norm_" not in vars(trainer.accelerator)


def test_deepspeed_is_refused(tmp_path: Path) -> None:
    """As the arguments ask for it, before anything is attached."""
    trainer = trainer_of(tmp_path, callbacks=[callback := GradClipCallback(0.5)], max_steps=1)
    trainer.args.deepspeed = "zero.json"
    with pytest.raises(ValueError, match="cannot clip in DeepSpeed, whose optimizer clips by its configuration"):
        trainer.train()
    assert callback.clipper is None and trainer.args.max_grad_norm == 1.0


def test_a_second_one_is_refused(tmp_path: Path) -> None:
    """Each would clip, and take the bound that the first has switched off for that of the trainer."""
    trainer = trainer_of(tmp_path, callbacks=[GradClipCallback(1.0)])
    install(trainer, 0.5)
    with pytest.raises(ValueError, match="must have one `GradClipCallback`, got 2"):
        trainer.train()
    assert trainer.args.max_grad_norm == 1.0
