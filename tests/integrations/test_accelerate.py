"""Accelerate: one clip where gradients are synchronised, in its checkpoints, and never two."""

import math
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from gradclip import MisuseWarning
from gradclip.policies import AdaGC, FixedNorm, Policy, ZClip
from gradclip.testing import assert_clipped
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

(accelerate,) = needed("accelerate")

from gradclip.integrations.accelerate import prepare  # noqa: E402 -- where it is installed

pytestmark = pytest.mark.filterwarnings("ignore")


class Run:
    """A loop as Accelerate's documentation has it."""

    def __init__(self, policy: Policy | float, *, every: int = 1) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=every)
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
        self.net, self.optimizer = self.accelerator.prepare(net, optimizer)
        self.clipper = prepare(self.accelerator, self.net, self.optimizer, policy)

    def train(self, begin: int = 0, end: int = STEPS) -> None:
        for batch in batches()[begin:end]:
            with self.accelerator.accumulate(self.net):
                self.accelerator.backward(loss_of(self.net, batch))
                self.optimizer.step()
                self.optimizer.zero_grad()


@pytest.mark.parametrize("every", [1, 4])
@for_each_policy
def test_it_trains_as_a_plain_loop(policy: Policy, every: int) -> None:
    """With micro-batches too: one clip a step."""
    run = Run(policy, every=every)
    run.train()
    as_by_a_plain_loop(run.net, run.clipper, policy, every=every)


def test_it_clips_alone() -> None:
    """The engine's own clip is refused, as both would; what the optimizer sees is below the bound."""
    run = Run(0.25)
    with assert_clipped(run.optimizer.optimizer, max_norm=0.25):
        run.train()
    with pytest.raises(RuntimeError, match=r"`accelerator.clip_grad_norm_` was called, and gradclip clips"):
        run.accelerator.clip_grad_norm_(run.net.parameters(), 1.0)
    other = torch.nn.Linear(2, 1)
    other(torch.full((1, 2), 9.0)).backward()
    assert run.accelerator.clip_grad_norm_(other.parameters(), 0.1).item() > 1.0
    with pytest.raises(RuntimeError, match=r"`accelerator.clip_grad_value_` was called, and gradclip clips"):
        run.accelerator.clip_grad_value_(run.net.parameters(), 1.0)
    run.clipper.detach()
    run.accelerator.clip_grad_norm_(run.net.parameters(), 1.0)


def test_its_trackers_hear_of_every_step(tmp_path: Path) -> None:
    """A second optimizer's by another name."""
    tracked: list[tuple[dict[str, float], int]] = []

    class Tracker(accelerate.tracking.GeneralTracker):
        name, requires_logging_directory = "ours", False

        def __init__(self) -> None:
            super().__init__()

        @property
        def tracker(self) -> object:
            return self

        def store_init_configuration(self, values: dict[str, object]) -> None:
            pass

        def log(self, values: dict[str, float], step: int | None = None, **_: object) -> None:
            assert step is not None
            tracked.append((values, step))

    accelerator = accelerate.Accelerator(cpu=True, log_with=Tracker(), project_dir=tmp_path)
    accelerator.init_trackers("test")
    nets = [network(), network()]
    optimizers = [torch.optim.SGD(net.parameters(), lr=RATE) for net in nets]
    nets[0], nets[1], *optimizers = accelerator.prepare(*nets, *optimizers)
    for refused in ({"policy": 0.0}, {"policy": 1.0, "nonfinite": "bogus"}):  # of which nothing is logged
        with pytest.raises(ValueError, match="policy|nonfinite"):
            prepare(accelerator, nets[0], optimizers[0], **refused)
    clippers = [prepare(accelerator, net, optimizer) for net, optimizer in zip(nets, optimizers, strict=True)]
    for batch in batches()[:3]:
        for net, optimizer in zip(nets, optimizers, strict=True):
            accelerator.backward(loss_of(net, batch))
            optimizer.step()
            optimizer.zero_grad()
    assert [step for _, step in tracked] == [1, 1, 2, 2, 3, 3]
    for place, prefix in enumerate(("", "optimizer1/")):
        last = clippers[place].last
        assert last is not None
        assert tracked[place - 2][0][f"{prefix}gradclip/total_norm"] == last.total_norm
    accelerator.end_training()
    assert not any(clipper._attachments for clipper in clippers)


