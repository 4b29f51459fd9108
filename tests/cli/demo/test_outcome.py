"""What a run of the demo is worth."""

import math
from pathlib import Path

import pytest
import torch

from cli.demo.reading import CLIPPED, step, trained
from gradclip.cli.demo import training
from gradclip.cli.demo.text import Corpus, load
from gradclip.cli.demo.training import Run


def test_validation_of_a_model_that_guesses_is_the_loss_of_guessing(text: Path) -> None:
    corpus = load(text)
    for held_out in (corpus.validation, corpus.validation[:100]):
        run = Run("", None, corpus._replace(validation=held_out), seed=0)
        torch.nn.init.zeros_(run.model.head.weight)
        torch.nn.init.zeros_(run.model.head.bias)
        assert run.validation_bits == pytest.approx(corpus.guessing_bits, rel=1e-6)


def test_samples_what_the_model_prefers() -> None:
    assert certain(symbol=2).sample == "c" * training.WRITTEN


def test_samples_nothing_from_a_model_that_is_not_a_number() -> None:
    run = certain(symbol=2)
    torch.nn.init.constant_(run.model.head.bias, math.nan)
    assert run.sample == ""


def test_measures_the_end_of_a_run() -> None:
    steps = [step(i, bits=8.0 if i <= 10 else 2.0, norm=float(i)) for i in range(1, 61)]
    run = trained(CLIPPED, steps, 2.0)
    assert (run.training_bits, run.largest_norm) == (2.0, 60.0)
    broken = trained(CLIPPED, [step(1, math.nan, math.nan), *steps], math.nan, ended="it was no longer finite")
    assert math.isnan(broken.training_bits)
    assert math.isnan(broken.largest_norm)


def certain(symbol: int) -> Run:
    """A run over three symbols whose model always predicts the same one."""
    run = Run("", None, Corpus("a text", "abc", torch.tensor([0]), torch.tensor([0, 1])), seed=0)
    torch.nn.init.zeros_(run.model.head.weight)
    run.model.head.bias.data = torch.tensor([1e4 if i == symbol else 0.0 for i in range(3)])
    return run
