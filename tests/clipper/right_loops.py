"""Training loops that clip as they should, in all their common forms."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler

from clipper.loops import STEPS, Loop, adam, data, setup, sgd
from clipper.training import Batch, loss_of, network
from gradclip import GradClipper
from gradclip.policies import FixedNorm


def by_hand(**zero: bool) -> None:
    net, optimizer, clipper = setup()
    for batch in data():
        optimizer.zero_grad(**zero)
        loss_of(net, batch).backward()
        clipper.clip()
        optimizer.step()


def by_hand_zeroed_late(**zero: bool) -> None:
    net, optimizer, clipper = setup(adam)
    for batch in data():
        loss_of(net, batch).backward()
        clipper.clip()
        optimizer.step()
        net.zero_grad(**zero)


def attached(**zero: bool) -> None:
    net, optimizer, clipper = setup()
    clipper.attach(optimizer)
    for batch in data():
        optimizer.zero_grad(**zero)
        loss_of(net, batch).backward()
        optimizer.step()


def accumulation(*, attach: bool, **zero: bool) -> None:
    net, optimizer, clipper = setup()
    if attach:
        clipper.attach(optimizer)
    for i, batch in enumerate(data(4 * STEPS)):
        loss_of(net, batch).backward()
        if i % 4 == 3:
            if not attach:
                clipper.clip()
            optimizer.step()
            optimizer.zero_grad(**zero)


def scaler_by_hand(make: Callable[..., Any], **arguments: Any) -> None:
    net, optimizer, clipper = setup(make, **arguments)
    scaler = GradScaler("cpu", init_scale=2.0**127, growth_interval=2)  # which overflows at first
    for batch in data():
        optimizer.zero_grad(set_to_none=False)
        scaler.scale(loss_of(net, batch)).backward()
        scaler.unscale_(optimizer)
        clipper.clip()
        scaler.step(optimizer)
        scaler.update()


def scaler_attached(make: Callable[..., Any], *, unscale: bool = False, known: bool = True, **arguments: Any) -> None:
    net, optimizer, clipper = setup(make, **arguments)
    scaler = GradScaler("cpu", init_scale=2.0**127, growth_interval=2)
    clipper.attach(optimizer, scaler=scaler if known else None)
    for batch in data(2 * STEPS):
        optimizer.zero_grad(set_to_none=False)
        scaler.scale(loss_of(net, batch)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()


def scaler_of_a_small_scale(scale: float = 1.0, **arguments: Any) -> None:
    """Whose division changes norms by little, by nothing, or makes them larger."""
    for seed in range(STEPS):  # rounding makes the norm of some less than their bound
        net, scaler = network(seed), GradScaler("cpu", init_scale=scale, **arguments)
        optimizer, clipper = sgd(net), GradClipper(net, FixedNorm(0.5))
        for batch in data(2):
            optimizer.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
            scaler.unscale_(optimizer)
            clipper.clip()
            scaler.step(optimizer)
            scaler.update()


def scaler_accumulation() -> None:
    net, optimizer, clipper = setup()
    scaler = GradScaler("cpu")
    for i, batch in enumerate(data(4 * STEPS)):
        scaler.scale(loss_of(net, batch)).backward()
        if i % 4 == 3:
            scaler.unscale_(optimizer)
            clipper.clip()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


def closures(*, attach: bool) -> None:
    net, optimizer, clipper = setup()
    if attach:
        clipper.attach(optimizer)
    for batch in data():

        def closure(batch: Batch = batch) -> Any:
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            loss.backward()
            if not attach:
                clipper.clip()
            return loss

        optimizer.step(closure)


def line_search(**zero: bool) -> None:
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.01, line_search_fn="strong_wolfe")
    clipper = GradClipper(net, FixedNorm(1.0))
    for batch in data():

        def closure(batch: Batch = batch) -> Any:
            optimizer.zero_grad(**zero)
            loss = loss_of(net, batch)
            loss.backward()
            clipper.clip()
            return loss

        optimizer.step(closure)


def several_optimizers(*, attach: bool) -> None:
    net, _, clipper = setup()
    optimizers = [sgd(net[0]), adam(net[2])]
    if attach:
        for optimizer in optimizers:
            clipper.attach(optimizer)
    for batch in data():
        net.zero_grad()
        loss_of(net, batch).backward()
        if not attach:
            clipper.clip()
        for optimizer in optimizers:
            optimizer.step()


def several_optimizers_each_after_a_clip() -> None:
    net, _, clipper = setup()
    optimizers = [sgd(net[0]), adam(net[2])]
    for batch in data():
        net.zero_grad()
        loss_of(net, batch).backward()
        for optimizer in optimizers:
            clipper.clip()
            optimizer.step()


def several_optimizers_at_their_own_pace(*, attach: bool) -> None:
    net, _, clipper = setup()
    body, head = sgd(net[0]), adam(net[2])
    if attach:
        clipper.attach(body).attach(head)
    for i, batch in enumerate(data()):
        loss_of(net, batch).backward()
        if not attach:
            clipper.clip()
        body.step()
        body.zero_grad()
        if i % 2:
            head.step()
            head.zero_grad()


def adversaries(*, attach: bool, together: bool) -> None:
    critic, maker = network(1), nn.Linear(3, 3)
    nets = [critic, maker]
    optimizers = [adam(net) for net in nets]
    one = GradClipper(nn.ModuleList(nets), FixedNorm(0.1))
    clippers = [one, one] if together else [GradClipper(net, FixedNorm(0.1)) for net in nets]
    if attach:
        for clipper, optimizer in zip(clippers, optimizers, strict=True):
            clipper.attach(optimizer)
    for i, (x, _) in enumerate(data(3 * STEPS)):
        losses = [lambda x=x: (critic(maker(x).detach()) - critic(x)).mean(), lambda x=x: -critic(maker(x)).mean()]
        for turn in (0, 1) if i % 3 == 2 else (0,):
            optimizers[turn].zero_grad()
            losses[turn]().backward()
            if not attach:
                clippers[turn].clip()
            optimizers[turn].step()


IN_PLACE = {"set_to_none": False}

COMMON: dict[str, Loop] = {
    "by hand": by_hand,
    "by hand, zeroed in place": lambda: by_hand(**IN_PLACE),
    "by hand, zeroed late": by_hand_zeroed_late,
    "by hand, zeroed late in place": lambda: by_hand_zeroed_late(**IN_PLACE),
    "attached": attached,
    "attached, zeroed in place": lambda: attached(**IN_PLACE),
    "accumulation": lambda: accumulation(attach=False),
    "accumulation, zeroed in place": lambda: accumulation(attach=False, **IN_PLACE),
    "accumulation, attached": lambda: accumulation(attach=True),
    "accumulation, attached, zeroed in place": lambda: accumulation(attach=True, **IN_PLACE),
    "scaler by hand": lambda: scaler_by_hand(sgd),
    "scaler by hand, fused": lambda: scaler_by_hand(adam, fused=True),
    "scaler turned off": lambda: scaler_of_a_small_scale(enabled=False),
    "scaler of 1": scaler_of_a_small_scale,
    "scaler below 1": lambda: scaler_of_a_small_scale(0.25),
    "scaler attached": lambda: scaler_attached(sgd),
    "scaler attached, fused": lambda: scaler_attached(adam, fused=True),
    "scaler attached, unscaled": lambda: scaler_attached(sgd, unscale=True),
    "scaler attached, fused, unscaled": lambda: scaler_attached(adam, fused=True, unscale=True),
    "scaler not known": lambda: scaler_attached(sgd, known=False),
    "scaler not known, fused": lambda: scaler_attached(adam, fused=True, known=False),
    "scaler and accumulation": scaler_accumulation,
    "closures": lambda: closures(attach=False),
    "closures, attached": lambda: closures(attach=True),
    "line search": line_search,
    "line search, zeroed in place": lambda: line_search(**IN_PLACE),
    "several optimizers": lambda: several_optimizers(attach=False),
    "several optimizers, attached": lambda: several_optimizers(attach=True),
    "several optimizers, each after a clip": several_optimizers_each_after_a_clip,
    "several optimizers, own pace": lambda: several_optimizers_at_their_own_pace(attach=False),
    "several optimizers, own pace, attached": lambda: several_optimizers_at_their_own_pace(attach=True),
    "adversaries": lambda: adversaries(attach=False, together=False),
    "adversaries, attached": lambda: adversaries(attach=True, together=False),
    "adversaries, one clipper": lambda: adversaries(attach=False, together=True),
    "adversaries, one clipper, attached": lambda: adversaries(attach=True, together=True),
}
