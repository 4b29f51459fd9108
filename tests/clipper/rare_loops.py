"""Training loops that clip as they should, and do something else besides."""

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.utils.checkpoint import checkpoint

from clipper.loops import STEPS, Loop, adam, data, setup, sgd
from clipper.training import batches, loss_of, network
from gradclip import GradClipper
from gradclip.policies import FixedNorm, FixedValue


def unused_parameters(**zero: bool) -> None:
    net, optimizer, clipper = setup()
    clipper.attach(optimizer)
    for i, (x, y) in enumerate(data()):
        optimizer.zero_grad(**zero)
        (net[0](x).mean() - y.mean() if i % 2 else loss_of(net, (x, y))).square().backward()
        optimizer.step()


def unused_parameters_by_hand(**zero: bool) -> None:
    net, optimizer, clipper = setup()
    for i, (x, y) in enumerate(data()):
        optimizer.zero_grad(**zero)
        (net[0](x).mean() - y.mean() if i % 2 else loss_of(net, (x, y))).square().backward()
        clipper.clip()
        optimizer.step()


def retained_graph() -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        optimizer.zero_grad()
        loss = loss_of(net, batch)
        loss.backward(retain_graph=True)
        loss.backward()
        clipper.clip()
        optimizer.step()


def gradient_penalty() -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        optimizer.zero_grad()
        loss = loss_of(net, batch)
        found = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        (loss + sum(x.square().sum() for x in found)).backward()
        clipper.clip()
        optimizer.step()


def double_backward() -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        optimizer.zero_grad()
        loss = loss_of(net, batch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns of a cycle of references
            loss.backward(create_graph=True)
        clipper.clip()
        optimizer.step()


def checkpointing(*, use_reentrant: bool) -> None:
    net, optimizer, clipper = setup()
    for i, (x, y) in enumerate(data(2 * STEPS)):
        hidden = checkpoint(net[0], x.clone().requires_grad_(), use_reentrant=use_reentrant)
        again = checkpoint(net[0], x.clone().requires_grad_(), use_reentrant=use_reentrant)
        (net[2](torch.tanh(hidden + again)) - y).square().mean().backward()
        if i % 2:
            clipper.clip()
            optimizer.step()
            optimizer.zero_grad()


def copies_of_the_network() -> None:
    net, optimizer, clipper = setup()
    target, average = copy.deepcopy(net), torch.optim.swa_utils.AveragedModel(net)
    clipper.attach(optimizer)
    for batch in data():
        optimizer.zero_grad()
        (loss_of(net, batch) + (net(batch[0]) - target(batch[0]).detach()).square().mean()).backward()
        optimizer.step()
        average.update_parameters(net)
        target.load_state_dict(net.state_dict())


def another_network_without_a_clipper() -> None:
    net, optimizer, clipper = setup()
    other = network(1)
    its_optimizer = adam(other)
    for batch in data():
        optimizer.zero_grad()
        its_optimizer.zero_grad()
        (loss_of(net, batch) + loss_of(other, batch)).backward()
        clipper.clip()
        optimizer.step()
        its_optimizer.step()


def schedule_of_the_rate(*, attach: bool) -> None:
    net, optimizer, clipper = setup()
    if attach:
        clipper.attach(optimizer)
    optimizer.step()  # without gradients, as some do to please a scheduler
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=2 * STEPS)
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        if not attach:
            clipper.clip()
        optimizer.step()
        scheduler.step()


def skipping_by_hand(**zero: bool) -> None:
    net, optimizer, clipper = setup()
    for i, batch in enumerate(data(3 * STEPS)):
        optimizer.zero_grad(**zero)
        (net[0](batch[0]).square().mean() if i % 4 == 2 else loss_of(net, batch)).backward()
        result = clipper.clip()
        if i % 3 == 0 or not math.isfinite(result.total_norm):
            continue
        optimizer.step()


def skips_by_the_clipper(*, attach: bool, **zero: bool) -> None:
    net, optimizer, clipper = setup()
    if attach:
        clipper.attach(optimizer)
    for batch in batches(2 * STEPS, poisoned=[0, 3, 4, 9]):
        optimizer.zero_grad(**zero)
        loss_of(net, batch).backward()
        if not attach:
            clipper.clip()
        optimizer.step()


def validation() -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        net.train()
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        clipper.clip()
        optimizer.step()
        net.eval()
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                loss_of(net, batch)


def sparse_gradients() -> None:
    net = nn.Sequential(nn.Embedding(10, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1))
    optimizers = [torch.optim.SparseAdam(net[0].parameters()), adam(net[2])]
    clipper = GradClipper(net, FixedNorm(0.1))
    for i in range(4 * STEPS):
        net(torch.tensor([[i % 10, 3], [3, 3]])).square().sum().backward()
        if i % 2:
            clipper.clip()
            for optimizer in optimizers:
                optimizer.step()
            net.zero_grad()


def a_copied_optimizer() -> None:
    net, optimizer, clipper = setup(adam)
    clipper.attach(optimizer)
    for batch in data():
        spare = copy.deepcopy(optimizer)
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()
        spare.step()