def test_an_optimizer_each() -> None:
    """A policy each too, in one loop."""
    policies = [FixedNorm(0.5), AdaGC(1.0, warmup=3)]
    accelerator = accelerate.Accelerator(cpu=True)
    nets = [network() for _ in policies]
    pairs = [accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)) for net in nets]
    for pair, policy in zip(pairs, policies, strict=True):
        prepare(accelerator, *pair, policy)
    for batch in batches():
        for net, optimizer in pairs:
            accelerator.backward(loss_of(net, batch))
            optimizer.step()
            optimizer.zero_grad()
    for (net, _), policy in zip(pairs, policies, strict=True):
        same(net, trained(policy)[0])


def test_it_resumes(tmp_path: Path) -> None:
    """By `save_state` and `load_state`, bit for bit as without a stop."""
    policy = ZClip(max_norm=1.0, warmup=3)
    whole = Run(policy)
    whole.train()
    first = Run(policy)
    first.train(0, 8)
    first.accelerator.save_state(str(tmp_path / "state"))
    second = Run(policy)
    second.accelerator.load_state(str(tmp_path / "state"))
    assert second.clipper.state_dict() == first.clipper.state_dict()
    second.train(8)
    same(second.net, whole.net, tolerance=0.0)


def test_a_bad_step_does_not_happen() -> None:
    run = Run(0.5)
    run.train(0, 1)
    before = [p.detach().clone() for p in run.net.parameters()]
    run.accelerator.backward(loss_of(run.net, batches()[0]) * math.nan)
    run.optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(run.net.parameters(), before, strict=True))
    assert run.clipper.last is not None and run.clipper.last.skipped is not None


def test_a_loop_that_raises() -> None:
    """Between micro-batches: gone on with, it clips once a step."""
    run = Run(0.25, every=2)
    with suppress(ZeroDivisionError), run.accelerator.accumulate(run.net):
        run.accelerator.backward(loss_of(run.net, batches()[0]))
        1 / 0  # noqa: B018
    run.optimizer.zero_grad(set_to_none=True)
    with assert_clipped(run.optimizer.optimizer, max_norm=0.25):
        run.train(0, 7)  # with the one before, whole steps: the engine counts for all loops of the process
    assert run.clipper.last is not None
    assert run.clipper.last.step == 4


def test_a_warning_is_about_a_line_of_the_users() -> None:
    """And not of the engine, through which it came."""
    run = Run(0.5)
    run.accelerator.backward(loss_of(run.net, batches()[0]))
    run.clipper.clip()
    with pytest.warns(MisuseWarning, match="called by hand") as caught:
        run.optimizer.step()
    assert [warning.filename for warning in caught] == [__file__]


def test_what_was_not_prepared_is_refused() -> None:
    """Before FSDP it has other parameters."""
    net = network()
    with pytest.raises(ValueError, match=r"must be what `accelerator.prepare` returned, got SGD\. Prepare it first"):
        prepare(accelerate.Accelerator(cpu=True), net, torch.optim.SGD(net.parameters(), lr=0.1), 1.0)


@pytest.mark.parametrize("engine", ["DEEPSPEED", "MEGATRON_LM"])
def test_an_engine_that_clips_by_itself_is_refused(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is attached."""
    run = Run(0.5)
    kind = accelerate.utils.DistributedType[engine]
    monkeypatch.setattr(accelerate.Accelerator, "distributed_type", property(lambda _: kind))
    with pytest.raises(ValueError, match=f"must not be of .*{engine}, which clips by itself"):
        prepare(run.accelerator, run.net, run.optimizer)
