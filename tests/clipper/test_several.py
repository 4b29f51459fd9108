"""Several optimizers, or several clippers, on one model."""

import math

import pytest
import torch
from torch import nn

from clipper.training import OPTIMIZERS, backward, batches, everything, loss_of, network, norm_of, same_bits, train
from gradclip import GradClipper, MisuseWarning
from gradclip.policies import FixedNorm
from gradclip.testing import capture_records


def two_optimizers(net: nn.Sequential) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    return torch.optim.SGD(net[0].parameters(), lr=0.1), torch.optim.Adam(net[2].parameters(), lr=0.1)


@pytest.mark.parametrize("wide", [False, True])
def test_several_optimizers_are_clipped_together_once(wide: bool) -> None:
    """One total norm for the model, one clip for each backward, whichever optimizer steps first."""
    net = network()
    body, head = two_optimizers(net)
    unused = [(f"unused{i}", nn.Parameter(torch.zeros(1))) for i in range(500)] if wide else []
    clipper = GradClipper([*net.named_parameters(), *unused], FixedNorm(0.5)).attach(body).attach(head)
    with capture_records(clipper) as records:
        for i, batch in enumerate(batches(6)):
            net.zero_grad()
            loss_of(net, batch).backward()
            expected = norm_of(net)
            for optimizer in (body, head) if i % 2 else (head, body):
                optimizer.step()
                assert norm_of(net) == pytest.approx(0.5, rel=1e-5)
            assert len(records) == i + 1 and records[-1].total_norm == pytest.approx(expected, rel=1e-12)
    clipper.detach(body)
    assert "attached to 1 optimizer)" in repr(clipper)


def test_a_skip_holds_back_all_of_them() -> None:
    """The gradients that one saw and another did not are still the same."""
    net = network()
    optimizers = two_optimizers(net)
    clipper = GradClipper(net)
    for optimizer in optimizers:
        clipper.attach(optimizer)
    loss_of(net, batches(1, poisoned=[0])[0]).backward()
    kept = [everything(net, optimizer) for optimizer in optimizers]
    for optimizer in optimizers:
        optimizer.step()
    assert same_bits([everything(net, optimizer) for optimizer in optimizers], kept)
    assert clipper.state_dict()["step"] == clipper.state_dict()["skips"] == 1


def test_an_optimizer_that_steps_every_second_time() -> None:
    """Whenever it does, what it uses has been clipped."""
    net = network()
    body, head = two_optimizers(net)
    clipper = GradClipper(net, FixedNorm(0.5)).attach(body).attach(head)
    with capture_records(clipper) as records:
        for i, batch in enumerate(batches(8)):
            loss_of(net, batch).backward()
            body.step()
            if i % 2:
                head.step()
                head.zero_grad()
            body.zero_grad()
            assert norm_of(net) <= 0.5 * (1 + 1e-6)
    assert len(records) == 8


def test_optimizers_that_backward_separates() -> None:
    """A backward between two steps makes gradients that are clipped anew."""
    net = network()
    body, head = two_optimizers(net)
    clipper = GradClipper(net, FixedNorm(0.5)).attach(body).attach(head)
    with capture_records(clipper) as records:
        for batch in batches(3):
            for optimizer in (body, head):
                net.zero_grad()
                loss_of(net, batch).backward()
                optimizer.step()
                assert norm_of(net) == pytest.approx(0.5, rel=1e-5)
    assert len(records) == 6


def test_heads_of_which_one_is_used() -> None:
    """What is clipped anew does not hang on which of very many gradients are looked at."""
    net = nn.Sequential(*(nn.Linear(3, 1, bias=False) for _ in range(80)))
    optimizers = [torch.optim.SGD(heads.parameters(), lr=0.1) for heads in (net[:40], net[40:])]
    clipper = GradClipper(net, FixedNorm(0.5))
    for optimizer in optimizers:
        clipper.attach(optimizer)
    for x, _ in batches(3):
        for optimizer, head in zip(optimizers, (net[1], net[41]), strict=True):
            net.zero_grad()
            head(x).square().sum().mul(100.0).backward()
            optimizer.step()
            assert norm_of(net) == pytest.approx(0.5, rel=1e-5)


