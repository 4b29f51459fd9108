"""The network, what it reads at each step, and a run: its training, with clipping where it belongs, and its worth."""

import math
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice
from statistics import fmean
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradclip
from gradclip.cli.demo.text import Corpus
from gradclip.policies import FixedNorm, Policy
from gradclip.records import ClipRecord

STREAMS, STEPS_BACK = 64, 32
"""Places of the text that are read side by side, the batch, and characters of each until back-propagation is cut."""

NORMS_EVERY = 10
"""Steps from one to the next at which the norm of each parameter is recorded."""

MOST_SKIPS = 25
"""Steps in a row that may be skipped before a run is given up."""

LAST = 50
"""Steps at the end of a run whose mean is its training loss."""

PROMPT, WRITTEN = 64, 1000
"""Characters that a model reads before it writes, and writes: more than one line shows, as blanks are taken out."""

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


def losses_of(model: CharacterModel, pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    """Return the loss at each of some windows, in nats per character: the model goes on where the last one ended."""
    state = None
    for inputs, targets in pairs:
        logits, state = model(inputs, state)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
        yield loss
        state = state.detach() if loss.isfinite() else None  # which would spoil all losses to come


@final
@dataclass(eq=False)
class Run:
    """A model in training, and what came of it so far.

    Attributes:
        name: What is different about the run.
        policy: How it is clipped; None for not at all.
        corpus: The text.
        seed: The seed of the weights, and of what the model writes.
        clips: What clipping did at each step.
        bits: The loss of each before the update, in bits per character; and that of one in which Ctrl-C came.
        norms: The total norm of each, likewise, before clipping: of order 2, whatever order a policy measures.
        ended: Why it ended before its last step; empty where it did not.
    """

    name: str
    policy: Policy | None
    corpus: Corpus
    seed: int
    clips: list[ClipRecord] = field(default_factory=list)
    bits: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    ended: str = ""

    @cached_property
    def model(self) -> CharacterModel:
        """The model."""
        return build(len(self.corpus.symbols), self.seed)

    def train(self, *, steps: int, lr: float) -> Iterator[ClipRecord]:
        """Train, one step for each record that is taken.

        A policy clips, and skips steps that are not finite, up to `MOST_SKIPS` in a row. Without one nothing is
        clipped, and the training ends where a step is not finite.
        """
        optimizer = torch.optim.SGD(self.model.parameters(), lr=lr)
        clipper = gradclip.GradClipper(
            self.model,
            self.policy or FixedNorm(math.inf),
            nonfinite="skip" if self.policy else "propagate",
            max_consecutive_skips=MOST_SKIPS,
            norms_every=NORMS_EVERY,
            sinks=[self.clips.append],
        )
        read = islice(cycle(windows(self.corpus.training, STREAMS)), steps)
        with clipper.attach(optimizer):  # from here on, every optimizer.step() clips first
            for loss in losses_of(self.model, read):
                optimizer.zero_grad()
                loss.backward()
                clipper.observe_loss(loss)  # for policies that judge it
                norm = gradclip.get_total_norm(p.grad for p in self.model.parameters() if p.grad is not None)
                self.bits.append(loss.item() / math.log(2))
                self.norms.append(norm.item())
                try:
                    optimizer.step()
                except gradclip.ConsecutiveSkipsError:
                    self.ended = f"more than {MOST_SKIPS} steps in a row were skipped"
                if self.policy is None and not math.isfinite(self.bits[-1] + self.norms[-1]):
                    self.ended = "it was no longer finite"
                yield self.clips[-1]
                if self.ended:
                    return

    @property
    def training_bits(self) -> float:
        """The mean loss of the last steps, in bits per character; NaN where the run ended early."""
        return math.nan if self.ended else fmean(self.bits[-LAST:])

    @property
    def largest_norm(self) -> float:
        """The largest total norm before clipping; NaN where any was."""
        return torch.tensor(self.norms).max().item()

    @cached_property
    @torch.no_grad()
    def validation_bits(self) -> float:
        """The loss on text that the model never saw, in bits per character; perhaps not finite."""
        text = self.corpus.validation
        # Few streams where the text is short: each begins without context, and costs more until it has some.
        streams = min(STREAMS, (len(text) - 1) // STEPS_BACK)
        return fmean(loss.item() for loss in losses_of(self.model, windows(text, streams))) / math.log(2)

    @cached_property
    @torch.no_grad()
    def sample(self) -> str:
        """Text that the model writes; it ends where the outputs are no longer finite."""
        generator = torch.Generator().manual_seed(self.seed)
        written, state, seen = "", None, self.corpus.validation[:PROMPT, None]
        for _ in range(WRITTEN):
            logits, state = self.model(seen, state)
            if not logits[-1].isfinite().all():
                break
            probabilities = (logits[-1, 0].double() / TEMPERATURE).softmax(dim=0)
            seen = torch.multinomial(probabilities, 1, generator=generator)[None]
            written += self.corpus.symbols[int(seen)]
        return written
