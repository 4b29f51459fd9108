"""Training loops of a model under FSDP2, right and wrong."""

import gc
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import SGD, AdamW, Optimizer

from framework_workers import mesh_of
from gradclip import GradClipper, patch, unpatch
from gradclip.distributed import Ownership, declare, forget
from gradclip.exceptions import MisuseWarning
from gradclip.policies import FixedNorm
from gradclip.records import Memory
from layouts import need_fsdp2
from small_net import Net, loss_of, net

STEPS = 4

BOUND = FixedNorm(0.5)


def shard(module: Net) -> None:
    """Put a model under FSDP2."""
    from torch.distributed.fsdp import fully_shard

    need_fsdp2()
    for own in (*module.blocks, module):
        fully_shard(own, mesh=mesh_of(dist.get_world_size()))


class Loop:
    """A model under FSDP2, its optimizer, and a clipper; the same from the start each time."""

    def __init__(self, make: Callable[..., Optimizer] = SGD, *, attach: bool = False, **arguments: Any) -> None:
        self.net: Any = net()
        shard(self.net)
        self.optimizer = make(self.net.parameters(), lr=0.01, **arguments)
        self.clipper = GradClipper(self.net, BOUND)
        self.norms: list[float] = []
        if attach:
            self.clipper.attach(self.optimizer)
        self._attached = attach

    def backward(self, batch: int) -> Tensor:
        loss = loss_of(self.net, dist.get_rank(), dist.get_world_size(), dtype=torch.float32, batch=batch)
        loss.backward()
        return loss.detach()

    def clip(self) -> None:
        if not self._attached:
            self.clipper.clip()

    def step(self) -> None:
        self.optimizer.step()
        assert self.clipper.last is not None
        self.norms.append(self.clipper.last.total_norm)


def plain(*, attach: bool, late: bool = False, foreach: bool = False, **zero: bool) -> list[float]:
    loop = Loop(attach=attach, foreach=foreach)
    for i in range(STEPS):
        if not late:
            loop.optimizer.zero_grad(**zero)
        loop.backward(i)
        loop.clip()
        loop.step()
        if late:
            loop.net.zero_grad(**zero)
    return loop.norms


def accumulation(*, attach: bool, synchronized: bool, **zero: bool) -> list[float]:
    """Two batches a step, of which gradients are reduced after each, or after the second only."""
    loop = Loop(AdamW, attach=attach)
    for i in range(2 * STEPS):
        loop.net.set_requires_gradient_sync(synchronized or i % 2 == 1)
        loop.backward(i)
        if i % 2 == 1:
            loop.clip()
            loop.step()
            loop.optimizer.zero_grad(**zero)
    return loop.norms


KEPT = {"set_to_none": False}

RIGHT: dict[str, tuple[str, Callable[[], list[float]]]] = {
    "by hand": ("plain", lambda: plain(attach=False)),
    "by hand, zeroed in place": ("plain", lambda: plain(attach=False, **KEPT)),
    "by hand, zeroed late": ("plain", lambda: plain(attach=False, late=True)),
    "by hand, zeroed late in place": ("plain", lambda: plain(attach=False, late=True, **KEPT)),
    "by hand, zeroed in place together": ("plain", lambda: plain(attach=False, foreach=True, **KEPT)),
    "attached, zeroed in place together": ("plain", lambda: plain(attach=True, foreach=True, **KEPT)),
    "attached": ("plain", lambda: plain(attach=True)),
    "attached, zeroed in place": ("plain", lambda: plain(attach=True, **KEPT)),
    "accumulation": ("sums", lambda: accumulation(attach=False, synchronized=False)),
    "accumulation, zeroed in place": ("sums", lambda: accumulation(attach=False, synchronized=False, **KEPT)),
    "accumulation, reduced each time": ("sums", lambda: accumulation(attach=False, synchronized=True)),
    "accumulation, reduced each time, zeroed in place": (
        "sums",
        lambda: accumulation(attach=False, synchronized=True, **KEPT),
    ),
    "accumulation, attached": ("sums", lambda: accumulation(attach=True, synchronized=False)),
    "accumulation, attached, zeroed in place": (
        "sums",
        lambda: accumulation(attach=True, synchronized=False, **KEPT),
    ),
    "accumulation, attached, reduced each time": ("sums", lambda: accumulation(attach=True, synchronized=True)),
    "accumulation, attached, reduced each time, zeroed in place": (
        "sums",
        lambda: accumulation(attach=True, synchronized=True, **KEPT),
    ),
}


def take_right_loops() -> dict[str, list[float]]:
    """The norms that each has clipped."""
    return {name: loop() for name, (_, loop) in RIGHT.items()}


# Wrong ones.


def after_the_step(**zero: bool) -> None:
    loop = Loop()
    for i in range(STEPS):
        loop.optimizer.zero_grad(**zero)
        loop.backward(i)
        loop.optimizer.step()
        loop.clip()


def before_backward(**zero: bool) -> None:
    loop = Loop()
    for i in range(STEPS):
        loop.optimizer.zero_grad(**zero)
        loop.clip()
        loop.backward(i)
        loop.optimizer.step()


