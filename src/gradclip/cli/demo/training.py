"""The network, what it reads at each step, and what it is worth."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from statistics import fmean
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

STREAMS = 64
"""Places of the text that are read side by side: the batch."""

STEPS_BACK = 32
"""Characters after which back-propagation through time is cut."""

TEMPERATURE = 0.7
"""Divides the logits when sampling; below 1, likely characters become likelier and words easier to recognise."""


@final
class CharacterModel(nn.Module):
    """A plain recurrent network that predicts the next character: the kind whose gradients explode."""

    def __init__(self, symbols: int) -> None:
        """Draw the weights from torch's global generator, as its layers do."""
        super().__init__()
        self.embedding = nn.Embedding(symbols, 96)
        self.rnn = nn.RNN(96, 192)
        self.head = nn.Linear(192, symbols)

    def forward(self, characters: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits of shape (time, stream, symbol) for symbols of shape (time, stream), and the next state."""
        hidden, state = self.rnn(self.embedding(characters), state)
        return self.head(hidden), state


def build(symbols: int, seed: int) -> CharacterModel:
    """Return the model that a seed stands for, and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CharacterModel(symbols)


@contextmanager
def one_thread() -> Generator[None]:
    """Run on one thread: so small a network gains nothing from a second, and loses much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def windows(characters: Tensor, streams: int) -> list[tuple[Tensor, Tensor]]:
    """Return inputs and, one character on, targets, of shape (time, stream); each pair goes on where the last ended."""
    length = (len(characters) - 1) // streams
    parts = (characters[: streams * length], characters[1 : streams * length + 1])
    inputs, targets = (part.view(streams, length).t().split(STEPS_BACK) for part in parts)
    return list(zip(inputs, targets, strict=True))[: length // STEPS_BACK]


@torch.no_grad()
def validate(model: CharacterModel, text: Tensor) -> float:
    """Return the loss of a model on a text, in bits per character."""
    # Few streams where the text is short: each begins without context, and costs more until it has some.
    streams = min(STREAMS, (len(text) - 1) // STEPS_BACK)
    losses: list[float] = []
    state = None
    for inputs, targets in windows(text, streams):
        logits, state = model(inputs, state)
        losses.append(cross_entropy(logits.flatten(0, 1), targets.flatten()).item())
    return fmean(losses) / math.log(2)


@torch.no_grad()
def sample(model: CharacterModel, symbols: str, prompt: Tensor, *, characters: int, seed: int) -> str:
    """Return what a model writes after a prompt; it ends where the outputs are no longer finite."""
    generator = torch.Generator().manual_seed(seed)
    written, state, seen = "", None, prompt[:, None]
    for _ in range(characters):
        logits, state = model(seen, state)
        if not logits[-1].isfinite().all():
            break
        probabilities = (logits[-1, 0].double() / TEMPERATURE).softmax(dim=0)
        seen = torch.multinomial(probabilities, 1, generator=generator)[None]
        written += symbols[int(seen)]
    return written
