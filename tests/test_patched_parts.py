"""Under `patch()` gradients that are clipped in parts, by the norm of all, are bounded together."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradclip
from gradclip.policies import AdaGC, AutoClip, FixedNorm, Policy, ZClip, chain
from gradclip.records import Memory
from there import PLACE, There

if not hasattr(nn.utils, "get_total_norm"):
    pytest.skip("this torch has no such functions", allow_module_level=True)

STEPS = 5


def trained(policy: Policy | None, *, parts: int, bad: int | None = None) -> tuple[list[Tensor], list[tuple[Any, ...]]]:
    """Step on gradients clipped so many at a time; one is NaN at the `bad` step. Return what is left of them."""
    parameters = [nn.Parameter(torch.zeros(3)) for _ in range(4)]
    optimizer, memory = torch.optim.SGD(parameters, lr=1.0), Memory()
    with gradclip.patch(policy, sinks=[memory]):
        for step in range(STEPS):
            for place, parameter in enumerate(parameters):
                parameter.grad = torch.tensor([1.0, -2.0, 3.0]) * (place + 1.0) * (1.0 + step % 3)
            if step == bad:
                parameters[0].grad = torch.full((3,), math.nan)
            total = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            size = len(parameters) // parts
            for i in range(0, len(parameters), size):
                nn.utils.clip_grads_with_norm_(parameters[i : i + size], 5.0, total)
            optimizer.step()
    return [p.detach() for p in parameters], [(x.step, x.status, x.total_norm) for x in memory.records]


@pytest.mark.parametrize(
    "policy",
    [
        None,
        FixedNorm(1.0),
        ZClip(max_norm=40.0, warmup=2),
        AutoClip(max_norm=40.0),
        chain(FixedNorm(20.0), AutoClip(max_norm=15.0)),
        AdaGC(max_norm=40.0, warmup=2),
    ],
    ids=lambda policy: type(policy).__name__,
)
@pytest.mark.parametrize("bad", [None, 1])
def test_parts_are_bounded_by_the_norm_of_all(policy: Policy | None, bad: int | None) -> None:
    """As Accelerate clips, mesh by mesh, what it shards over several; a NaN in one keeps a rule's step from all."""
    weights, records = trained(policy, parts=1, bad=bad)
    found, own = trained(policy, parts=2, bad=bad)
    assert [(step, status) for step, status, _ in own] == [x[:2] for x in records for _ in range(2)]
    for x, y in zip(found, weights, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-7, equal_nan=True)
    assert [norm for _, _, norm in own] == pytest.approx(
        [norm for _, _, norm in records for _ in range(2)], rel=1e-6, nan_ok=True
    )


@pytest.mark.parametrize(
    "policy", [None, FixedNorm(5.0), ZClip(max_norm=5.0)], ids=lambda policy: type(policy).__name__
)
@pytest.mark.parametrize("place", [PLACE, torch.device(PLACE.type, 1), torch.device("cpu")], ids=str)
def test_the_norm_of_all_is_on_any_device(policy: Policy | None, place: torch.device) -> None:
    """As where the parts of a model are on several, and torch's norm on that of the first."""
    parts, total, memory = [There(torch.ones(3)), torch.ones(3)], torch.tensor(10.0), Memory()
    norm = total if place == torch.device("cpu") else There(total, place)
    with gradclip.patch(policy, sinks=[memory]):
        for part in parts:
            parameter: Any = nn.Parameter(torch.zeros_like(part))
            parameter.grad = part
            nn.utils.clip_grads_with_norm_([parameter], 5.0, norm)
    for x in (parts[0].held, parts[1]):
        torch.testing.assert_close(x, torch.full((3,), 0.5))
    assert [record.total_norm for record in memory.records] == [10.0, 10.0]
