"""The model, and the loop that trains it: this is where clipping belongs in a training loop."""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradclip
from gradclip.policies import FixedNorm, Policy
from gradclip.records import Sink

STREAMS = 64
"""Places of the text that are read side by side: the batch."""

STEPS_BACK = 32
"""Characters after which back-propagation through time is cut."""

NORMS_EVERY = 10
"""Steps from one to the next at which the norm of each parameter is recorded."""

MOST_SKIPS = 25
"""Steps in a row that may be skipped before a run is given up."""


class StepRecord(NamedTuple):
    """A training step: its loss before the update in bits per character, and its total norm before clipping."""

    step: int
    bits: float
    norm: float
    clipped: bool
    skipped: bool = False

    @property
    def finite(self) -> bool:
        """Whether the loss and the norm are."""
        return math.isfinite(self.bits) and math.isfinite(self.norm)


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
    whole = length // STEPS_BACK * STEPS_BACK
    inputs = characters[: streams * length].view(streams, length).t()[:whole]
    targets = characters[1 : streams * length + 1].view(streams, length).t()[:whole]
    return list(zip(inputs.split(STEPS_BACK), targets.split(STEPS_BACK), strict=True))


def train(
    model: CharacterModel, text: Tensor, *, steps: int, lr: float, policy: Policy | None, sinks: Sequence[Sink] = ()
) -> Iterator[StepRecord]:
    """Train a model in place on symbols of shape (time,), one step for each record taken.

    A policy clips, and skips steps that are not finite. Without one nothing is clipped, and the training ends early
    where a step is not finite. Sinks take a record of each clip.

    Raises:
        ConsecutiveSkipsError: If more than `MOST_SKIPS` steps in a row were skipped.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    clipper = gradclip.GradClipper(
        model,
        FixedNorm(math.inf) if policy is None else policy,
        nonfinite="propagate" if policy is None else "skip",
        max_consecutive_skips=MOST_SKIPS,
        norms_every=NORMS_EVERY,
        sinks=sinks,
    )
    state = None
    with clipper.attach(optimizer):  # from here on, every optimizer.step() clips first
        for step, (inputs, targets) in zip(range(1, steps + 1), cycle(windows(text, STREAMS)), strict=False):
            logits, state = model(inputs, state)
            loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            clipper.observe_loss(loss)  # for policies that judge it
            norm = total_norm(model)
            optimizer.step()
            status = gradclip.Status.OK if clipper.last is None else clipper.last.status
            skipped = status.startswith("skipped")
            record = StepRecord(step, loss.item() / math.log(2), norm, status == "clipped", skipped)
            yield record
            if policy is None and not record.finite:
                return
            # A state that is not a number would spoil all steps to come.
            state = state.detach() if record.finite else None


def total_norm(model: nn.Module) -> float:
    """Return the total norm of the gradients, of order 2 whatever a policy measures."""
    return gradclip.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
