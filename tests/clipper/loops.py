"""What training loops, right and wrong, are made of."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import nn

from clipper.training import Batch, batches, network
from gradclip import GradClipper
from gradclip.policies import FixedNorm

STEPS = 8
"""How many steps a loop takes."""

Loop: TypeAlias = Callable[[], object]


def sgd(net: nn.Module, **arguments: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.01, **arguments)


def adam(net: nn.Module, **arguments: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.01, **arguments)


def setup(make: Callable[..., torch.optim.Optimizer] = sgd, **arguments: Any) -> Any:
    """A network, an optimizer, and a clipper of it."""
    net = network()
    return net, make(net, **arguments), GradClipper(net, FixedNorm(0.5))


def data(steps: int = STEPS) -> Iterator[Batch]:
    return iter(batches(steps))
