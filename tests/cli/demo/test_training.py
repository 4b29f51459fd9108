"""The model of the demo, and its loop."""

import math
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_post_hook

from gradclip.cli.demo import training
from gradclip.cli.demo.text import load
from gradclip.cli.demo.training import MOST_SKIPS, Run, build, windows
from gradclip.policies import AdaGC, FixedNorm, FixedValue, Policy


def test_windows_go_on_where_the_last_one_ended() -> None:
    characters = torch.arange(1_000)
    pairs = windows(characters, streams=3)
    assert len(pairs) == 10  # 333 characters a stream hold ten stretches of 32
    assert all(targets.equal(inputs + 1) for inputs, targets in pairs)
    assert torch.cat([inputs for inputs, _ in pairs])[:, 1].equal(torch.arange(333, 333 + 320))


def test_a_model_depends_on_its_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = build(9, 0), build(9, 0), build(9, 1)
    assert torch.get_rng_state().equal(before)
    assert all(a.equal(b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not first.head.weight.equal(other.head.weight)


@pytest.fixture
def left() -> Iterator[list[float]]:
    """The total norms that the gradients have after each step of any optimizer."""
    norms: list[float] = []

    def measure(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()))

    hook = register_optimizer_step_post_hook(measure)
    yield norms
    hook.remove()


def test_clipping_keeps_the_network_learning_where_it_explodes_without(left: list[float]) -> None:
    corpus = load(None)
    bits = {}
    for max_norm, policy in ((math.inf, None), (1.0, FixedNorm(1.0))):
        left.clear()
        run = Run("", policy, corpus, seed=0)
        clips = list(run.train(steps=50, lr=2.0))
        bits[max_norm] = np.mean(run.bits[-20:])
        assert len(clips) == len(left) == 50
        assert [clip.clipped for clip in clips] == [norm > max_norm - 1e-6 for norm in run.norms]
        # Unclipped steps keep their norm, clipped ones are left with max_norm, to within the rounding of a float32.
        assert left == pytest.approx([min(norm, max_norm) for norm in run.norms], rel=1e-5)
    assert max(left) <= 1.0 + 1e-6
    assert bits[1.0] < 4.5 < corpus.guessing_bits < bits[math.inf]


def finite(run: Run) -> list[bool]:
    """Whether loss and norm of each step are."""
    return [math.isfinite(bits) and math.isfinite(norm) for bits, norm in zip(run.bits, run.norms, strict=True)]


def test_ends_without_clipping_where_it_is_no_longer_finite(text: Path) -> None:
    run = Run("", None, load(text), seed=0)
    steps = list(run.train(steps=30, lr=1e38))
    assert len(steps) < 30
    assert finite(run) == [True] * (len(steps) - 1) + [False]
    assert (run.clips, run.ended) == (steps, "it was no longer finite")


@pytest.mark.parametrize("policy", [FixedNorm(1.0), AdaGC(1.0), FixedValue(0.01)])
def test_skips_a_step_that_is_not_finite_and_goes_on(
    policy: Policy, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One loss that is not a number leaves the weights as they are, and its state is forgotten."""
    losses = count(1)

    def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
        loss = cross_entropy(logits, targets)
        return loss * math.nan if next(losses) == 3 else loss

    monkeypatch.setattr(training, "cross_entropy", loss_of)
    run = Run("", policy, load(text), seed=0)
    anew: list[bool] = []
    run.model.register_forward_pre_hook(lambda _, inputs: anew.append(inputs[1] is None))
    weights = [run.model.head.weight.detach().clone() for _ in run.train(steps=6, lr=0.1)]
    assert [clip.skipped for clip in run.clips] == [False, False, True, False, False, False]
    assert finite(run) == [True, True, False, True, True, True]
    assert anew == [True, False, False, True, False, False]
    assert [a.equal(b) for a, b in pairwise(weights)] == [False, True, False, False, False]


def test_gives_up_where_every_step_is_skipped(text: Path) -> None:
    run = Run("", FixedNorm(1.0), load(text), seed=0)
    steps = list(run.train(steps=100, lr=1e38))
    assert [clip.skipped for clip in steps[-MOST_SKIPS:]] == [True] * MOST_SKIPS
    assert len(steps) < 100
    assert (run.clips, run.ended) == (steps, "more than 25 steps in a row were skipped")
