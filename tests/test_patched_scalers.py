"""Under `patch()` a step that a scaler keeps from happening leaves a record."""

import copy
import gc
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

import gradclip
from gradclip import GradClipper
from gradclip.policies import FixedNorm
from gradclip.records import Memory
from gradclip.testing import capture_records
from test_patched_steps import found_in

STEP = inspect.unwrap(GradScaler.step)

pytestmark = pytest.mark.usefixtures("scalers_of_torch")


def scaled(
    memory: Memory, policy: Any = None, *, prepare: Callable[..., GradClipper | None] = lambda *_: None, **options: Any
) -> Any:
    """Train with a scaled loss that overflows at the second of three steps; return the weight."""
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1, **options)
    scaler = GradScaler("cpu", init_scale=1024.0)
    with gradclip.patch(policy, sinks=[memory]):
        kept = prepare(p, optimizer, scaler)
        for step in range(3):
            optimizer.zero_grad()
            scaler.scale((p * torch.tensor([3.0, float("inf") if step == 1 else 4.0])).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    if kept is not None:
        kept.detach()
    assert GradScaler.step is STEP
    return p.detach()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("policy", [None, FixedNorm(100.0)])
def test_a_step_that_a_scaler_leaves_out_is_recorded(policy: FixedNorm | None, fused: bool) -> None:
    """As one, whether the optimizer is fused or not, and with a rule."""
    memory = Memory()
    weights = scaled(memory, policy, fused=fused)
    assert found_in(memory) == [(1, "ok", None), (2, "skipped_scaler", None), (3, "ok", None)]
    assert [x.total_norm for x in memory.records] == [5.0, float("inf"), 5.0]
    assert torch.allclose(weights, torch.tensor([0.4, 0.2]))


@pytest.mark.parametrize("given", [True, False])
def test_a_step_that_a_scaler_leaves_out_is_that_of_an_own_clipper(given: bool) -> None:
    """Once, whether that was given the scaler or not."""
    memory, theirs = Memory(), Memory()

    def prepare(p: nn.Parameter, optimizer: Any, scaler: GradScaler) -> GradClipper:
        clipper = gradclip.GradClipper([p], FixedNorm(100.0), sinks=[theirs])
        return clipper.attach(optimizer, scaler if given else None)

    scaled(memory, prepare=prepare)
    assert found_in(memory) == [(1, "ok", None), (2, "skipped_scaler", None), (3, "ok", None)]
    assert list(memory.records) == list(theirs.records)


def test_a_scaler_that_is_listened_to_already_tells_a_patch_too() -> None:
    """Of an optimizer that the own clipper leaves alone; and is afterwards as it was."""
    memory = Memory()
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizers = torch.optim.SGD([p], lr=0.1), torch.optim.SGD([q], lr=0.1)
    scaler = GradScaler("cpu", init_scale=4.0)
    clipper = gradclip.GradClipper([p], FixedNorm(100.0)).attach(optimizers[0], scaler)

    def step(size: float) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        scaler.scale((p + q).sum() * size).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()

    with gradclip.patch(sinks=[memory]):
        step(float("inf"))
        step(1.0)
        clipper.detach()
        step(float("inf"))
    left_out = [(x.step, x.group) for x in memory.records if x.status == "skipped_scaler"]
    assert left_out == [(1, None), (1, "parameters 2"), (1, "parameters 3"), (3, "parameters 2")]
    assert len(memory.records) == 6
    assert GradScaler.step is STEP


def test_scalers_are_left_as_they_were_by_the_last_clipper() -> None:
    """Also where one has gone without a word, and where somebody has wrapped the method meanwhile."""
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizers = [torch.optim.SGD([p], lr=0.1) for p in parameters]

    def left_out(place: int) -> list[str]:
        """Return the statuses of a step that overflows."""
        scaler = GradScaler("cpu")
        with capture_records(clippers[place]) as records:
            scaler.scale((parameters[place] * float("inf")).sum()).backward()
            scaler.step(optimizers[place])
        return [record.status for record in records]

    clippers = [GradClipper([p]).attach(optimizer) for p, optimizer in zip(parameters, optimizers, strict=True)]
    clippers.pop().detach()
    assert GradScaler.step is not STEP and left_out(0) == ["skipped_scaler"]
    del optimizers[2]
    clippers.pop()
    optimizers.pop()
    gc.collect()
    clippers[0].detach()
    assert GradScaler.step is STEP and left_out(0) == []

    clippers[0].attach(optimizers[0])
    own, calls = GradScaler.step, list[GradScaler]()

    def counted(scaler: GradScaler, optimizer: Any) -> Any:
        calls.append(scaler)
        return own(scaler, optimizer)

    with pytest.MonkeyPatch.context() as patch, gradclip.patch(sinks=[memory := Memory()]):
        patch.setattr(GradScaler, "step", counted)
        other = GradClipper([parameters[1]]).attach(torch.optim.SGD([parameters[1]], lr=0.1))
        assert left_out(0) == ["skipped_scaler"] and found_in(memory) == [(2, "skipped_scaler", None)]
        assert len(calls) == 1
        other.detach()
    clippers[0].detach()
    assert GradScaler.step is STEP


def test_a_call_on_gradients_that_overflow_is_the_record_of_its_step() -> None:
    """Which the scaler then leaves out: it is not recorded once more."""
    memory, p = Memory(), nn.Parameter(torch.ones(2))
    optimizer, scaler = torch.optim.SGD([p], lr=0.1), GradScaler("cpu", init_scale=1024.0)
    with gradclip.patch(sinks=[memory]):
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale((p * float("inf")).sum()).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([p], 1.0)
            scaler.step(optimizer)
            scaler.update()
    assert [record.step for record in memory.records] == [1, 2]


def test_a_scaler_without_overflow_or_turned_off_tells_nothing() -> None:
    """A copy of one goes on too."""
    memory, p = Memory(), nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with gradclip.patch(sinks=[memory]):
        for scaler in (GradScaler("cpu", enabled=False), copy.deepcopy(GradScaler("cpu"))):
            optimizer.zero_grad()
            scaler.scale(p.sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert found_in(memory) == [(1, "ok", None), (2, "ok", None)]
