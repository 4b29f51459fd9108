"""What a run of the demo is worth."""

import math
from pathlib import Path

import pytest
import torch

from cli.demo.reading import CLIPPED, step, trained
from gradclip.cli.demo.text import load
from gradclip.cli.demo.training import CharacterModel, build, sample, validate


def test_validation_of_a_model_that_guesses_is_the_loss_of_guessing(text: Path) -> None:
    corpus = load(text)
    model = build(len(corpus.symbols), seed=0)
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    assert validate(model, corpus.validation) == pytest.approx(corpus.guessing_bits, rel=1e-6)
    assert validate(model, corpus.validation[:100]) == pytest.approx(corpus.guessing_bits, rel=1e-6)


def test_samples_what_the_model_prefers() -> None:
    model = certain(symbol=2)
    assert sample(model, "abc", torch.tensor([0, 1]), characters=5, seed=0) == "ccccc"


def test_samples_nothing_from_a_model_that_is_not_a_number() -> None:
    model = certain(symbol=2)
    torch.nn.init.constant_(model.head.bias, math.nan)
    assert sample(model, "abc", torch.tensor([0, 1]), characters=5, seed=0) == ""


def test_measures_the_end_of_a_run() -> None:
    steps = [step(i, bits=8.0 if i <= 10 else 2.0, norm=float(i)) for i in range(1, 61)]
    run = trained(CLIPPED, steps, 2.0)
    assert (run.training_bits, run.largest_norm) == (2.0, 60.0)
    broken = trained(CLIPPED, [step(1, math.nan, math.nan), *steps], math.nan, ended="it was no longer finite")
    assert math.isnan(broken.training_bits)
    assert math.isnan(broken.largest_norm)


def certain(symbol: int) -> CharacterModel:
    """A model of three symbols that always predicts the same one."""
    model = build(3, seed=0)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([1e4 if i == symbol else 0.0 for i in range(3)])
    return model
