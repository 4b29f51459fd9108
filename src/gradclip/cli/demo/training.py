"""The model, and the loop that trains it: this is where clipping belongs in a training loop."""

import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradclip

STREAMS = 32
"""Places of the text that are read side by side: the batch."""

STEPS_BACK = 64
"""Characters after which back-propagation through time is cut."""


class StepRecord(NamedTuple):
    """What one training step measured.

    Attributes:
        step: Counted from 1.
        bits: The loss before the update, in bits per character.
        norm: The total norm of the gradients before clipping.
        clipped: Whether they were scaled down.
    """

    step: int
    bits: float
    norm: float
    clipped: bool

    @property
    def finite(self) -> bool:
        """Whether training can go on from here."""
        return math.isfinite(self.bits) and math.isfinite(self.norm)


@final
class CharacterModel(nn.Module):
    """A plain recurrent network that predicts the next character: the kind whose gradients explode."""

    def __init__(self, symbols: int) -> None:
        """Draw the weights from torch's global generator, as its layers do."""
        super().__init__()
        self.embedding = nn.Embedding(symbols, 32)
        self.rnn = nn.RNN(32, 128)
        self.head = nn.Linear(128, symbols)

    # pyrefly: ignore [missing-override-decorator] -- Python 3.10 has no typing.override
    def forward(self, characters: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits of shape (time, stream, symbol), and the state to go on from.

        Args:
            characters: Symbols as int64, of shape (time, stream).
            state: What an earlier call returned; None begins anew.
        """
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
    """Cut a text into contiguous streams, and these into stretches of `STEPS_BACK`; what is left over is dropped.

    Returns:
        Inputs and, one character on, targets, of shape (time, stream). Each pair goes on where the one before ended.
    """
    length = (len(characters) - 1) // streams
    whole = length // STEPS_BACK * STEPS_BACK
    inputs = characters[: streams * length].view(streams, length).t()[:whole]
    targets = characters[1 : streams * length + 1].view(streams, length).t()[:whole]
    return list(zip(inputs.split(STEPS_BACK), targets.split(STEPS_BACK), strict=True))


def train(model: CharacterModel, text: Tensor, *, steps: int, lr: float, max_norm: float) -> Iterator[StepRecord]:
    """Train a model in place, one step for each record taken; end early once a step is not finite.

    Args:
        model: The model to train.
        text: Symbols as int64, of shape (time,).
        steps: The number of steps.
        lr: The learning rate of SGD.
        max_norm: The largest total norm to train with; `math.inf` measures and changes nothing.

    Yields:
        The record of each step, after its update.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    state = None
    for step, (inputs, targets) in zip(range(1, steps + 1), cycle(windows(text, STREAMS)), strict=False):
        logits, state = model(inputs, state)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        norm = gradclip.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        state = state.detach()
        clipped = gradclip.clip_coefficient(norm, max_norm).item() < 1
        record = StepRecord(step, loss.item() / math.log(2), norm.item(), clipped)
        yield record
        if not record.finite:
            return
