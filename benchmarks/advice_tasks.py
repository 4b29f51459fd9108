"""Tasks that train well at a low learning rate without clipping, and do not at one four times as high.

`text` is the network and the text of `gradclip demo`, a plain recurrent network on Python's own documentation. `digits`
is a residual network without normalisation on the handwritten digits of scikit-learn, whose pixels are disturbed: with
every block, activations and gradients grow. `digits by heart` is the same with clean pixels: it learns all that it sees
by heart, so that its gradients vanish.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradclip
from gradclip.cli.demo.outcome import validate
from gradclip.cli.demo.text import load
from gradclip.cli.demo.training import build
from gradclip.cli.demo.training import train as train_text
from gradclip.policies import FixedNorm, Policy
from gradclip.records import Memory, Sink

LAST, EVERY = 50, 5
"""Steps at the end of a run over which the loss of `digits` is averaged, and how far apart they are: it is uneven."""

DRAWS = 8
"""How many times each unseen digit is disturbed for that."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        final_loss: The loss at the end on examples that no step saw; NaN where the run was not finite before that.
        accuracy: The share of these that are classified rightly; None where there are no classes.
        clipped: The share of steps that were clipped.
    """

    final_loss: float
    accuracy: float | None
    clipped: float


class Task(Protocol):
    """Something to train.

    Attributes:
        pilot_lr: The learning rate at which it trains without clipping.
        lr: One four times as high.
        steps: How many steps a run takes.
    """

    pilot_lr: float
    lr: float
    steps: int

    def train(self, seed: int, lr: float, policy: Policy | None, sinks: Sequence[Sink] = ()) -> Outcome:
        """Train with a policy; None clips nothing and only measures."""
        ...


class Text:
    """The demo: bits per character."""

    pilot_lr, lr, steps = 0.5, 2.0, 400

    def train(self, seed: int, lr: float, policy: Policy | None, sinks: Sequence[Sink] = ()) -> Outcome:
        """Train on nine tenths of the text."""
        corpus = load(None)
        model = build(len(corpus.symbols), seed)
        text, memory = corpus.training, Memory()
        records = list(train_text(model, text, steps=self.steps, lr=lr, policy=policy, sinks=[*sinks, memory]))
        is_whole = len(records) == self.steps and records[-1].finite
        return Outcome(validate(model, corpus.validation) if is_whole else math.nan, None, clipped(memory))


class Digits:
    """1797 digits of 8 x 8 pixels, a fifth of them unseen: nats.

    Args:
        noise: The standard deviation of what is added to the pixels, which are from 0 to 1: anew in every batch, so
            that the digits are not learned by heart.
        pilot_lr: The learning rate of the pilot.
    """

    blocks, width, batch, momentum, steps = 24, 128, 64, 0.5, 400

    def __init__(self, noise: float, pilot_lr: float) -> None:
        """Make the task."""
        self.noise = noise
        self.pilot_lr, self.lr = pilot_lr, 4 * pilot_lr

    def train(self, seed: int, lr: float, policy: Policy | None, sinks: Sequence[Sink] = ()) -> Outcome:
        """Train with SGD and momentum."""
        images, labels = digits()
        held_out = len(images) // 5
        chance = torch.Generator().manual_seed(seed)
        unseen = [x[-held_out:].repeat_interleave(DRAWS, dim=0) for x in (images, labels)]
        unseen[0] = self._disturbed(unseen[0], torch.Generator().manual_seed(0))
        torch.manual_seed(seed)
        model = ResidualMLP(self.blocks, self.width)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=self.momentum)
        memory = Memory()
        clipper = gradclip.GradClipper(
            model,
            FixedNorm(math.inf) if policy is None else policy,
            nonfinite="propagate" if policy is None else "skip",
            norms_every=10,
            sinks=[*sinks, memory],
        )
        ends: list[tuple[float, float]] = []
        with clipper.attach(optimizer):
            for step in range(1, self.steps + 1):
                rows = torch.randint(len(images) - held_out, (self.batch,), generator=chance)
                loss = cross_entropy(model(self._disturbed(images[rows], chance)), labels[rows])
                if not loss.isfinite():
                    return Outcome(math.nan, judge(model, *unseen)[1], clipped(memory))
                optimizer.zero_grad()
                loss.backward()
                clipper.observe_loss(loss)
                optimizer.step()
                if step > self.steps - LAST and step % EVERY == 0:
                    ends.append(judge(model, *unseen))
        losses, accuracies = zip(*ends, strict=True)
        return Outcome(fmean(losses), fmean(accuracies), clipped(memory))

    def _disturbed(self, images: Tensor, chance: torch.Generator) -> Tensor:
        return images + self.noise * torch.randn(images.shape, generator=chance) if self.noise else images


class ResidualMLP(nn.Module):
    """Blocks of two layers, each added to its input and none normalised."""

    def __init__(self, blocks: int, width: int) -> None:
        """Draw the weights from torch's global generator, as its layers do."""
        super().__init__()
        self.first = nn.Linear(64, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(blocks)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits of shape (images, 10)."""
        hidden = self.first(images)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


def digits() -> tuple[Tensor, Tensor]:
    """Return images with pixels from 0 to 1, and their labels, in an order that is always the same."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 -- this task alone needs it

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.data, dtype=torch.float32) / 16.0
    return images[order], torch.tensor(data.target, dtype=torch.int64)[order]


@torch.no_grad()
def judge(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the loss and the accuracy of a model."""
    logits = model(images)
    return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def clipped(memory: Memory) -> float:
    """Return the share of steps that were clipped."""
    return fmean(record.clipped for record in memory.records)


TASKS: dict[str, Task] = {
    "text": Text(),
    "digits": Digits(noise=0.3, pilot_lr=0.02),
    "digits by heart": Digits(noise=0.0, pilot_lr=0.02),
}
