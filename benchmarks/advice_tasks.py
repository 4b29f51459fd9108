"""Five kinds of training, each small: what a pilot advises is tried on them.

Each is a `Problem`: a model with its optimizer, the loss of each step, and a judge of the end, lower being better.

`language model`: a small transformer on Python's own documentation, under AdamW; the labels of a few batches are
corrupted, and their loss is a thousand times too large. `long recurrence`: a plain recurrent network on the
temporal-order task of Pascanu et al., under SGD. `forecast`: a recurrent network on a series with rare shocks, in
units of its own, under SGD with momentum. `classification`: a normalised network on the digits of scikit-learn, which
trains well without clipping. `policy gradient`: REINFORCE on a grid, with norms that are uneven and fall.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from gradclip.cli.demo.text import load


@dataclass(frozen=True)
class Problem:
    """Something to train, drawn by a seed.

    Attributes:
        model: The model.
        optimizer: Its optimizer.
        loss: (step, from 1) -> the loss of its batch.
        judge: The loss of the trained model on what no step saw.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Callable[[int], Tensor]
    judge: Callable[[], float]


@dataclass(frozen=True)
class Task:
    """A kind of problem.

    Attributes:
        make: (seed, learning rate) -> the problem.
        pilot_lr: The learning rate of the pilot; that of the runs is four times as high.
        steps: How many steps a run takes.
    """

    make: Callable[[int, float], Problem]
    pilot_lr: float
    steps: int

    @property
    def lr(self) -> float:
        """The learning rate of the runs."""
        return 4.0 * self.pilot_lr


class Transformer(nn.Module):
    """Two blocks over characters."""

    def __init__(self, symbols: int, length: int, width: int = 32) -> None:
        """Draw the weights."""
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        block = nn.TransformerEncoderLayer(width, 2, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, symbols)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, symbols: Tensor) -> Tensor:
        """Return logits of shape (batch, length, symbols)."""
        return self.head(self.blocks(self.embedding(symbols) + self.places, mask=self.mask))


def language_model(seed: int, lr: float, batch: int = 8, length: int = 32) -> Problem:
    """Next characters; three batches of a run are corrupted."""
    corpus = load(None)
    torch.manual_seed(seed)
    model = Transformer(len(corpus.symbols), length)
    chance = torch.Generator().manual_seed(seed)
    corrupted = {80, 120, 150}

    def drawn(text: Tensor, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        starts = torch.randint(len(text) - length - 1, (rows, 1), generator=generator)
        piece = text[starts + torch.arange(length + 1)]
        return piece[:, :-1], piece[:, 1:]

    def loss(step: int) -> Tensor:
        given, wanted = drawn(corpus.training, batch, chance)
        if step in corrupted:
            noise = torch.randint(len(corpus.symbols), wanted.shape, generator=chance)
            return 1000.0 * cross_entropy(model(given).flatten(0, 1), noise.flatten())
        return cross_entropy(model(given).flatten(0, 1), wanted.flatten())

    def judge() -> float:
        given, wanted = drawn(corpus.validation, 128, torch.Generator().manual_seed(0))
        return cross_entropy(model(given).flatten(0, 1), wanted.flatten()).item()

    return Problem(model, torch.optim.AdamW(model.parameters(), lr), loss, judge)


class Recurrent(nn.Module):
    """A plain recurrent network that answers once it has read a sequence."""

    def __init__(self, inputs: int, outputs: int, width: int, radius: float) -> None:
        """Draw the weights; the recurrent ones get a spectral radius."""
        super().__init__()
        self.rnn = nn.RNN(inputs, width)
        self.head = nn.Linear(width, outputs)
        with torch.no_grad():
            weight = self.rnn.weight_hh_l0
            weight *= radius / torch.linalg.eigvals(weight).abs().max()

    def forward(self, sequence: Tensor) -> Tensor:
        """Return (batch, outputs) for (time, batch, inputs)."""
        return self.head(self.rnn(sequence)[0][-1])


def long_recurrence(seed: int, lr: float, length: int = 16) -> Problem:
    """Two of the symbols count, and their order: four classes, and a perplexity from 1 to 4."""
    torch.manual_seed(seed)
    model = Recurrent(6, 4, 50, radius=1.0)
    chance = torch.Generator().manual_seed(seed)

    def drawn(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        symbols = torch.randint(2, 6, (length, rows), generator=generator)
        which = torch.randint(2, (2, rows), generator=generator)
        places = torch.stack([torch.randint(*ends, (rows,), generator=generator) for ends in ((1, 4), (8, 11))])
        symbols.scatter_(0, places, which)
        return one_hot(symbols, 6).float(), 2 * which[0] + which[1]

    def loss(step: int) -> Tensor:  # noqa: ARG001 -- all batches are alike
        given, wanted = drawn(32, chance)
        return cross_entropy(model(given), wanted)

    def judge() -> float:
        given, wanted = drawn(1000, torch.Generator().manual_seed(0))
        return cross_entropy(model(given), wanted).exp().item()

    return Problem(model, torch.optim.SGD(model.parameters(), lr), loss, judge)


RARE = 0.005
"""The share of the numbers of a series at which there is a shock."""


@cache
def shocked(length: int = 4000) -> Tensor:
    """Return a series of two waves in units of tens, with noise and rare shocks that die away."""
    chance = torch.Generator().manual_seed(0)
    time = torch.arange(length, dtype=torch.float32)
    waves = 20.0 * (time / 11.0).sin() + 10.0 * (time / 37.0).sin()
    rare = torch.rand(length, generator=chance) < RARE
    shocks = 100.0 * rare * torch.randn(length, generator=chance)
    kernel = 0.7 ** torch.arange(19, -1, -1, dtype=torch.float32)
    echoes = nn.functional.conv1d(nn.functional.pad(shocks, (19, 0))[None, None], kernel[None, None])[0, 0]
    return (waves + echoes + 2.0 * torch.randn(length, generator=chance)) / 10.0


def forecast(seed: int, lr: float, window: int = 16) -> Problem:
    """The next number after a window."""
    series = shocked()
    torch.manual_seed(seed)
    model = Recurrent(1, 1, 24, radius=1.0)
    chance = torch.Generator().manual_seed(seed)
    train = 3000

    def drawn(starts: Tensor) -> tuple[Tensor, Tensor]:
        pieces = series[starts[None, :] + torch.arange(window + 1)[:, None]]
        return pieces[:-1, :, None], pieces[-1]

    def error(starts: Tensor) -> Tensor:
        given, wanted = drawn(starts)
        return (model(given)[:, 0] - wanted).square().mean()

    def loss(step: int) -> Tensor:  # noqa: ARG001 -- all batches are alike
        return error(torch.randint(train - window, (32,), generator=chance))

    def judge() -> float:
        return error(torch.arange(train, len(series) - window - 1)).item()

    return Problem(model, torch.optim.SGD(model.parameters(), lr, momentum=0.9), loss, judge)


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return images with pixels from 0 to 1, and their labels, in an order that is always the same."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 -- this task alone needs it

    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.data, dtype=torch.float32) / 16.0
    return images[order], torch.tensor(data.target, dtype=torch.int64)[order]


def classification(seed: int, lr: float, noise: float = 0.3) -> Problem:
    """Digits whose pixels are disturbed anew in every batch."""
    images, labels = digits()
    unseen = len(images) // 3
    torch.manual_seed(seed)
    hidden = [nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 128), nn.LayerNorm(128), nn.ReLU()]
    model = nn.Sequential(*hidden, nn.Linear(128, 10))
    chance = torch.Generator().manual_seed(seed)

    def disturbed(pixels: Tensor, generator: torch.Generator) -> Tensor:
        return pixels + noise * torch.randn(pixels.shape, generator=generator)

    def loss(step: int) -> Tensor:  # noqa: ARG001 -- all batches are alike
        rows = torch.randint(len(images) - unseen, (64,), generator=chance)
        return cross_entropy(model(disturbed(images[rows], chance)), labels[rows])

    def judge() -> float:
        pixels = disturbed(images[-unseen:].repeat(8, 1), torch.Generator().manual_seed(0))
        return cross_entropy(model(pixels), labels[-unseen:].repeat(8)).item()

    return Problem(model, torch.optim.SGD(model.parameters(), lr, momentum=0.9), loss, judge)


