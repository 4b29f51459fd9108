"""A run: the loop in which the network is trained, with clipping where it belongs, and what came of it."""

import math
from collections.abc import Iterator
from functools import cached_property
from itertools import cycle, islice
from statistics import fmean
from typing import NamedTuple, final

import torch
from torch.nn.functional import cross_entropy

import gradclip
from gradclip.cli.demo.text import Corpus
from gradclip.cli.demo.training import STREAMS, build, sample, validate, windows
from gradclip.policies import FixedNorm, Policy
from gradclip.records import ClipRecord, Memory

NORMS_EVERY = 10
"""Steps from one to the next at which the norm of each parameter is recorded."""

MOST_SKIPS = 25
"""Steps in a row that may be skipped before a run is given up."""

LAST = 50
"""Steps at the end of a run whose mean is its training loss."""

PROMPT, WRITTEN = 64, 1000
"""Characters that a model reads before it writes, and writes: more than one line shows, as blanks are taken out."""


@final
class Step(NamedTuple):
    """A training step.

    Attributes:
        bits: The loss before the update, in bits per character.
        norm: The total norm before clipping: of order 2, whatever order a policy measures.
        clip: What clipping did.
    """

    bits: float
    norm: float
    clip: ClipRecord

    @property
    def finite(self) -> bool:
        """Whether the loss and the norm are."""
        return math.isfinite(self.bits) and math.isfinite(self.norm)


@final
class Run:
    """A model in training, and what came of it so far.

    Args:
        name: What is different about the run.
        policy: How it is clipped; None for not at all.
        corpus: The text.
        seed: The seed of the weights, and of what the model writes.

    Attributes:
        steps: Its steps.
        ended: Why it ended before its last step; empty where it did not.
    """

    def __init__(self, name: str, policy: Policy | None, corpus: Corpus, seed: int) -> None:
        self.name, self.policy, self.corpus, self.seed = name, policy, corpus, seed
        self.model = build(len(corpus.symbols), seed)
        self.steps: list[Step] = []
        self.ended = ""

    def train(self, *, steps: int, lr: float) -> Iterator[Step]:
        """Train, one step for each that is taken.

        A policy clips, and skips steps that are not finite, up to `MOST_SKIPS` in a row. Without one nothing is
        clipped, and the training ends where a step is not finite.
        """
        optimizer, clips = torch.optim.SGD(self.model.parameters(), lr=lr), Memory(maxlen=1)
        clipper = gradclip.GradClipper(
            self.model,
            self.policy or FixedNorm(math.inf),
            nonfinite="skip" if self.policy else "propagate",
            max_consecutive_skips=MOST_SKIPS,
            norms_every=NORMS_EVERY,
            sinks=[clips],
        )
        state = None
        with clipper.attach(optimizer):  # from here on, every optimizer.step() clips first
            for inputs, targets in islice(cycle(windows(self.corpus.training, STREAMS)), steps):
                logits, state = self.model(inputs, state)
                loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
                optimizer.zero_grad()
                loss.backward()
                clipper.observe_loss(loss)  # for policies that judge it
                norm = gradclip.get_total_norm(p.grad for p in self.model.parameters() if p.grad is not None)
                try:
                    optimizer.step()
                except gradclip.ConsecutiveSkipsError:
                    self.ended = f"more than {MOST_SKIPS} steps in a row were skipped"
                    return
                step = Step(loss.item() / math.log(2), norm.item(), clips.records[-1])
                self.steps.append(step)
                if self.policy is None and not step.finite:
                    self.ended = "it was no longer finite"
                yield step
                if self.ended:
                    return
                # A state that is not a number would spoil all steps to come.
                state = state.detach() if step.finite else None

    @property
    def training_bits(self) -> float:
        """The mean loss of the last steps, in bits per character; NaN where the run ended early."""
        return math.nan if self.ended else fmean(step.bits for step in self.steps[-LAST:])

    @property
    def largest_norm(self) -> float:
        """The largest total norm before clipping; NaN where any was."""
        return torch.tensor([step.norm for step in self.steps]).max().item()

    @cached_property
    def validation_bits(self) -> float:
        """The loss on text that the model never saw, in bits per character; perhaps not finite."""
        return validate(self.model, self.corpus.validation)

    @cached_property
    def sample(self) -> str:
        """Text that the model writes; empty where it no longer computes numbers."""
        prompt = self.corpus.validation[:PROMPT]
        return sample(self.model, self.corpus.symbols, prompt, characters=WRITTEN, seed=self.seed)
