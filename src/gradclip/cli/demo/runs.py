"""One run: a model, the policy that it is trained with, and what came of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

from gradclip import ConsecutiveSkipsError
from gradclip.cli.demo.outcome import Outcome, sample, validate
from gradclip.cli.demo.text import Corpus
from gradclip.cli.demo.training import MOST_SKIPS, CharacterModel, StepRecord, build, train
from gradclip.policies import Policy
from gradclip.records import Memory

PROMPT = 64
"""Characters that a model reads before it writes."""


@final
@dataclass
class Run:
    """A model in training, and its steps so far.

    Attributes:
        name: What is different about the run.
        policy: The rule that clips; None clips nothing.
        corpus: The text.
        seed: What the weights and the sample depend on.
        model: The model.
        records: The steps so far.
        clips: What clipping did in these.
        ended: Why it ended before its last step; empty where it did not.
    """

    name: str
    policy: Policy | None
    corpus: Corpus
    seed: int
    model: CharacterModel = field(init=False)
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
