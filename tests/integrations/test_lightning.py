"""Lightning, by both of its names, and Fabric: one clip a step of each optimizer, logged, and in the checkpoints."""

import builtins
import importlib
import math
import signal
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gradclip.policies import AdaGC, FixedNorm, Policy, ZClip
from gradclip.records import Memory
from integrations.loops import (
    BATCH,
    MOMENTUM,
    RATE,
    STEPS,
    data,
    for_each_policy,
    late,
    loss_of,
    needed,
    network,
    same,
    trained,
)

needed("lightning.pytorch", "pytorch_lightning")

from gradclip.integrations.lightning import PACKAGES, GradClipCallback  # noqa: E402 -- where it is installed

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=PACKAGES)
def pl(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip(request.param)
    return importlib.import_module(request.param)


def module_of(pl: Any, *, manual: bool = False, count: int = 1) -> Any:
    class Module(pl.LightningModule):
        """Networks with an optimizer each."""

        def __init__(self) -> None:
            super().__init__()
            self.nets = torch.nn.ModuleList(network() for _ in range(count))
            self.automatic_optimization = not manual
            self.poison = -1

        def training_step(self, batch: Any, index: int) -> Tensor | None:
            losses = [loss_of(net, batch) * (math.nan if index == self.poison else 1.0) for net in self.nets]
            if not manual:
                return losses[0]
            optimizers = self.optimizers()
            for optimizer, loss in zip(optimizers if count > 1 else [optimizers], losses, strict=True):
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return None

        def configure_optimizers(self) -> Any:
            made = [torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM) for net in self.nets]
            return made if count > 1 else made[0]

        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(data(), batch_size=BATCH)

    return Module()


