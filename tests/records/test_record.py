"""What a record says of a clip: each field against what happened."""

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clipper.training import backward, batches, network
from gradclip import ClipRecord, GradClipper
from gradclip.policies import AdaGC, FixedNorm, FixedValue, Policy, by_name
from gradclip.records import Memory
from records.made import record


def trained(policy: Policy, steps: int = 3, **options: Any) -> tuple[GradClipper, list[ClipRecord]]:
    """The records of training with a clipper attached to SGD, whose rate halves at each step."""
    net, memory = network(), Memory()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    clipper = GradClipper(net, policy, sinks=[memory], **options).attach(optimizer)
    for batch in batches(steps):
        backward(net, optimizer, batch)
        optimizer.step()
        optimizer.param_groups[0]["lr"] /= 2.0
    return clipper, list(memory.records)


def with_gradients(*gradients: list[float]) -> list[tuple[str, nn.Parameter]]:
    named = [("abcdef"[i], nn.Parameter(torch.zeros(len(x)))) for i, x in enumerate(gradients)]
    for (_, p), x in zip(named, gradients, strict=True):
        p.grad = torch.tensor(x)
    return named


def record_of(named: list[tuple[str, nn.Parameter]], policy: Policy | None = None, **options: Any) -> ClipRecord:
    """The record of one clip by hand."""
    memory = Memory()
    GradClipper(named, policy, sinks=[memory], **options).clip()
    return memory.records[0]


# Learning rate and loss.


def test_the_learning_rate_is_that_of_the_step() -> None:
    """Of the optimizer that steps, as it is then; a clip by hand has none."""
    clipper, records = trained(FixedNorm(0.5))
    assert [x.lr for x in records] == [0.1, 0.05, 0.025]
    assert record_of(with_gradients([3.0])).lr is None
    assert clipper.last is not None and [x.total_norm_after for x in records] == pytest.approx([0.5] * 3, rel=1e-5)


def test_the_optimizer_is_named() -> None:
    """What a bound does depends on it; a clip by hand has none."""
    _, records = trained(FixedNorm(0.5))
    assert [x.optimizer for x in records] == ["SGD"] * 3
    assert records[0].to_dict()["optimizer"] == "SGD"
    assert record_of(with_gradients([3.0])).optimizer is None


RATES: list[tuple[Callable[[Any], torch.optim.Optimizer], float | None]] = [
    (lambda p: torch.optim.SGD([{"params": p[:1], "lr": 0.3}, {"params": p[1:]}], lr=0.1), 0.3),
    (lambda p: torch.optim.Adam(p, lr=torch.tensor(0.25)), 0.25),
    (lambda p: torch.optim.SGD(p, lr=1), 1.0),
]


@pytest.mark.parametrize(("make", "expected"), RATES, ids=["first group", "tensor", "integer"])
def test_the_forms_of_a_learning_rate(make: Callable[[Any], torch.optim.Optimizer], expected: float | None) -> None:
    """It is a float in each."""
    named, memory = with_gradients([3.0], [4.0]), Memory()
    optimizer = make([p for _, p in named])
    GradClipper(named, sinks=[memory]).attach(optimizer)
    optimizer.step()
    assert memory.records[0].lr == expected and isinstance(memory.records[0].lr, float)


@pytest.mark.parametrize("rate", [None, "cosine", torch.zeros(2)], ids=str)
def test_a_learning_rate_that_is_no_number(rate: Any) -> None:
    """It is left out: records stop no training."""
    named, memory = with_gradients([3.0]), Memory()
    optimizer = torch.optim.SGD([p for _, p in named], lr=0.1)
    GradClipper(named, sinks=[memory]).attach(optimizer)
    optimizer.register_step_pre_hook(lambda *_: optimizer.param_groups[0].update(lr=0.1))
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()
    assert [x.lr for x in memory.records] == [None]


def test_the_loss_is_what_the_clipper_was_told() -> None:
    """By `clip`, by `observe_loss`, by a closure; once each."""
    named, memory = with_gradients([3.0]), Memory()
    clipper = GradClipper(named, FixedNorm(10.0), sinks=[memory])
    clipper.clip(loss=2.5)
    clipper.observe_loss(torch.tensor(1.5))
    clipper.clip()
    clipper.clip()
    optimizer = torch.optim.SGD([p for _, p in named], lr=0.1)
    clipper.attach(optimizer)

    def closure() -> Tensor:
        named[0][1].grad = torch.tensor([4.0])
        return torch.tensor(0.5)

    optimizer.step(closure)
    assert [x.loss for x in memory.records] == [2.5, 1.5, None, 0.5]


# What is not finite.

BAD = [3.0, math.nan, math.inf, -math.inf, math.nan]


def assert_counts(found: dict[str, tuple[int, int]] | None) -> None:
    assert found == {"b": (2, 2), "c": (0, 1)}


@pytest.mark.parametrize("nonfinite", ["skip", "sanitize", "propagate"])
@pytest.mark.parametrize("policy", [FixedNorm(1.0), FixedNorm(1.0, math.inf), AdaGC(1.0)], ids=str)
def test_counts_of_what_is_not_finite(policy: Policy, nonfinite: Any) -> None:
    """As the gradients came, whatever is then done about them."""
    named = with_gradients([1.0, 2.0], BAD, [math.inf])
    found = record_of(named, policy, nonfinite=nonfinite)
    assert_counts(found.nonfinite)
    assert math.isfinite(found.total_norm) == (nonfinite == "sanitize")


