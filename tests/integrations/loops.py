"""A small task, trained by a plain loop: what every engine has to come to."""

import warnings
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradclip
from conftest import REQUIRED
from gradclip.policies import AdaGC, FixedNorm, Policy, ZClip

STEPS, BATCH, RATE, MOMENTUM = 20, 8, 0.05, 0.9

for_each_policy = pytest.mark.parametrize(
    "policy", [FixedNorm(0.5), ZClip(max_norm=1.0, warmup=3), AdaGC(1.0, warmup=3)], ids=lambda x: type(x).__name__
)


def needed(*names: str) -> list[Any]:
    """Import packages, or skip the module that is about them, unless they are required."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of theirs, as they are imported
            return [import_module(name) for name in names]
    except ModuleNotFoundError as error:
        if "integrations" in REQUIRED:
            raise
        pytest.skip(f"{error.name} is not installed", allow_module_level=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 1))


def data(steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    """Rows with answers of different sizes, so that norms differ."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps * BATCH, 5, generator=generator)
    scale = torch.logspace(-1, 1, len(x))[torch.randperm(len(x), generator=generator)].unsqueeze(1)
    return list(zip(x, x.sum(1, keepdim=True) * scale, strict=True))


def batches(steps: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    rows = data(steps)
    parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    return [(torch.stack([x for x, _ in part]), torch.stack([y for _, y in part])) for part in parts]


def loss_of(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(net(batch[0]), batch[1])


def trained(policy: Policy, *, every: int = 1, steps: int = STEPS) -> tuple[nn.Module, gradclip.GradClipper]:
    """Train by a plain loop, with so many micro-batches a step."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    clipper = gradclip.GradClipper(net, policy).attach(optimizer)
    for i, batch in enumerate(batches(steps), 1):
        (loss_of(net, batch) / every).backward()
        if i % every == 0:
            optimizer.step()
            optimizer.zero_grad()
    return net, clipper


class Late:
    """A copy to the host that is under way until it is waited for."""

    def __init__(self, *_: Any) -> None: ...

    def is_done(self) -> bool:
        return False

    def wait(self) -> None:
        """Come to an end."""


def late(patch: pytest.MonkeyPatch) -> None:
    """Take the numbers of each record to be on a device."""
    patch.setattr("gradclip.records.draft.Draft.is_elsewhere", True)
    patch.setattr("gradclip.records.draft.Draft.fetch", Late)


def same(net: nn.Module, expected: nn.Module, tolerance: float = 1e-6) -> None:
    for p, q in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=tolerance, atol=tolerance)


def as_by_a_plain_loop(net: nn.Module, clipper: gradclip.GradClipper, policy: Policy, *, every: int = 1) -> None:
    """Compare what an engine has come to, and its last clip, of so many."""
    expected, other = trained(policy, every=every)
    same(net, expected)
    assert clipper.last is not None and other.last is not None
    assert clipper.last.step == STEPS // every
    assert clipper.last.total_norm == pytest.approx(other.last.total_norm, rel=1e-5)
    assert clipper.state_dict()["parameters"] == other.state_dict()["parameters"]