def test_an_optimizer_without_a_gradient_asks_for_no_clip() -> None:
    """What another has clipped is not clipped, and learned from, once more."""
    net, idle = network(), nn.Linear(3, 1)
    optimizers = [torch.optim.SGD(own.parameters(), lr=0.1) for own in (net, idle)]
    clipper = GradClipper(nn.ModuleList([net, idle]), FixedNorm(0.5))
    for optimizer in optimizers:
        clipper.attach(optimizer)
    with capture_records(clipper) as records:
        for batch in batches(3):
            net.zero_grad()
            loss_of(net, batch).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert [record.status for record in records] == ["clipped"] * 3


def test_a_head_in_many_is_clipped_with_its_trunk() -> None:
    """Once for one backward, whichever head it is and whoever looks at it."""
    trunk, heads = nn.Linear(3, 3), nn.ModuleList(nn.Linear(3, 1, bias=False) for _ in range(40))
    net = nn.ModuleList([trunk, heads])
    optimizers = [torch.optim.SGD(own.parameters(), lr=0.01) for own in (trunk, heads)]
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizers[0]).attach(optimizers[1])
    with capture_records(clipper) as records:
        for i, (x, _) in enumerate(batches(8)):
            net.zero_grad()
            heads[4 * i + i % 2](trunk(x)).square().sum().mul(100.0).backward()
            for optimizer in optimizers if i % 2 else optimizers[::-1]:
                optimizer.step()
                assert norm_of(net) == pytest.approx(0.5, rel=1e-5)
    assert [record.step for record in records] == [*range(1, 9)]


def test_a_clipper_each_for_two_networks_that_alternate() -> None:
    """Adversarial training, with three steps of one for each of the other: every step of each is clipped."""
    critic, maker = network(1), nn.Linear(3, 3)
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.1) for net in (critic, maker)]
    clippers = [
        GradClipper(net, FixedNorm(0.1)).attach(optimizer)
        for net, optimizer in zip((critic, maker), optimizers, strict=True)
    ]
    for i, (x, _) in enumerate(batches(8)):
        optimizers[0].zero_grad()
        (critic(maker(x).detach()).mean() - critic(x).mean()).mul(100.0).backward()
        optimizers[0].step()
        assert norm_of(critic) == pytest.approx(0.1, rel=1e-4)
        if i % 3 == 2:
            optimizers[1].zero_grad()
            critic(maker(x)).mean().mul(-100.0).backward()
            optimizers[1].step()
            assert norm_of(maker) == pytest.approx(0.1, rel=1e-4)
    assert [clipper.state_dict()["step"] for clipper in clippers] == [8, 2]


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_pilot_and_then_the_run(by_hand: bool, recwarn: pytest.WarningsRecorder) -> None:
    """A clipper that is kept, as in a notebook, does not mind that another one has taken over with a new optimizer."""
    net = network()
    pilot, optimizer = GradClipper(net, FixedNorm(0.1)), torch.optim.SGD(net.parameters(), lr=0.1)
    if not by_hand:
        pilot.attach(optimizer)
    for batch in batches(2):
        backward(net, optimizer, batch)
        if by_hand:
            pilot.clip()
        optimizer.step()
    if not by_hand:
        pilot.detach()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    clipper = GradClipper(net, FixedNorm(0.2)).attach(optimizer)
    train(net, optimizer, 0, 3)
    assert recwarn.list == []
    assert [each.state_dict()["step"] for each in (pilot, clipper)] == [2, 3]


def test_a_pilot_and_then_a_run_that_nobody_clips() -> None:
    """It does mind where nobody has."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    pilot = GradClipper(net, FixedNorm(0.1)).attach(optimizer)
    train(net, optimizer, 0, 2)
    pilot.detach()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    with pytest.warns(MisuseWarning, match="were not clipped since the step before"):
        train(net, optimizer, 0, 1)


def test_two_clippers_of_parts_on_one_optimizer() -> None:
    """Parts of a model with a clipper each, and one optimizer: both clip, and a skip of one is a skip of all."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    for part in (net[0], net[2]):
        GradClipper(part, FixedNorm(0.1)).attach(optimizer)
    train(net, optimizer, 0, 1)
    assert norm_of(net[0]) == pytest.approx(0.1, rel=1e-4) and norm_of(net[2]) == pytest.approx(0.1, rel=1e-4)
    backward(net, optimizer, batches(1)[0])
    assert isinstance(net[2].bias, nn.Parameter) and net[2].bias.grad is not None
    net[2].bias.grad.fill_(math.nan)
    kept = everything(net, optimizer)
    optimizer.step()
    assert same_bits(everything(net, optimizer), kept)
    assert all(p.grad is not None for p in net.parameters())