def a_last_layer_held_back() -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        clipper.clip()
        net[2].weight.grad = None
        optimizer.step()


def a_clipper_for_each_part() -> None:
    net, optimizer, _ = setup()
    clippers = [GradClipper(net[0]), GradClipper(net[2], FixedValue(0.1))]
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        for clipper in clippers:
            clipper.clip()
        optimizer.step()


def parameters_named_as_ignored() -> None:
    net, optimizer, _ = setup()
    clipper = GradClipper(net, ignored=["2.*"]).attach(optimizer)
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()
    assert clipper.last is not None


def a_cell_run_twice() -> None:
    net, optimizer, old = setup()
    clipper = GradClipper(net, FixedNorm(0.1))
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        clipper.clip()
        optimizer.step()
    assert old.last is None


def after_detach() -> None:
    net, optimizer, clipper = setup()
    with clipper.attach(optimizer):
        for batch in data():
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            optimizer.step()
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()


def measured_anywhere() -> None:
    net, optimizer, clipper = setup()
    measure = GradClipper(net, FixedNorm(math.inf))
    for i, batch in enumerate(data(2 * STEPS)):
        measure.clip()
        loss_of(net, batch).backward()
        measure.clip()
        if i % 2:
            clipper.clip()
            optimizer.step()
            measure.clip()
            optimizer.zero_grad()


def measured_too_where_attached() -> None:
    net, optimizer, clipper = setup()
    GradClipper(net, FixedNorm(math.inf)).attach(optimizer)
    clipper.attach(optimizer)
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step()


def scaler_and_a_last_layer_held_back() -> None:
    net, optimizer, clipper = setup()
    scaler = GradScaler("cpu")
    for batch in data():
        optimizer.zero_grad()
        scaler.scale(loss_of(net, batch)).backward()
        scaler.unscale_(optimizer)
        clipper.clip()
        net[2].weight.grad = net[2].bias.grad = None
        scaler.step(optimizer)
        scaler.update()


def an_error_in_a_step() -> None:
    net, optimizer, clipper = setup()
    for batch in data():

        def closure() -> Any:
            raise LookupError

        with pytest.raises(LookupError):
            optimizer.step(closure)
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        clipper.clip()
        optimizer.step()


def a_subclass_that_calls_its_parent() -> None:
    class Plain(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.mul_(0.5)
            super().step()
            return loss

    net = network()
    optimizer, clipper = Plain(net.parameters(), lr=0.01), GradClipper(net)
    for batch in data():
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        clipper.clip()
        optimizer.step()


def many_parameters() -> None:
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(200)))
    optimizers, clipper = [sgd(layer) for layer in net], GradClipper(net)
    for _ in range(STEPS):
        net.zero_grad()
        net(torch.ones(1, 2)).sum().backward()
        clipper.clip()
        for optimizer in optimizers:
            optimizer.step()


IN_PLACE = {"set_to_none": False}

RARE: dict[str, Loop] = {
    "unused parameters": unused_parameters,
    "unused parameters, zeroed in place": lambda: unused_parameters(**IN_PLACE),
    "unused parameters, by hand": unused_parameters_by_hand,
    "unused parameters, by hand, zeroed in place": lambda: unused_parameters_by_hand(**IN_PLACE),
    "retained graph": retained_graph,
    "gradient penalty": gradient_penalty,
    "double backward": double_backward,
    "checkpointing": lambda: checkpointing(use_reentrant=False),
    "checkpointing, reentrant": lambda: checkpointing(use_reentrant=True),
    "copies of the network": copies_of_the_network,
    "another network without a clipper": another_network_without_a_clipper,
    "schedule": lambda: schedule_of_the_rate(attach=False),
    "schedule, attached": lambda: schedule_of_the_rate(attach=True),
    "skipping by hand": skipping_by_hand,
    "skipping by hand, zeroed in place": lambda: skipping_by_hand(**IN_PLACE),
    "skips": lambda: skips_by_the_clipper(attach=False),
    "skips, zeroed in place": lambda: skips_by_the_clipper(attach=False, **IN_PLACE),
    "skips, attached": lambda: skips_by_the_clipper(attach=True),
    "skips, attached, zeroed in place": lambda: skips_by_the_clipper(attach=True, **IN_PLACE),
    "validation": validation,
    "sparse gradients": sparse_gradients,
    "a copied optimizer": a_copied_optimizer,
    "a last layer held back": a_last_layer_held_back,
    "a clipper for each part": a_clipper_for_each_part,
    "ignored parameters": parameters_named_as_ignored,
    "a cell run twice": a_cell_run_twice,
    "after detach": after_detach,
    "measured anywhere": measured_anywhere,
    "measured too where attached": measured_too_where_attached,
    "scaler and a last layer held back": scaler_and_a_last_layer_held_back,
    "an error in a step": an_error_in_a_step,
    "a subclass": a_subclass_that_calls_its_parent,
    "many parameters": many_parameters,
}
