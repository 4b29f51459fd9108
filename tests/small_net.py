"""A small model of odd sizes, its batches, and what one process makes of them."""

from typing import TypeAlias

import torch
from torch import Tensor, nn

TOKENS, WIDTH, HIDDEN, ROWS, LENGTH = 11, 5, 7, 8, 4

Gradients: TypeAlias = dict[str, Tensor]


class Block(nn.Module):
    """Odd sizes, so that over 2 ranks the pieces are of two sizes, and over 4 some are empty."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return 3.0 * self.head(self.norm(x))


def net(dtype: torch.dtype = torch.float32) -> Net:
    """Always of the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().to(dtype)


def loss_of(module: nn.Module, index: int = 0, count: int = 1, *, dtype: torch.dtype, batch: int = 0) -> Tensor:
    """The mean loss over one of the equal parts of a batch, which is always the same."""
    draw = torch.Generator().manual_seed(1 + batch)
    tokens = torch.randint(TOKENS, (ROWS, LENGTH), generator=draw)
    targets = torch.randn(ROWS, LENGTH, 1, generator=draw).to(dtype)
    rows = slice(index * ROWS // count, (index + 1) * ROWS // count)
    return (module(tokens[rows]) - targets[rows]).square().mean()


def alone(dtype: torch.dtype, batches: int = 1) -> Gradients:
    """The gradients of the model on one process with all the data."""
    module = net(dtype)
    for batch in range(batches):
        loss_of(module, dtype=dtype, batch=batch).backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