MOVES = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])
SIDE, HORIZON = 5, 16


def policy_gradient(seed: int, lr: float, episodes: int = 24) -> Problem:
    """From one corner of a grid to the other: the loss is the mean number of steps, at most `HORIZON`."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(SIDE * SIDE, 32), nn.Tanh(), nn.Linear(32, 4))
    chance = torch.Generator().manual_seed(seed)

    def played(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the logarithms of what was done, and the steps that were still to come: (time, episode)."""
        place = torch.zeros(count, 2, dtype=torch.int64)
        going, logs, steps = torch.ones(count, dtype=torch.bool), [], []
        for _ in range(HORIZON):
            chances = model(one_hot(SIDE * place[:, 0] + place[:, 1], SIDE * SIDE).float()).log_softmax(1)
            done = torch.multinomial(chances.detach().exp(), 1, generator=generator)
            logs.append(chances.gather(1, done)[:, 0] * going)
            steps.append(going.float())
            place = (place + MOVES[done[:, 0]]).clamp(0, SIDE - 1)
            going = going & (place != SIDE - 1).any(dim=1)
        return torch.stack(logs), torch.stack(steps).flip(0).cumsum(0).flip(0)

    def loss(step: int) -> Tensor:  # noqa: ARG001 -- all batches are alike
        logs, steps = played(episodes, chance)
        return (logs * (steps - steps.mean(dim=1, keepdim=True))).sum(0).mean()

    def judge() -> float:
        if not all(p.isfinite().all() for p in model.parameters()):
            return math.nan
        return played(500, torch.Generator().manual_seed(0))[1][0].mean().item()

    return Problem(model, torch.optim.SGD(model.parameters(), lr), loss, judge)


TASKS = {
    "language model": Task(language_model, 0.0025, 200),
    "long recurrence": Task(long_recurrence, 0.05, 400),
    "forecast": Task(forecast, 0.004, 300),
    "classification": Task(classification, 0.02, 300),
    "policy gradient": Task(policy_gradient, 0.02, 150),
}
