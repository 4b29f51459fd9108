"""Fabric: one clip a step of each optimizer, in its checkpoints and its loggers, and never two."""

import csv
import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gradclip.policies import AdaGC, FixedNorm, Policy, ZClip
from integrations.loops import (
    MOMENTUM,
    RATE,
    STEPS,
    as_by_a_plain_loop,
    batches,
    for_each_policy,
    loss_of,
    needed,
    network,
    same,
    trained,
)

lightning, *_ = needed("lightning", "lightning.pytorch", "pytorch_lightning")

from gradclip.integrations.lightning import setup  # noqa: E402 -- where it is installed

pytestmark = pytest.mark.filterwarnings("ignore")


class Run:
    """A loop as Fabric's documentation has it, over networks with an optimizer each."""

    def __init__(self, *policies: Policy, every: int = 1, **options: Any) -> None:
        self.fabric = lightning.Fabric(accelerator="cpu", devices=1, **options)
        self.every = every
        nets = [network() for _ in policies]
        optimizers = [torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM) for net in nets]
        self.pairs = [self.fabric.setup(*pair) for pair in zip(nets, optimizers, strict=True)]
        self.clippers = [setup(self.fabric, *pair, policy) for pair, policy in zip(self.pairs, policies, strict=True)]

    def train(self, begin: int = 0, end: int = STEPS) -> None:
        for step, batch in list(enumerate(batches()))[begin:end]:
            steps = step % self.every == self.every - 1
            for net, optimizer in self.pairs:
                self.fabric.backward(loss_of(net, batch) / self.every)
                if steps:
                    optimizer.step()
                    optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        ((net, optimizer),) = self.pairs
        return {"net": net, "optimizer": optimizer, "clipper": self.clippers[0]}


@pytest.mark.parametrize("every", [1, 4])
@for_each_policy
def test_it_trains_as_a_plain_loop(policy: Policy, every: int) -> None:
    """With micro-batches too: one clip a step."""
    run = Run(policy, every=every)
    run.train()
    as_by_a_plain_loop(run.pairs[0][0], run.clippers[0], policy, every=every)


def test_an_optimizer_each() -> None:
    """A policy each too."""
    run = Run(FixedNorm(0.5), AdaGC(1.0, warmup=3))
    run.train()
    same(run.pairs[0][0], trained(FixedNorm(0.5))[0])
    same(run.pairs[1][0], trained(AdaGC(1.0, warmup=3))[0])


def test_it_resumes(tmp_path: Path) -> None:
    """By `fabric.save` and `fabric.load`, bit for bit as without a stop."""
    policy = ZClip(max_norm=1.0, warmup=3)
    whole, first, second = Run(policy), Run(policy), Run(policy)
    whole.train()
    first.train(0, 8)
    first.fabric.save(tmp_path / "state.ckpt", first.state())
    second.fabric.load(tmp_path / "state.ckpt", second.state())
    assert second.clippers[0].state_dict() == first.clippers[0].state_dict()
    second.train(8)
    same(second.pairs[0][0], whole.pairs[0][0], tolerance=0.0)


def test_a_bad_step_does_not_happen() -> None:
    run = Run(FixedNorm(0.5))
    run.train(0, 1)
    ((net, optimizer),) = run.pairs
    before = [p.detach().clone() for p in net.parameters()]
    run.fabric.backward(loss_of(net, batches()[0]) * math.nan)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert run.clippers[0].last is not None and run.clippers[0].last.skipped is not None


def test_it_clips_alone() -> None:
    """Fabric's own clip of the same parameters is refused, until the clipper is detached."""
    run = Run(FixedNorm(0.5))
    ((net, optimizer),) = run.pairs
    run.fabric.backward(loss_of(net, batches()[0]))
    with pytest.raises(RuntimeError, match=r"`fabric.clip_gradients` was called, and gradclip clips"):
        run.fabric.clip_gradients(net, optimizer, max_norm=1.0)
    run.clippers[0].detach()
    run.fabric.clip_gradients(net, optimizer, max_norm=1.0)


def test_fabric_clips_for_the_other_optimizer() -> None:
    """Of one module, such as a GAN: its clip is about the parameters of the optimizer, whichever module it is given."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    nets = torch.nn.ModuleList([network(), network()])
    both, *optimizers = fabric.setup(nets, *(torch.optim.SGD(net.parameters(), lr=RATE) for net in nets))
    setup(fabric, both, optimizers[0], 0.5)
    sum(loss_of(net, batches()[0]) for net in nets).backward()
    with pytest.raises(RuntimeError, match=r"`fabric.clip_gradients` was called, and gradclip clips"):
        fabric.clip_gradients(nets[1], optimizer=optimizers[0], max_norm=1.0)
    before = nets[0][0].weight.grad.clone()
    assert fabric.clip_gradients(both, optimizers[1], max_norm=1e-3).item() > 1e-3
    assert torch.nn.utils.get_total_norm([p.grad for p in nets[1].parameters()]) < 1.001e-3
    assert torch.equal(nets[0][0].weight.grad, before)


def test_its_loggers_hear_of_every_step(tmp_path: Path) -> None:
    """A second optimizer's by another name."""
    logger = importlib.import_module("lightning.fabric.loggers").CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    run = Run(FixedNorm(0.5), FixedNorm(0.25), loggers=logger)
    run.train(0, 3)
    logger.save()
    (file,) = tmp_path.rglob("metrics.csv")
    logged: dict[int, dict[str, str]] = {}
    with file.open() as rows:
        for row in csv.DictReader(rows):
            logged.setdefault(int(row["step"]), {}).update({name: text for name, text in row.items() if text})
    assert list(logged) == [1, 2, 3]
    for clipper, prefix in zip(run.clippers, ("", "optimizer1/"), strict=True):
        assert clipper.last is not None
        assert float(logged[3][f"{prefix}gradclip/total_norm"]) == clipper.last.total_norm