def trainer_of(pl: Any, folder: Path, *callbacks: Any, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    given = {"max_epochs": 1, "enable_checkpointing": False, **quiet, **options}
    return pl.Trainer(callbacks=list(callbacks), default_root_dir=folder, **given)


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@for_each_policy
def test_it_trains_as_a_plain_loop(pl: Any, tmp_path: Path, policy: Policy, manual: bool) -> None:
    records = Memory()
    module = module_of(pl, manual=manual)
    trainer = trainer_of(pl, tmp_path, callback := GradClipCallback(policy, sinks=[records]))
    trainer.fit(module)
    expected, clipper = trained(policy)
    same(module.nets[0], expected)
    (own,) = callback.clippers
    assert own.last is not None and clipper.last is not None
    assert (own.last.step, len(records.records)) == (STEPS, STEPS)
    assert own.last.total_norm == pytest.approx(clipper.last.total_norm, rel=1e-5)
    assert trainer.callback_metrics["gradclip/total_norm"].item() == pytest.approx(own.last.total_norm, rel=1e-5)
    assert not own._attachments


def test_numbers_on_their_way_are_those_of_their_step(pl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, from which a record comes with a later clip."""
    late(monkeypatch)
    records, logged = Memory(), []
    module = module_of(pl)
    monkeypatch.setattr(module, "log_dict", lambda metrics, **_: logged.append(metrics["gradclip/total_norm"]))
    trainer_of(pl, tmp_path, GradClipCallback(0.5, sinks=[records])).fit(module)
    assert logged == [record.total_norm for record in records.records]
    assert len(logged) == STEPS


def test_micro_batches(pl: Any, tmp_path: Path) -> None:
    """One clip for four of them."""
    module = module_of(pl)
    trainer_of(pl, tmp_path, callback := GradClipCallback(0.5), accumulate_grad_batches=4).fit(module)
    assert callback.clippers[0].last is not None and callback.clippers[0].last.step == STEPS // 4
    same(module.nets[0], trained(FixedNorm(0.5), every=4)[0])


def test_an_optimizer_each(pl: Any, tmp_path: Path) -> None:
    """Two adversaries have two clippers, and a policy each where that is asked for."""
    module = module_of(pl, manual=True, count=2)
    records = Memory()
    trainer = trainer_of(pl, tmp_path, callback := GradClipCallback([0.5, AdaGC(1.0, warmup=3)], sinks=[records]))
    trainer.fit(module)
    same(module.nets[0], trained(FixedNorm(0.5))[0])
    same(module.nets[1], trained(AdaGC(1.0, warmup=3))[0])
    assert {"optimizer0/gradclip/total_norm", "optimizer1/gradclip/total_norm"} <= set(trainer.callback_metrics)
    assert len(callback.clippers) == 2
    told = [(record.group, record.step) for record in records.records]  # or the one's would take the other's place
    assert told == [(f"optimizer{i}", step) for step in range(1, STEPS + 1) for i in (0, 1)]
    with pytest.raises(ValueError, match="must be one policy, or one for each of 2 optimizers"):
        trainer_of(pl, tmp_path, GradClipCallback([0.5])).fit(module_of(pl, manual=True, count=2))


def test_it_clips_alone(pl: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`Trainer\(gradient_clip_val=1\.0\)` would both clip\. Leave out"):
        trainer_of(pl, tmp_path, GradClipCallback(0.5), gradient_clip_val=1.0).fit(module_of(pl))


def test_a_module_that_clips_too(pl: Any, tmp_path: Path) -> None:
    """By its own call, or in a hook of its own: an error, once and for all; afterwards it may."""
    module = module_of(pl, manual=True)
    step = module.training_step

    def clips(own: Any, *args: Any) -> Any:
        found = step(*args)
        own.clip_gradients(own.optimizers(), gradient_clip_val=0.25, gradient_clip_algorithm="norm")
        return found

    module.training_step = types.MethodType(clips, module)
    trainer = trainer_of(pl, tmp_path, GradClipCallback(0.5))
    with pytest.raises(RuntimeError, match=r"`self.clip_gradients` was called, and gradclip clips"):
        trainer.fit(module)
    assert "clip_gradients" not in vars(trainer.precision_plugin)
    trainer_of(pl, tmp_path).fit(module)

    hooked = module_of(pl)

    def configured(own: Any, optimizer: Any, **_: Any) -> None:
        own.clip_gradients(optimizer, gradient_clip_val=0.25, gradient_clip_algorithm="norm")

    hooked.configure_gradient_clipping = types.MethodType(configured, hooked)
    with pytest.raises(RuntimeError, match="self.clip_gradients"):
        trainer_of(pl, tmp_path, GradClipCallback(0.5)).fit(hooked)


def test_it_resumes(pl: Any, tmp_path: Path) -> None:
    """From a checkpoint, bit for bit as without a stop; a second `fit` clips once a step too."""
    policy = ZClip(max_norm=1.0, warmup=3)
    whole = module_of(pl)
    trainer_of(pl, tmp_path, GradClipCallback(policy), max_epochs=2).fit(whole)
    first = module_of(pl)
    trainer = trainer_of(pl, tmp_path, GradClipCallback(policy))
    trainer.fit(first)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    second = module_of(pl)
    resumed = trainer_of(pl, tmp_path, callback := GradClipCallback(policy), max_epochs=2)
    resumed.fit(second, ckpt_path=tmp_path / "one.ckpt")
    same(second.nets[0], whole.nets[0], tolerance=0.0)
    assert callback.clippers[0].last is not None and callback.clippers[0].last.step == 2 * STEPS


def test_a_checkpoint_that_was_validated_is_not_gone_on_from(pl: Any, tmp_path: Path) -> None:
    """Training after it begins anew."""
    trainer = trainer_of(pl, tmp_path, GradClipCallback(0.5))
    trainer.fit(module_of(pl))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    module = module_of(pl)
    module.validation_step = types.MethodType(lambda own, batch, index: None, module)
    rows = torch.utils.data.DataLoader(data(), batch_size=BATCH)
    other = trainer_of(pl, tmp_path, callback := GradClipCallback(0.5))
    other.validate(module, rows, ckpt_path=tmp_path / "one.ckpt", verbose=False)
    other.fit(module)
    assert callback.clippers[0].last is not None and callback.clippers[0].last.step == STEPS


def test_a_checkpoint_of_before_a_training(pl: Any, tmp_path: Path) -> None:
    """Such as a finder of learning rates saves, and restores: it has no clippers, and a training begins anew."""
    module = module_of(pl)
    first = trainer_of(pl, tmp_path, GradClipCallback(0.5))
    first.strategy.connect(module)
    first.save_checkpoint(tmp_path / "first.ckpt")
    finder = pl.callbacks.LearningRateFinder(num_training_steps=3, update_attr=False)
    for others, options in (((finder,), {}), ((), {"ckpt_path": tmp_path / "first.ckpt"})):
        callback = GradClipCallback(0.5)
        trainer_of(pl, tmp_path, callback, *others).fit(module, **options)
        assert callback.clippers[0].last is not None  # that of 20 steps; with 2.2.5, the finder takes some of them


def test_a_bad_step_does_not_happen(pl: Any, tmp_path: Path) -> None:
    module = module_of(pl)
    module.poison = 3
    trainer_of(pl, tmp_path, GradClipCallback(0.5)).fit(module)
    assert all(bool(p.isfinite().all()) for p in module.parameters())


@pytest.mark.parametrize("error", ["RuntimeError", "KeyboardInterrupt", "_TunerExitException"])
def test_a_fit_that_ends_early(pl: Any, tmp_path: Path, error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an error, by Ctrl-C, by a tuner: nothing stays attached, and another one clips once a step."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # Lightning would have interrupts ignored for good
    kind = getattr(builtins, error, None) or getattr(pl.utilities.exceptions, error)

    class Failing(pl.Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            if trainer.global_step == 2:
                raise kind

    records = Memory()
    callback = GradClipCallback(0.5, sinks=[records])
    module = module_of(pl)
    with suppress(kind, SystemExit):  # as which Lightning passes on an interrupt
        trainer_of(pl, tmp_path, callback, Failing()).fit(module)
    assert not callback.clippers[0]._attachments
    assert len(records.records) == 2
    trainer_of(pl, tmp_path, callback).fit(module)
    assert len(records.records) == 2 + STEPS
    assert not callback.clippers[0]._attachments


def test_layers_that_are_unfrozen(pl: Any, tmp_path: Path) -> None:
    """A fine-tuning callback adds a group to the optimizer; from then on it is clipped."""
    finetuning = importlib.import_module(f"{pl.__name__}.callbacks").BaseFinetuning

    class Unfreeze(finetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.nets[0][0])

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.nets[0][0], optimizer)

    module = module_of(pl)
    module.configure_optimizers = lambda: torch.optim.SGD(module.nets[0][2].parameters(), lr=RATE)
    trainer_of(pl, tmp_path, Unfreeze(), callback := GradClipCallback(0.05), max_epochs=2).fit(module)
    norms = [p.grad.norm() for p in module.nets[0].parameters()]
    assert torch.stack(norms).norm().item() <= 0.05 * (1 + 1e-5)
    assert len(callback.clippers[0].state_dict()["parameters"]) == 4


def test_deepspeed_is_refused(pl: Any, tmp_path: Path) -> None:
    """By the name of the strategy, before anything is attached."""
    kind = type("DeepSpeedStrategy", (pl.strategies.SingleDeviceStrategy,), {})
    trainer = trainer_of(pl, tmp_path, callback := GradClipCallback(0.5), strategy=kind(device="cpu"))
    with pytest.raises(ValueError, match="cannot clip in DeepSpeed, whose optimizer clips by its configuration"):
        trainer.fit(module_of(pl))
    assert callback.clippers == []


def test_one_of_several_that_cannot_be_clipped(pl: Any, tmp_path: Path) -> None:
    """The others are left as they were, too."""
    module = module_of(pl, manual=True, count=2)
    optimizers = [
        kind(net.parameters()) for kind, net in zip((torch.optim.SGD, torch.optim.LBFGS), module.nets, strict=True)
    ]
    module.configure_optimizers = lambda: optimizers
    with pytest.raises(TypeError, match="must evaluate its closure once a step, got LBFGS"):
        trainer_of(pl, tmp_path, callback := GradClipCallback(0.5)).fit(module)
    assert not any(clipper._attachments for clipper in callback.clippers)
    for p in module.nets[0].parameters():
        p.grad = torch.full_like(p, 100.0)
    optimizers[0].step()
    assert {float(x) for p in module.nets[0].parameters() for x in p.grad.unique()} == {100.0}
