"""A small network, its batches and optimizers, and how to compare what training made of them bit for bit."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import reference
from gradclip import GradClipper
from gradclip.policies import ZClip

Batch: TypeAlias = tuple[Tensor, Tensor]


def network(seed: int = 0) -> nn.Sequential:
    """Two layers, always of the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def batches(count: int, *, poisoned: Iterable[int] = ()) -> list[Batch]:
    """Always the same inputs and targets; a NaN among the inputs of some."""
    draw = torch.Generator().manual_seed(1)
    listed = [(torch.randn(8, 3, generator=draw), torch.randn(8, 1, generator=draw)) for _ in range(count)]
    for i in poisoned:
        listed[i][0][0, 0] = math.nan
    return listed


def loss_of(net: nn.Module, batch: Batch) -> Tensor:
    """A loss whose gradients have norms of about 10."""
    x, y = batch
    return 10.0 * (net(x) - y).square().mean()


def backward(net: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
    """Everything before clipping."""
    optimizer.zero_grad()
    loss = loss_of(net, batch)
    loss.backward()
    return loss


def gradients(net: nn.Module) -> list[Tensor | None]:
    """The gradients, the very tensors."""
    return [p.grad for p in net.parameters()]


def norm_of(net: nn.Module) -> float:
    """The total norm of the gradients, by the oracle."""
    return reference.norm([x for x in gradients(net) if x is not None], 2.0)


def train(net: nn.Module, optimizer: Optimizer, first: int, last: int) -> None:
    """Train on some of the batches, with a clipper attached or none."""
    for batch in batches(last)[first:]:
        backward(net, optimizer, batch)
        optimizer.step()


def everything(net: nn.Module, optimizer: Optimizer) -> Any:
    """A copy of all that a step may change."""
    return copy.deepcopy((list(net.parameters()), optimizer.state_dict()))


def same_bits(a: Any, b: Any) -> bool:
    """Whether two nests of tensors and numbers hold the same bits, NaN included."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_bits, a, b))
    return type(a) is type(b) and (a == b or repr(a) == repr(b) == "nan")


def _bytes(x: Tensor) -> bytes:
    return x.detach().contiguous().numpy().tobytes()


SGD, Adam, AdamW, Adagrad, RMSprop = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adagrad,
    torch.optim.RMSprop,
)

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "SGD": lambda p: SGD(p, lr=0.1),
    "SGD, decayed": lambda p: SGD(p, lr=0.1, weight_decay=0.1),
    "SGD, momentum": lambda p: SGD(p, lr=0.1, momentum=0.9, foreach=False),
    "SGD, momentum, foreach": lambda p: SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "SGD, momentum, fused": lambda p: SGD(p, lr=0.1, momentum=0.9, fused=True),
    "SGD, Nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SGD, Nesterov, fused": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, fused=True),
    "Adam": lambda p: Adam(p, lr=0.1, foreach=False),
    "Adam, foreach": lambda p: Adam(p, lr=0.1, foreach=True),
    "Adam, fused": lambda p: Adam(p, lr=0.1, fused=True),
    "Adam, tensor rate": lambda p: Adam(p, lr=torch.tensor(0.1), capturable=False, foreach=False),
    "AdamW": lambda p: AdamW(p, lr=0.1, foreach=False),
    "AdamW, foreach, amsgrad": lambda p: AdamW(p, lr=0.1, foreach=True, amsgrad=True),
    "AdamW, fused": lambda p: AdamW(p, lr=0.1, fused=True),
    "Adagrad": lambda p: Adagrad(p, lr=0.1, foreach=False),
    "Adagrad, foreach": lambda p: Adagrad(p, lr=0.1, foreach=True),
    "Adagrad, fused": lambda p: Adagrad(p, lr=0.1, fused=True),
    "RMSprop": lambda p: RMSprop(p, lr=0.1, momentum=0.9, centered=True, foreach=False),
    "RMSprop, foreach": lambda p: RMSprop(p, lr=0.1, foreach=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1, foreach=False),
    "Adafactor, foreach": lambda p: torch.optim.Adafactor(p, lr=0.1, foreach=True),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=0.1),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
}


def train_from_scratch(
    make: Callable[[Any], Optimizer], data: list[Batch], *, attached: bool, **arguments: Any
) -> tuple[nn.Module, Optimizer, GradClipper]:
    """Train a network, clipped by an adaptive policy, attached or by hand."""
    net = network()
    optimizer = make(net.parameters())
    clipper = GradClipper(net, ZClip(1.0, warmup=2), **arguments)
    if attached:
        clipper.attach(optimizer)
    for batch in data:
        backward(net, optimizer, batch)
        if not attached:
            clipper.clip()
        optimizer.step()
    return net, optimizer, clipper
