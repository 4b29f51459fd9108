"""Skipped steps of optimizers that do more than those of torch."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

from clipper.training import (
    Batch,
    backward,
    batches,
    everything,
    gradients,
    network,
    same_bits,
    train_from_scratch,
)
from gradclip import GradClipper
from gradclip.clipper import suppress


class Counting(torch.optim.SGD):
    """An optimizer that counts its steps in its groups, in numbers and in tensors, and touches every state."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            group.setdefault("count", torch.zeros(())).add_(1)
            for p in group["params"]:
                self.state[p]  # a defaultdict: this makes an entry
        return super().step(closure)


class Failing(torch.optim.SGD):
    """An optimizer that cannot do without gradients."""

    def step(self, closure: Any = None) -> Any:
        if all(p.grad is None for group in self.param_groups for p in group["params"]):
            msg = "no gradients"
            raise ArithmeticError(msg)
        return super().step(closure)


class Wrapper(Optimizer):
    """An optimizer that steps by another, on the same groups."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> Any:
        loss = self.inner.step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(1.0)
        return loss


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_an_optimizer_that_counts_in_its_groups(attached: bool) -> None:
    """Its counts are put back, those in tensors and those that it has just invented included."""
    data = batches(5, poisoned=[0, 3])
    runs = [
        train_from_scratch(lambda p: Counting(p, lr=0.1, momentum=0.9), some, attached=attached)
        for some in (data, [data[1], data[2], data[4]])
    ]
    (net, optimizer, _), (other, its_optimizer, _) = runs
    assert same_bits(everything(net, optimizer), everything(other, its_optimizer))
    assert optimizer.param_groups[0]["k"] == 3 and optimizer.param_groups[0]["count"].item() == 3.0
    net, optimizer, _ = train_from_scratch(lambda p: Counting(p, lr=0.1), batches(1, poisoned=[0]), attached=attached)
    assert "k" not in optimizer.param_groups[0] and not optimizer.state


@pytest.mark.parametrize("by_closure", [False, True])
@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_an_optimizer_that_wraps_another(attached: bool, inner: bool, by_closure: bool) -> None:
    """All of a skipped step is skipped, whatever part of it the clipper is attached to."""
    net = network()
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    wrapper = Wrapper(base)
    clipper = GradClipper(net)
    if attached:
        clipper.attach(base if inner else wrapper)
    for batch in batches(3, poisoned=[0, 2]):
        kept, nan = everything(net, base), bool(batch[0].isnan().any())

        def closure(batch: Batch = batch) -> Tensor:
            loss = backward(net, wrapper, batch)
            if not attached:
                clipper.clip()
            return loss

        if by_closure:
            wrapper.step(closure)
        else:
            backward(net, wrapper, batch)
            if not attached:
                clipper.clip()
            wrapper.step()
        assert clipper.last is not None and (clipper.last.status == "skipped_nonfinite") == nan
        assert same_bits(everything(net, base), kept) == nan
        assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_an_error_in_a_skipped_step_loses_no_gradient(attached: bool) -> None:
    """They come back with the next thing that the clipper is asked, as the same tensors; and training can go on."""
    net, optimizer, clipper = train_from_scratch(lambda p: Failing(p, lr=0.1), batches(2), attached=attached)
    backward(net, optimizer, batches(1, poisoned=[0])[0])
    kept, found = everything(net, optimizer), gradients(net)
    for _ in range(2):
        if not attached:
            clipper.clip()
        with pytest.raises(ArithmeticError, match="no gradients"):
            optimizer.step()
    clipper.clip() if not attached else clipper.detach()
    assert all(a is b for a, b in zip(gradients(net), found, strict=True))
    assert same_bits(everything(net, optimizer), kept)


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_an_error_in_a_skipped_step_brings_no_old_gradient_back(attached: bool) -> None:
    """Where the user has made new ones in the meantime, the old are gone for good."""
    net, optimizer, clipper = train_from_scratch(lambda p: Failing(p, lr=0.1), batches(2), attached=attached)
    backward(net, optimizer, batches(1, poisoned=[0])[0])
    if not attached:
        clipper.clip()
    with pytest.raises(ArithmeticError, match="no gradients"):
        optimizer.step()
    backward(net, optimizer, batches(3)[2])
    if not attached:
        clipper.clip()
    optimizer.step()
    expected = train_from_scratch(lambda p: Failing(p, lr=0.1), batches(3), attached=attached)
    assert same_bits(everything(net, optimizer), everything(*expected[:2]))


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_ctrl_c_at_any_moment_of_a_skipped_step_loses_no_gradient(attached: bool) -> None:
    """Wherever it comes while gradients are taken out or given back, they are there after the next clip or `detach`."""
    net, optimizer, clipper = train_from_scratch(
        lambda p: Counting(p, lr=0.1), batches(1), attached=attached, max_consecutive_skips=math.inf
    )
    interrupted, moment = True, 0
    while interrupted:
        backward(net, optimizer, batches(1, poisoned=[0])[0])
        kept, found = everything(net, optimizer), gradients(net)
        if not attached:
            clipper.clip()
        try:
            with interruption(moment):
                optimizer.step()
            interrupted = False
        except KeyboardInterrupt:
            moment += 1
        if attached:
            clipper.detach()
            clipper.attach(optimizer)
        else:
            clipper.clip()
        assert all(a is b for a, b in zip(gradients(net), found, strict=True)), moment
        assert same_bits(everything(net, optimizer), kept)
    assert moment > 10


@contextmanager
def interruption(moment: int) -> Iterator[None]:
    """Ctrl-C as a function of what suppresses steps is entered or left, so many times after the first."""
    left = moment

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        del argument
        if frame.f_code.co_filename == suppress.__file__ and event in {"call", "return"}:
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
