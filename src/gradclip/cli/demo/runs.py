"""One run: a model, the policy that it is trained with, and what came of it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gradclip import ConsecutiveSkipsError
from gradclip.cli.demo.text import Corpus
from gradclip.cli.demo.training import (
    MOST_SKIPS,
    STEPS_BACK,
    STREAMS,
    CharacterModel,
    StepRecord,
    build,
    train,
    windows,
)
from gradclip.policies import Policy
from gradclip.records import ClipRecord, Memory

LAST = 50
"""Steps at the end of a run whose mean is its training loss."""

MOST_WINDOWS = 50
"""Stretches of 32 characters a stream validated: all of a small text, and a second's work of a large one."""

PROMPT = 64
"""Characters that a model reads before it writes."""

TEMPERATURE = 0.7
"""Divides the logits when sampling; below 1, likely characters become likelier and words easier to recognise."""


@final
@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        name: What was different about the run.
        records: Its steps, one or more.
        validation_bits: The loss on text that it never saw, in bits per character; perhaps not finite.
        sample: Text that its model wrote; empty where the model no longer computes numbers.
        ended: Why it ended before its last step; empty where it did not.
        clips: What clipping did in each step.
    """

    name: str
    records: Sequence[StepRecord]
    validation_bits: float
    sample: str = ""
    ended: str = ""
    clips: Sequence[ClipRecord] = ()

    @property
    def training_bits(self) -> float:
        """The mean loss of the last steps, in bits per character; NaN where the run ended early."""
        return math.nan if self.ended else fmean(record.bits for record in self.records[-LAST:])

    @property
    def largest_norm(self) -> float:
        """The largest total norm before clipping; NaN where any was."""
        norms = [record.norm for record in self.records]
        return math.nan if any(map(math.isnan, norms)) else max(norms)

    @property
    def clipped_share(self) -> float:
        """The share of steps that were clipped, from 0 to 1."""
        return fmean(record.clipped for record in self.records)

    @property
    def skipped(self) -> int:
        """The number of steps that were skipped."""
        return sum(record.skipped for record in self.records)


@final
@dataclass
class Run:
    """A model in training, and its steps so far; without a policy nothing is clipped."""

    name: str
    policy: Policy | None
    corpus: Corpus
    seed: int
    records: list[StepRecord] = field(default_factory=list)
    clips: Memory = field(default_factory=Memory)
    ended: str = ""

    def __post_init__(self) -> None:
        self.model = build(len(self.corpus.symbols), self.seed)

    def train(self, *, steps: int, lr: float) -> Iterator[StepRecord]:
        """Train, one step for each record taken; it may end early, and then says why in `ended`."""
        try:
            text, sinks = self.corpus.training, [self.clips]
            for record in train(self.model, text, steps=steps, lr=lr, policy=self.policy, sinks=sinks):
                self.records.append(record)
                if self.policy is None and not record.finite:
                    self.ended = "it was no longer finite"
                yield record
        except ConsecutiveSkipsError:
            self.ended = f"more than {MOST_SKIPS} steps in a row were skipped"

    def judge(self, *, characters: int = 0) -> Outcome:
        """Validate the model, and let it write so many characters."""
        held_out = self.corpus.validation
        written = sample(self.model, self.corpus.symbols, held_out[:PROMPT], characters=characters, seed=self.seed)
        bits = validate(self.model, held_out)
        return Outcome(self.name, self.records, bits, written, self.ended, self.clips.records)


@torch.no_grad()
def validate(model: CharacterModel, text: Tensor) -> float:
    """Return the loss of a model on a text, in bits per character."""
    # Few streams where the text is short: each begins without context, and costs more until it has some.
    streams = min(STREAMS, (len(text) - 1) // STEPS_BACK)
    losses: list[float] = []
    state = None
    for inputs, targets in windows(text, streams)[:MOST_WINDOWS]:
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
