"""Train a network on the temporal-order task, without and with clipping. It learns the task only with clipping.

A sequence consists of four kinds of random distracting symbols, with an A or a B at two places. After the whole
sequence, the network has to name the pair in order: AA, AB, BA or BB. So it must remember what it saw over half of
the sequence. The gradients of such a network explode. A few steps along them drive the units into saturation, which
lets hardly any gradient through to the A and the B. The network does not recover from this.

A run has solved the task if, after its last step, the network classifies at least 99 % of 1000 new sequences correctly.
Guessing gets 25 %. Both runs of a seed start with the same weights, and see the same batches and new sequences. Sizes,
initial weights and the threshold follow the paper's code, except that weights are dense. The learning rate is larger,
so that 600 steps are enough. Over longer sequences, gradients vanish. Clipping does not help then: the paper adds a
regulariser.

Run: python examples/temporal_order.py

References:
    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", 2013, arXiv:1211.5063.
    Hochreiter and Schmidhuber, "Long short-term memory", 1997, where the task comes from.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import NoReturn, final

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

import gradclip

SYMBOLS = 6
"""A is 0 and B is 1; the others are distracting."""

CLASSES = 4
"""AA, AB, BA and BB, numbered from 0."""

BATCH = 20
"""Sequences per training step."""

FRESH = 1000
"""New sequences on which a trained network is tested."""

SOLVED = 0.99
"""The share of them that must be classified correctly in a solved run."""


@final
class OrderModel(nn.Module):
    """A plain recurrent network of 50 tanh units that reads a sequence, and then classifies it."""

    def __init__(self) -> None:
        """Draw small weights from torch's global generator; the recurrent ones get a spectral radius of 0.95."""
        super().__init__()
        self.rnn = nn.RNN(SYMBOLS, 50)
        self.head = nn.Linear(50, CLASSES)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.01)
                else:
                    parameter.zero_()
            recurrent = self.rnn.weight_hh_l0
            recurrent *= 0.95 / torch.linalg.eigvals(recurrent).abs().max()

    def forward(self, symbols: Tensor) -> Tensor:
        """Return logits of shape (sequence, class) for symbols of shape (time, sequence)."""
        states, _ = self.rnn(one_hot(symbols, SYMBOLS).float())
        return self.head(states[-1])


def build(seed: int) -> OrderModel:
    """Return the model of a seed, and leave torch's generator unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OrderModel()


def draw(sequences: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw sequences and their classes.

    Args:
        sequences: The number of sequences.
        length: Symbols per sequence, 10 or more. The A or B are at random places in [L/10, 2L/10) and [5L/10, 6L/10),
            where L is the length. The intervals are half-open, as in the paper's code.
        generator: The source of the random numbers.

    Returns:
        Symbols as int64, of shape (time, sequence), and classes as int64, of shape (sequence,).
    """
    half, tenth = length // 2, length // 10
    symbols = torch.randint(2, SYMBOLS, (length, sequences), generator=generator)
    first, second = torch.randint(2, (2, sequences), generator=generator)
    places = torch.randint(tenth, (2, sequences), generator=generator) + torch.tensor([[tenth], [half]])
    symbols.scatter_(0, places, torch.stack([first, second]))
    return symbols, 2 * first + second


def train(model: nn.Module, generator: Generator, *, max_norm: float, length: int, lr: float, steps: int) -> float:
    """Train a model in place, on a new batch at each step.

    Args:
        model: The model to train.
        generator: The source of the random batches.
        max_norm: The threshold of the total norm; `math.inf` only measures.
        length: Symbols per sequence.
        lr: The learning rate of SGD.
        steps: The number of steps, one or more.

    Returns:
        The largest total norm of the gradients before clipping; NaN if any norm was NaN.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    norms = []
    for _ in range(steps):
        symbols, classes = draw(BATCH, length, generator)
        loss = cross_entropy(model(symbols), classes)
        optimizer.zero_grad()
        loss.backward()
        norms.append(gradclip.clip_grad_norm_(model.parameters(), max_norm))
        optimizer.step()
    return torch.stack(norms).max().item()


def run(seed: int, *, max_norm: float, length: int, lr: float, steps: int) -> tuple[float, float]:
    """Train the model of a seed. Return its accuracy on sequences drawn after the last batch, and the largest norm."""
    model, generator = build(seed), Generator().manual_seed(seed)
    largest_norm = train(model, generator, max_norm=max_norm, length=length, lr=lr, steps=steps)
    symbols, classes = draw(FRESH, length, generator)
    with torch.no_grad():
        right = model(symbols).argmax(dim=1) == classes
    return right.double().mean().item(), largest_norm


@final
class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2, as `argparse` does."""
        self.exit(2, f"{self.prog}: {message}\n")


def between(least: float, most: float) -> Callable[[str], float]:
    """Return a converter to numbers in a range: to whole numbers if its ends are whole numbers."""
    kind = type(least)
    noun = "a whole number" if kind is int else "a number"

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan  # outside of every range
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {noun} from {least:g} to {most:g}, got {text!r}")
        return value

    return convert


def main(arguments: Sequence[str] | None = None) -> None:
    """Train each seed twice, and print the results."""
    parser = Parser(description="The temporal-order task, without and with gradient clipping.")
    parser.add_argument("--length", type=between(10, 200), default=20, help="symbols in each sequence (20)")
    parser.add_argument("--lr", type=between(1e-6, 1e6), default=0.3, help="learning rate (0.3)")
    parser.add_argument("--max-norm", type=between(1e-6, 1e6), default=1.0, help="largest norm when clipping (1.0)")
    parser.add_argument("--steps", type=between(1, 100_000), default=600, help="training steps of each run (600)")
    parser.add_argument("--seeds", type=between(1, 1000), default=5, help="how many, counted from 0 (5)")
    options = parser.parse_args(arguments)
    task = {"length": options.length, "lr": options.lr, "steps": options.steps}
    torch.set_num_threads(1)  # a second thread would not speed up such a small network

    print("          without clipping       with clipping")
    print("seed  accuracy  largest norm          accuracy")
    solved_without = solved_with = 0
    for seed in range(options.seeds):
        without, largest_norm = run(seed, max_norm=math.inf, **task)
        clipped, _ = run(seed, max_norm=options.max_norm, **task)
        print(f"{seed:4}  {without:8.1%}  {largest_norm:12.1f}  {clipped:16.1%}", flush=True)
        solved_without += without >= SOLVED
        solved_with += clipped >= SOLVED
    verdict = f"without clipping: {solved_without} of {options.seeds}, with clipping: {solved_with} of {options.seeds}"
    print("solved", verdict)


if __name__ == "__main__":
    main()