def only_once(**zero: bool) -> None:
    loop = Loop()
    for i in range(STEPS):
        loop.optimizer.zero_grad(**zero)
        loop.backward(i)
        if i == 0:
            loop.clip()
        loop.optimizer.step()


def on_every_batch(**zero: bool) -> None:
    loop = Loop()
    for i in range(2 * STEPS):
        loop.backward(i)
        loop.clip()
        if i % 2 == 1:
            loop.optimizer.step()
            loop.optimizer.zero_grad(**zero)


def before_the_last_batch(**zero: bool) -> None:
    loop = Loop()
    for i in range(2 * STEPS):
        loop.backward(i)
        if i % 2 == 1:
            loop.optimizer.step()
            loop.optimizer.zero_grad(**zero)
        else:
            loop.clip()


def scaled_afterwards(**zero: bool) -> None:
    loop = Loop()
    for i in range(STEPS):
        loop.optimizer.zero_grad(**zero)
        loop.backward(i)
        loop.clip()
        for p in loop.net.parameters():
            p.grad.mul_(2.0)
        loop.optimizer.step()


def by_hand_too(**zero: bool) -> None:
    loop = Loop(attach=True)
    for i in range(STEPS):
        loop.optimizer.zero_grad(**zero)
        loop.backward(i)
        loop.clipper.clip()
        loop.optimizer.step()


WRONG: dict[str, Callable[..., None]] = {
    "after the step": after_the_step,
    "before backward": before_backward,
    "only once": only_once,
    "on every batch": on_every_batch,
    "before the last batch": before_the_last_batch,
    "scaled afterwards": scaled_afterwards,
    "by hand too": by_hand_too,
}


def take_wrong_loops() -> dict[tuple[str, bool], list[str]]:
    """The warnings of each, by whether gradients are set to None."""
    said: dict[tuple[str, bool], list[str]] = {}
    for name, loop in WRONG.items():
        for set_to_none in (True, False):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", MisuseWarning)
                loop(set_to_none=set_to_none)
            said[name, set_to_none] = [str(x.message) for x in caught]
    return said


# Two optimizers.


def own_pace(*, sharded: bool) -> list[tuple[int, float]]:
    """The clip, by number and norm, before each step of two attached optimizers, of which one steps every other time.

    Its gradients are added up meanwhile, in place.
    """
    module: Any = net()
    index, count = 0, 1
    if sharded:
        shard(module)
        index, count = dist.get_rank(), dist.get_world_size()
    body, head = SGD(module.blocks.parameters(), lr=0.01), SGD(module.head.parameters(), lr=0.01)
    clipper = GradClipper(module, BOUND, ignored=["embed.*", "norm.*"]).attach(body).attach(head)
    seen: list[tuple[int, float]] = []
    for i in range(STEPS):
        loss_of(module, index, count, dtype=torch.float32, batch=i).backward()
        for optimizer in (head, body) if i % 2 else (body,):
            optimizer.step()
            optimizer.zero_grad()
            assert clipper.last is not None
            seen.append((clipper.last.step, clipper.last.total_norm))
    return seen


# A scaled loss.


def scaled(*, attach: bool, scale: float) -> tuple[list[float], list[str], float]:
    """The norms and statuses of clips under a scaler, and the scale in the end."""
    loop = Loop(attach=False)
    scaler = GradScaler("cpu", init_scale=scale, growth_interval=100, backoff_factor=2.0**-40)
    if attach:
        loop.clipper.attach(loop.optimizer, scaler=scaler)
    norms: list[float] = []
    statuses: list[str] = []
    for i in range(STEPS):
        loop.optimizer.zero_grad()
        loss = loss_of(loop.net, dist.get_rank(), dist.get_world_size(), dtype=torch.float32, batch=i)
        scaler.scale(loss).backward()
        if not attach:
            scaler.unscale_(loop.optimizer)
            loop.clipper.clip()
        scaler.step(loop.optimizer)
        scaler.update()
        if loop.clipper.last is not None:
            norms.append(loop.clipper.last.total_norm)
            statuses.append(loop.clipper.last.status.value)
    return norms, statuses, scaler.get_scale()


def converted(how: str) -> tuple[list[float], list[str]]:
    """Convert a model of DTensors after each step, with the gradients in place; return the norms, and all warnings."""
    from torch.distributed.tensor import DTensor, distribute_module

    mesh, norms = mesh_of(dist.get_world_size()), Memory()
    model = distribute_module(torch.nn.Linear(3, 2), mesh)
    optimizer = SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if how == "declared":
            declare(model, Ownership())
        if how == "patched":
            patch(BOUND, sinks=[norms])
        else:
            clipper = GradClipper(model, BOUND, sinks=[norms])
        if how == "attached":
            clipper.attach(optimizer)
        for dtype in (torch.float32, torch.float64, torch.float32):
            model.to(dtype)
            for p in model.parameters():
                assert isinstance(p, DTensor)
                p.grad = DTensor.from_local(torch.ones_like(p.to_local()), mesh, p.placements)
            if how not in {"attached", "patched"}:
                clipper.clip()
            optimizer.step()
        if how == "patched":
            del optimizer  # whose last step left something to go on with
            gc.collect()
            model.to(torch.float64)
            unpatch()
        if how == "declared":
            forget(model)
    return [record.total_norm for record in norms.records], [str(x.message) for x in caught]
