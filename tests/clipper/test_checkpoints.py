"""What `torch.distributed.checkpoint` does to an optimizer that has no state yet is no step of training."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradclip
from clipper.training import backward, batches, network, same_bits
from gradclip import GradClipper
from gradclip.policies import AutoClip
from gradclip.records import Memory

if not torch.distributed.is_available():
    pytest.skip("needs torch.distributed", allow_module_level=True)

STEPS = 4

Clip = Callable[[nn.Module, Any, Memory], tuple[AbstractContextManager[object], Callable[[], object]]]


def attached(net: nn.Module, optimizer: Any, memory: Memory) -> tuple[AbstractContextManager[object], Any]:
    return GradClipper(net, AutoClip(max_norm=9.0), sinks=[memory]).attach(optimizer), lambda: None


def by_hand(net: nn.Module, optimizer: Any, memory: Memory) -> tuple[AbstractContextManager[object], Any]:
    return nullcontext(), GradClipper(net, AutoClip(max_norm=9.0), sinks=[memory]).clip


def patched(net: nn.Module, optimizer: Any, memory: Memory) -> tuple[AbstractContextManager[object], Any]:
    return gradclip.patch(AutoClip(max_norm=9.0), sinks=[memory]), lambda: None


def recorded(net: nn.Module, optimizer: Any, memory: Memory) -> tuple[AbstractContextManager[object], Any]:
    return gradclip.patch(sinks=[memory]), lambda: None


def trained(clip: Clip, kind: str, *, saves: bool) -> tuple[list[Tensor], list[tuple[int, float, float | None]]]:
    """Return the weights, and what the records say, where the optimizer was saved before it ever stepped, or not."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    net, memory = network(), Memory()
    optimizer = getattr(torch.optim, kind)(net.parameters(), lr=0.1)
    within, act = clip(net, optimizer, memory)
    with within:
        if saves:
            get_optimizer_state_dict(net, optimizer)
            assert bool(optimizer.state) == (kind == "RMSprop")
            assert not memory.records
        for batch in batches(STEPS):
            backward(net, optimizer, batch)
            act()
            optimizer.step()
    return [p.detach() for p in net.parameters()], [(x.step, x.total_norm, x.threshold) for x in memory.records]


@pytest.mark.parametrize("kind", ["SGD", "RMSprop"])
@pytest.mark.parametrize("clip", [attached, by_hand, patched, recorded])
def test_a_step_that_makes_the_state_for_a_checkpoint_is_not_clipped(clip: Clip, kind: str) -> None:
    """On zeros that torch puts in, of which a policy would learn: it is not counted, recorded, or judged either."""
    weights, records = trained(clip, kind, saves=True)
    expected, expected_records = trained(clip, kind, saves=False)
    assert same_bits(weights, expected)
    assert records == expected_records
    assert [step for step, _, _ in records] == list(range(1, STEPS + 1))