def test_counts_of_an_overflow_that_a_scaler_found() -> None:
    """They are found on its skipped step too."""
    named, memory = with_gradients([1.0, 2.0], BAD, [math.inf]), Memory()
    optimizer = torch.optim.SGD([p for _, p in named], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    GradClipper(named, sinks=[memory]).attach(optimizer, scaler)
    scaler.scale(torch.zeros(()))
    scaler.unscale_(optimizer)
    optimizer.step()  # as a fused optimizer is called
    assert memory.records[0].status == "skipped_scaler"
    assert_counts(memory.records[0].nonfinite)


def test_no_counts_while_norms_are_finite() -> None:
    """Nothing is looked for then, nor where nobody wants records."""
    clipper, records = trained(FixedNorm(0.5))
    assert [x.nonfinite for x in records] == [None] * 3 and clipper._last.nonfinite is None
    silent = GradClipper(with_gradients(BAD))
    silent.clip()
    assert silent._last.nonfinite is None


def test_counts_of_one_step_do_not_stay() -> None:
    """The next step has its own, or none."""
    named, memory = with_gradients([math.nan]), Memory()
    clipper = GradClipper(named, sinks=[memory])
    clipper.clip()
    named[0][1].grad = torch.ones(1)
    clipper.clip()
    assert [x.nonfinite for x in memory.records] == [{"a": (1, 0)}, None]


def test_an_overflow_of_finite_elements_has_no_counts() -> None:
    """The norm is infinite, and no element is."""
    named = [("a", nn.Parameter(torch.zeros(2, dtype=torch.float64)))]
    named[0][1].grad = torch.full((2,), 1e200, dtype=torch.float64)
    found = record_of(named)
    assert (found.total_norm, found.nonfinite, found.status) == (math.inf, {}, "skipped_nonfinite")


def test_counts_of_many_are_those_of_the_first() -> None:
    """A model that is lost as a whole does not fill the disk."""
    named = [(f"layer{i}", nn.Parameter(torch.zeros(1))) for i in range(150)]
    for _, p in named:
        p.grad = torch.full((1,), math.nan)
    found = record_of(named).nonfinite
    assert found == {f"layer{i}": (1, 0) for i in range(100)}


# Norms of parameters.


def test_norms_come_where_they_were_asked_for() -> None:
    """And not where the policy alone needs them, which only names the worst."""
    _, records = trained(AdaGC(1.0), steps=4, norms_every=2)
    assert [x.norms is not None for x in records] == [False, True, False, True]
    assert [len(x.worst) for x in records] == [3] * 4
    norms = records[1].norms
    assert norms is not None and list(norms) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert math.hypot(*norms.values()) == pytest.approx(records[1].total_norm, rel=1e-12)
    squares = sorted((x * x for x in norms.values()), reverse=True)
    assert [share for _, share in records[1].worst] == pytest.approx([x / sum(squares) for x in squares[:3]])


def test_unknown_numbers() -> None:
    """A limit on elements leaves a norm that only another pass could tell."""
    found = record_of(with_gradients([3.0, 4.0], [12.0]), by_name({"a": FixedValue(1.0)}, default=FixedNorm(1.0)))
    assert (found.total_norm, found.threshold, found.status) == (13.0, None, "clipped")
    assert math.isnan(found.total_norm_after) and math.isnan(found.coefficient)


# As data.


def test_a_record_as_a_dict() -> None:
    """All its fields, in order."""
    full = record(3, lr=0.1, loss=2.0, group="head", norms={"a": 1.0}, nonfinite={"a": (1, 2)}, worst=(("a", 1.0),))
    assert full.to_dict() == dataclasses.asdict(full)
    assert list(full.to_dict()) == [field.name for field in dataclasses.fields(full)]
    assert pickle.loads(pickle.dumps(full)) == full == copy.deepcopy(full)  # noqa: S301 -- our own


def test_metrics_are_the_numbers_there_are() -> None:
    """What is unknown or not finite is left out, and a skip is 1 where it happened."""
    assert record(lr=0.1).metrics() == {
        "gradclip/total_norm": 4.0,
        "gradclip/total_norm_after": 1.0,
        "gradclip/threshold": 1.0,
        "gradclip/coefficient": 0.25,
        "gradclip/clipped": 1.0,
        "gradclip/skipped": 0.0,
        "gradclip/lr": 0.1,
    }
    bad = record(status="skipped_nonfinite", total_norm=math.nan, total_norm_after=math.inf, threshold=None)
    assert bad.metrics() == {"gradclip/coefficient": 0.25, "gradclip/clipped": 0.0, "gradclip/skipped": 1.0}
    assert {*record(group="critic").metrics()} == {f"critic/{tag}" for tag in record().metrics()}


def test_recording_changes_no_gradient() -> None:
    """The same bits with sinks and without."""

    def left(**options: Any) -> list[Tensor]:
        named = with_gradients([1.0, 2.0, 3.0], [math.pi] * 5)
        GradClipper(named, FixedNorm(1.0), **options).clip()
        return [p.grad for _, p in named if p.grad is not None]

    for own, other in zip(left(sinks=[Memory()], norms_every=0), left(), strict=True):
        assert torch.equal(own, other)
