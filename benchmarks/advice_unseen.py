"""Seven more kinds of training, by which nothing about advice was ever chosen: they only check what it is worth.

`recurrent text`: an LSTM over characters, under SGD. `deep network`: eight layers without normalisation, under SGD with
momentum. `autoencoder`: digits through eight numbers, under Adam. `adding`: the adding problem of Hochreiter and
Schmidhuber with a GRU, under Adam. `heavy noise`: a regression whose targets have noise without a variance, under SGD.
`wrong labels`: a convolutional network, one label in five drawn at random, under Nesterov momentum. `summed loss`: a
regression whose loss is a sum and not a mean, so that norms are in the hundreds, under SGD.
"""

from itertools import pairwise

import torch
from advice_tasks import Problem, Task, digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from gradclip.cli.demo.text import load


def chance_of(seed: int) -> torch.Generator:
    """Return what a run draws its batches from."""
    return torch.Generator().manual_seed(seed)


class Reader(nn.Module):
    """An LSTM over characters."""

    def __init__(self, symbols: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.embedding = nn.Embedding(symbols, 32)
        self.lstm = nn.LSTM(32, 64, batch_first=True)
        self.head = nn.Linear(64, symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        """Return logits of shape (batch, length, symbols)."""
        return self.head(self.lstm(self.embedding(symbols))[0])


def recurrent_text(seed: int, lr: float, length: int = 48) -> Problem:
    """Next characters."""
    corpus, chance = load(None), chance_of(seed)
    torch.manual_seed(seed)
    model = Reader(len(corpus.symbols))

    def error(text: Tensor, rows: int, generator: torch.Generator) -> Tensor:
        starts = torch.randint(len(text) - length - 1, (rows, 1), generator=generator)
        piece = text[starts + torch.arange(length + 1)]
        return cross_entropy(model(piece[:, :-1]).flatten(0, 1), piece[:, 1:].flatten())

    return Problem(
        model,
        torch.optim.SGD(model.parameters(), lr),
        lambda _: error(corpus.training, 8, chance),
        lambda: error(corpus.validation, 64, chance_of(0)).item(),
    )


def deep_network(seed: int, lr: float, depth: int = 8) -> Problem:
    """Digits."""
    images, labels = digits()
    unseen, chance = len(images) // 3, chance_of(seed)
    torch.manual_seed(seed)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(64, 64), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)

    def loss(step: int) -> Tensor:  # noqa: ARG001 -- all batches are alike
        rows = torch.randint(len(images) - unseen, (32,), generator=chance)
        return cross_entropy(model(images[rows]), labels[rows])

    def judge() -> float:
        return cross_entropy(model(images[-unseen:]), labels[-unseen:]).item()

    return Problem(model, torch.optim.SGD(model.parameters(), lr, momentum=0.9), loss, judge)


def autoencoder(seed: int, lr: float) -> Problem:
    """Digits, and squared errors summed over pixels."""
    images, _ = digits()
    unseen, chance = len(images) // 3, chance_of(seed)
    torch.manual_seed(seed)
    widths = (64, 64, 8, 64)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    model = nn.Sequential(*layers, nn.Linear(64, 64))

    def error(given: Tensor) -> Tensor:
        return (model(given) - given).square().sum(dim=1).mean()

    return Problem(
        model,
        torch.optim.Adam(model.parameters(), lr),
        lambda _: error(images[torch.randint(len(images) - unseen, (32,), generator=chance)]),
        lambda: error(images[-unseen:]).item(),
    )


class Adder(nn.Module):
    """A GRU that answers with one number."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.gru = nn.GRU(2, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, sequence: Tensor) -> Tensor:
        """Return (batch,) for (time, batch, 2)."""
        return self.head(self.gru(sequence)[0][-1])[:, 0]


def adding(seed: int, lr: float, length: int = 20) -> Problem:
    """The sum of the two numbers that are marked."""
    torch.manual_seed(seed)
    model, chance = Adder(), chance_of(seed)

    def error(rows: int, generator: torch.Generator) -> Tensor:
        numbers, marks = torch.rand(length, rows, generator=generator), torch.zeros(length, rows)
        for begin in (0, length // 2):
            marks[begin + torch.randint(length // 2, (rows,), generator=generator), torch.arange(rows)] = 1.0
        return mse_loss(model(torch.stack([numbers, marks], dim=-1)), (numbers * marks).sum(dim=0))

    return Problem(
        model,
        torch.optim.Adam(model.parameters(), lr),
        lambda _: error(32, chance),
        lambda: error(1000, chance_of(0)).item(),
    )


def heavy_noise(seed: int, lr: float) -> Problem:
    """Noise with a tail index of 2, in training alone."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1))
    direction, chance = torch.randn(20, generator=chance_of(7)), chance_of(seed)

    def drawn(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        given = torch.randn(rows, 20, generator=generator)
        return given, 3.0 * (given @ direction).tanh()

    def loss(step: int) -> Tensor:  # noqa: ARG001 -- all batches are alike
        given, wanted = drawn(16, chance)
        width = torch.randn(16, generator=chance).abs().clamp(min=1e-3).rsqrt()
        return mse_loss(model(given)[:, 0], wanted + width * torch.randn(16, generator=chance))

    def judge() -> float:
        given, wanted = drawn(2000, chance_of(0))
        return mse_loss(model(given)[:, 0], wanted).item()

    return Problem(model, torch.optim.SGD(model.parameters(), lr), loss, judge)


def wrong_labels(seed: int, lr: float, share: float = 0.2) -> Problem:
    """Digits."""
    images, labels = digits()
    images, unseen, chance = images.view(-1, 1, 8, 8), len(images) // 3, chance_of(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 10)),
    )

    def loss(step: int) -> Tensor:  # noqa: ARG001 -- all batches are alike
        rows = torch.randint(len(images) - unseen, (64,), generator=chance)
        is_wrong = torch.rand(64, generator=chance) < share
        wanted = torch.where(is_wrong, torch.randint(10, (64,), generator=chance), labels[rows])
        return cross_entropy(model(images[rows]), wanted)

    def judge() -> float:
        return cross_entropy(model(images[-unseen:]), labels[-unseen:]).item()

    return Problem(model, torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True), loss, judge)


def summed_loss(seed: int, lr: float) -> Problem:
    """A smooth function of eight numbers."""
    torch.manual_seed(seed)
    hidden = [nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh()]
    model, chance = nn.Sequential(*hidden, nn.Linear(32, 1)), chance_of(seed)

    def errors(rows: int, generator: torch.Generator) -> Tensor:
        given = torch.randn(rows, 8, generator=generator)
        return (model(given)[:, 0] - given[:, 0] * given[:, 1] - 2.0 * given[:, 2].sin()).square()

    return Problem(
        model,
        torch.optim.SGD(model.parameters(), lr),
        lambda _: errors(64, chance).sum(),
        lambda: errors(2000, chance_of(0)).mean().item(),
    )


TASKS = {
    "recurrent text": Task(recurrent_text, 1.0, 250),
    "deep network": Task(deep_network, 0.005, 300),
    "autoencoder": Task(autoencoder, 0.003, 300),
    "adding": Task(adding, 0.005, 400),
    "heavy noise": Task(heavy_noise, 0.01, 300),
    "wrong labels": Task(wrong_labels, 0.02, 200),
    "summed loss": Task(summed_loss, 0.0005, 400),
}
