"""Four kinds of training more, to choose rules of advice by: `advice_unseen.py` stays a check.

`tabular`: a perceptron on the diabetes of scikit-learn, under SGD. `variational`: digits through eight numbers that are
drawn, under Adam. `factorisation`: a matrix of which two thirds are known, under SGD. `contrastive`: which two
disturbed digits are the same, under SGD with momentum.

No bound had a say in their learning rates. That of a pilot is half of the highest, of a grid of powers of two, at which
three runs without clipping ended at most 5 % above the best of the grid, in the median.
"""

from functools import cache

import torch
from advice_tasks import Problem, Task, digits
from advice_unseen import chance_of
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss, normalize


@cache
def patients() -> tuple[Tensor, Tensor]:
    """Return ten measures of each patient and the progress of the disease, standardised, in a fixed order."""
    from sklearn.datasets import load_diabetes  # noqa: PLC0415 -- this task alone needs it

    data = load_diabetes()
    order = torch.randperm(len(data.target), generator=chance_of(0))
    columns = [torch.tensor(x, dtype=torch.float32)[order] for x in (data.data, data.target[:, None])]
    given, wanted = ((x - x.mean(0)) / x.std(0) for x in columns)
    return given, wanted


def tabular(seed: int, lr: float) -> Problem:
    """The progress of a disease in a year."""
    given, wanted = patients()
    unseen, chance = len(given) // 3, chance_of(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def loss(step: int) -> Tensor:  # noqa: ARG001 -- all batches are alike
        rows = torch.randint(len(given) - unseen, (16,), generator=chance)
        return mse_loss(model(given[rows]), wanted[rows])

    def judge() -> float:
        return mse_loss(model(given[-unseen:]), wanted[-unseen:]).item()

    return Problem(model, torch.optim.SGD(model.parameters(), lr), loss, judge)


class Variational(nn.Module):
    """An autoencoder whose numbers in the middle are drawn."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))

    def bound(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound of images, in nats each."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        drawn = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
        missed = binary_cross_entropy_with_logits(self.decoder(drawn), images, reduction="none").sum(1)
        return (missed + 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).sum(1)).mean()


def variational(seed: int, lr: float) -> Problem:
    """Digits."""
    images, _ = digits()
    unseen, chance = len(images) // 3, chance_of(seed)
    torch.manual_seed(seed)
    model = Variational()
    return Problem(
        model,
        torch.optim.Adam(model.parameters(), lr),
        lambda _: model.bound(images[torch.randint(len(images) - unseen, (32,), generator=chance)], chance),
        lambda: model.bound(images[-unseen:], chance_of(0)).item(),
    )


class Factors(nn.Module):
    """Two matrices whose product is a third."""

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.left = nn.Parameter(0.3 * torch.randn(rows, rank))
        self.right = nn.Parameter(0.3 * torch.randn(columns, rank))

    def forward(self, places: Tensor) -> Tensor:
        """Return (n,) for places of shape (2, n)."""
        return (self.left[places[0]] * self.right[places[1]]).sum(1)


def factorisation(seed: int, lr: float, rows: int = 40, columns: int = 30, rank: int = 4) -> Problem:
    """Entries of a matrix of rank 4, with noise in those of training."""
    fixed = chance_of(3)
    whole = torch.randn(rows, rank, generator=fixed) @ torch.randn(rank, columns, generator=fixed)
    order = torch.randperm(rows * columns, generator=fixed)
    places = torch.stack([order // columns, order % columns])
    known, unseen = places[:, :800], places[:, 800:]
    torch.manual_seed(seed)
    model, chance = Factors(rows, columns, rank), chance_of(seed)

    def loss(step: int) -> Tensor:  # noqa: ARG001 -- all batches are alike
        drawn = known[:, torch.randint(known.shape[1], (64,), generator=chance)]
        noise = 0.3 * torch.randn(64, generator=chance)
        return (model(drawn) - whole[drawn[0], drawn[1]] - noise).square().mean()

    def judge() -> float:
        return mse_loss(model(unseen), whole[unseen[0], unseen[1]]).item()

    return Problem(model, torch.optim.SGD(model.parameters(), lr), loss, judge)


def contrastive(seed: int, lr: float, noise: float = 0.4, temperature: float = 0.1) -> Problem:
    """Two disturbed copies of each digit: which belong together, in nats."""
    images, _ = digits()
    unseen, chance = len(images) // 3, chance_of(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))

    def error(rows: Tensor, generator: torch.Generator) -> Tensor:
        one, other = (normalize(model(rows + noise * torch.randn(rows.shape, generator=generator))) for _ in range(2))
        return cross_entropy(one @ other.T / temperature, torch.arange(len(rows)))

    return Problem(
        model,
        torch.optim.SGD(model.parameters(), lr, momentum=0.9),
        lambda _: error(images[torch.randint(len(images) - unseen, (64,), generator=chance)], chance),
        lambda: torch.stack([error(part, chance_of(0)) for part in images[-unseen:].split(64)[:-1]]).mean().item(),
    )


TASKS = {
    "tabular": Task(tabular, 0.01, 250),
    "variational": Task(variational, 0.01, 250),
    "factorisation": Task(factorisation, 0.5, 300),
    "contrastive": Task(contrastive, 0.2, 200),
}
