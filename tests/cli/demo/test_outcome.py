"""What a run of the demo is worth."""

import math
from pathlib import Path

import pytest
import torch

from cli.demo.reading import CLIPPED
from gradclip.cli.demo.runs import Outcome, sample, validate
from gradclip.cli.demo.text import load
from gradclip.cli.demo.training import CharacterModel, StepRecord, build


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
    records = [StepRecord(i, bits=8.0 if i <= 10 else 2.0, norm=float(i), clipped=i > 45) for i in range(1, 61)]
    outcome = Outcome(CLIPPED, records, 2.0, "")
    assert (outcome.training_bits, outcome.largest_norm, outcome.clipped_share) == (2.0, 60.0, 0.25)
    bad = StepRecord(61, math.nan, math.nan, clipped=False, skipped=True)
    broken = Outcome(CLIPPED, [*records, bad], math.nan, ended="it was no longer finite")
    assert math.isnan(broken.training_bits)
    assert math.isnan(broken.largest_norm)
    assert (outcome.skipped, broken.skipped) == (0, 1)


def certain(symbol: int) -> CharacterModel:
    """A model of three symbols that always predicts the same one."""
    model = build(3, seed=0)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([1e4 if i == symbol else 0.0 for i in range(3)])
    return model
