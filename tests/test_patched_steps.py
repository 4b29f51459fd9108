"""Under `patch()` every step leaves a record: of a line search, and of an own clipper."""

import gc
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradclip
from clipper.training import Batch, backward, batches, network, norm_of
from gradclip.clipper.watching import WATCHERS
from gradclip.policies import FixedNorm
from gradclip.records import Memory

STEPS = 4


def found_in(memory: Memory) -> list[tuple[int, str, str | None]]:
    return [(record.step, record.status, record.group) for record in memory.records]


# LBFGS, whose closure makes the gradients several times within a step.


def searched(clip: Callable[[nn.Module], object] = lambda net: None) -> tuple[list[Tensor], list[float], list[float]]:
    """Train by LBFGS; return the weights, and the norm and the loss of the first evaluation of each step."""
    net = network()
    optimizer: Any = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=5, line_search_fn="strong_wolfe")
    norms, losses = [], []
    for batch in batches(STEPS):
        evaluated: list[tuple[float, float]] = []

        def closure(batch: Batch = batch, evaluated: list[tuple[float, float]] = evaluated) -> Tensor:
            loss = backward(net, optimizer, batch)
            evaluated.append((norm_of(net), loss.item()))
            clip(net)
            return loss

        optimizer.step(closure)
        assert len(evaluated) > 1
        norms.append(evaluated[0][0])
        losses.append(evaluated[0][1])
    return [p.detach() for p in net.parameters()], norms, losses


@pytest.mark.parametrize("policy", [None, FixedNorm(1e-3)])
def test_a_line_search_leaves_one_record_a_step_and_is_left_alone(
    policy: FixedNorm | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the gradient that it starts from, with its loss; a rule does not bend what is searched, and says so."""
    monkeypatch.setattr("gradclip.callers._said", set())
    expected, _, _ = searched()
    memory = Memory()
    with warnings.catch_warnings(record=True) as caught, gradclip.patch(policy, sinks=[memory]):
        warnings.simplefilter("always")
        weights, norms, losses = searched()
    assert all(map(torch.equal, weights, expected))
    assert found_in(memory) == [(step, "ok", None) for step in range(1, STEPS + 1)]
    assert [x.total_norm for x in memory.records] == pytest.approx(norms, rel=1e-12)
    assert [x.loss for x in memory.records] == losses
    assert {x.optimizer for x in memory.records} == {"LBFGS"}
    assert [str(x.message)[:30] for x in caught] == ["Steps of LBFGS are recorded, an"[:30]] * (policy is not None)


def test_a_line_search_is_clipped_where_the_closure_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each evaluation then is a clip, and leaves a record; nothing is said of steps that no policy clips."""
    monkeypatch.setattr("gradclip.callers._said", set())
    memory = Memory()
    with gradclip.patch(FixedNorm(1e-3), sinks=[memory]):
        evaluations = 0

        def clip(net: nn.Module) -> None:
            nonlocal evaluations
            evaluations += 1
            nn.utils.clip_grad_norm_(net.parameters(), 1e9)

        searched(clip)
    assert found_in(memory) == [(step, "clipped", None) for step in range(1, evaluations + 1)]


@pytest.mark.filterwarnings("ignore:Steps of LBFGS")
def test_a_rule_goes_on_before_and_after_a_line_search() -> None:
    """Over the same parameters: by the rule where there is no line search, and by none where there is."""
    memory, p = Memory(), nn.Parameter(torch.zeros(2))
    descent, search = torch.optim.SGD([p], lr=0.0), torch.optim.LBFGS([p], lr=0.0, max_iter=1)

    def closure() -> Tensor:
        p.grad = torch.tensor([3.0, 4.0])
        return torch.tensor(0.5)

    with gradclip.patch(FixedNorm(1.0, eps=0.0), sinks=[memory]):
        for optimizer in (descent, search, descent, search):
            optimizer.step(closure)
            assert p.grad is not None
            assert p.grad.norm().item() == pytest.approx(1.0 if optimizer is descent else 5.0)
    assert found_in(memory) == [(i, *x) for i in (1, 2) for x in (("clipped", None), ("ok", "parameters 2"))]


def test_what_is_no_closure_stays_what_it_is() -> None:
    """An optimizer may take whatever else as its first argument."""
    seen = []

    class Optional(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            seen.append(closure)

    memory, p = Memory(), nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    with gradclip.patch(sinks=[memory]):
        Optional([p], lr=0.1).step({"eta": 2})
    assert seen == [{"eta": 2}]
    assert len(memory.records) == 1


def test_an_optimizer_that_evaluates_twice_leaves_one_record_a_step() -> None:
    """Whatever its name is."""

    class Twice(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            closure()
            return closure()

    memory, p = Memory(), nn.Parameter(torch.ones(1))
    optimizer = Twice([p], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with gradclip.patch(sinks=[memory]):
        for _ in range(3):
            optimizer.step(closure)
    assert found_in(memory) == [(step, "ok", None) for step in (1, 2, 3)]


# Optimizers that clip in a step of their own.


class Clipping(torch.optim.SGD):
    """Clips before it updates, in a step within which that of its base is another; by None, it does not."""

    max_norm: float | None = 0.5

    def clip(self, *_: Any) -> None:
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self.param_groups[0]["params"], self.max_norm)

    def step(self, closure: Any = None) -> Any:
        self.clip()
        return super().step(closure)


class Hooked(Clipping):
    """Does so in a hook."""

    step = torch.optim.SGD.step

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_step_pre_hook(Clipping.clip)


@pytest.mark.parametrize("policy", [None, FixedNorm(0.1)], ids=["recorded", "by a policy"])
@pytest.mark.parametrize("kind", [Clipping, Hooked])
def test_what_clips_in_its_own_step_is_left_to_that(kind: type[Clipping], policy: FixedNorm | None) -> None:
    """Once a step has shown it: each later one leaves one record, of the call, which a policy learns from alone."""
    memory, p = Memory(), nn.Parameter(torch.ones(1))
    with gradclip.patch(policy, sinks=[memory]):
        optimizer = kind([p], lr=0.0)
        for step in range(5):
            p.grad = torch.full((1,), step + 2.0)
            optimizer.step()
    found = list(memory.records)[2:]  # the first step leaves one more
    assert [x.total_norm for x in found] == pytest.approx([3.0, 4.0, 5.0, 6.0], rel=1e-12)
    assert {x.threshold for x in found} == {0.5 if policy is None else 0.1}


def test_what_clips_in_some_of_its_steps_is_looked_after_again() -> None:
    """From the second step on that it leaves as it is."""
    memory, p = Memory(), nn.Parameter(torch.ones(1))
    with gradclip.patch(sinks=[memory]):
        optimizer = Hooked([p], lr=0.0)
        for step in range(6):
            p.grad = torch.full((1,), step + 2.0)
            optimizer.max_norm = 0.5 if step < 2 else None
            optimizer.step()
    found = [x.total_norm for x in memory.records]
    assert found == pytest.approx([2.0, 2.0, 3.0, 5.0, 6.0, 7.0], rel=1e-12)


# A `GradClipper` of the script's own.


def own_clipper(*, attach: bool, p: nn.Parameter, optimizer: Any, sink: Memory, max_norm: float = 0.5) -> Any:
    clipper = gradclip.GradClipper([p], FixedNorm(max_norm), sinks=[sink])
    return clipper.attach(optimizer) if attach else clipper


@pytest.mark.parametrize("policy", [None, FixedNorm(0.1)])
@pytest.mark.parametrize("attach", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_the_records_of_an_own_clipper_are_among_the_others(
    policy: FixedNorm | None, attach: bool, before: bool
) -> None:
    """Once a step, of its own policy, whenever it was made; it clips as ever, and its sinks take the same."""
    theirs, ours = Memory(), Memory()
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.0)
    made = {"attach": attach, "p": p, "optimizer": optimizer, "sink": theirs}
    clipper = own_clipper(**made) if before else None
    with gradclip.patch(policy, sinks=[ours]):
        clipper = clipper or own_clipper(**made)
        for _ in range(3):
            p.grad = torch.full((3,), 4.0)
            if not attach:
                clipper.clip()
            optimizer.step()
            assert p.grad.norm().item() == pytest.approx(0.5)
    assert found_in(ours) == [(step, "clipped", None) for step in (1, 2, 3)]
    assert list(ours.records) == list(theirs.records)
    assert {record.policy for record in ours.records} == {repr(FixedNorm(0.5))}
    p.grad = torch.full((3,), 4.0)
    clipper.clip() if not attach else optimizer.step()
    assert (len(ours.records), len(theirs.records)) == (3, 4)


def test_steps_that_an_own_clipper_leaves_out_are_recorded_too() -> None:
    """Before its first clip, between two, and once it is detached: what nobody clips for is as ever."""
    theirs, ours = Memory(), Memory()
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.0)
    clipper = gradclip.GradClipper([p], FixedNorm(0.5), sinks=[theirs])
    clipper._trust.quiet = True  # of the misuse that this is
    with gradclip.patch(sinks=[ours]):
        for step in range(8):
            p.grad = torch.full((3,), 4.0)
            if step == 3:
                clipper.clip()
            if step == 5:
                clipper.attach(optimizer)
            optimizer.step()
            if step == 6:
                clipper.detach()
    assert [record.status for record in ours.records] == ["ok"] * 3 + ["clipped", "ok", "clipped", "clipped", "ok"]
    assert [record.status for record in theirs.records] == ["clipped"] * 3


def test_own_clippers_are_told_apart() -> None:
    """Those of two networks, and what neither of them clips."""
    ours = Memory()
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    optimizers = [torch.optim.SGD([p], lr=0.0) for p in parameters]
    with gradclip.patch(sinks=[ours]):
        for p, optimizer in zip(parameters[:2], optimizers, strict=False):
            gradclip.GradClipper([p], FixedNorm(0.5)).attach(optimizer)
        for _ in range(2):
            for p, optimizer in zip(parameters, optimizers, strict=True):
                p.grad = torch.ones(1)
                optimizer.step()
    groups = [(None, "clipped"), ("parameters 2", "clipped"), ("parameters 3", "ok")]
    assert found_in(ours) == [(step, status, group) for step in (1, 2) for group, status in groups]


@pytest.mark.parametrize("policy", [None, FixedNorm(0.5)])
@pytest.mark.parametrize("attach", [True, False])
def test_an_own_clipper_that_measures_leaves_the_clip_to_the_rule(policy: FixedNorm | None, attach: bool) -> None:
    """As a call with an infinite bound is no clip; each step leaves one record either way."""
    theirs, ours = Memory(), Memory()
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.0)
    clipper = own_clipper(attach=attach, p=p, optimizer=optimizer, sink=theirs, max_norm=float("inf"))
    with gradclip.patch(policy, sinks=[ours]):
        for _ in range(3):
            p.grad = torch.full((3,), 4.0)
            if not attach:
                clipper.clip()
            optimizer.step()
    status = "clipped" if policy else "ok"
    assert found_in(ours) == [(step, status, None) for step in (1, 2, 3)]
    assert len(theirs.records) == 3


def test_a_patch_within_another_hears_own_clippers_alone() -> None:
    """And a sink that fails is dropped by its name, without the others."""
    outer, inner = Memory(), Memory()
    p = nn.Parameter(torch.ones(1))
    clipper = gradclip.GradClipper([p], FixedNorm(0.5))

    def failing(record: Any) -> None:
        raise ValueError("full")

    with gradclip.patch(sinks=[outer]):
        with gradclip.patch(sinks=[failing, inner]):
            p.grad = torch.ones(1)
            with pytest.warns(UserWarning, match=r"sink <function .*failing.*full"):
                clipper.clip()
            p.grad = torch.ones(1)
            clipper.clip()
        p.grad = torch.ones(1)
        clipper.clip()
    assert [record.step for record in inner.records] == [1, 2]
    assert [record.step for record in outer.records] == [3]


def test_own_clippers_are_let_go() -> None:
    """With what they are called."""
    with gradclip.patch(sinks=[Memory()]) as patched:
        for _ in range(3):
            p = nn.Parameter(torch.ones(1))
            p.grad = torch.ones(1)
            gradclip.GradClipper([p]).clip()
        gc.collect()
        assert patched._clippers is not None
        assert len(patched._clippers._groups) == 0


def test_nothing_is_held_of_a_step_in_which_the_patch_ends() -> None:
    """What clips for it is let go after that, and not with the optimizer."""
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    patched = gradclip.patch(FixedNorm(0.5))

    def closure() -> float:
        p.grad = torch.ones(2)
        patched.undo()
        return 1.0

    optimizer.step(closure)
    gc.collect()
    assert WATCHERS.of(p) == []


# Gradients that nobody can clip, which is no matter where nobody does.


@pytest.mark.parametrize("policy", [None, FixedNorm(math.inf)])
@pytest.mark.parametrize("make", [lambda: torch.full((1,), 3.0).expand(4), lambda: torch._efficientzerotensor(4)])
def test_gradients_that_cannot_be_written_are_recorded(make: Callable[[], Tensor], policy: FixedNorm | None) -> None:
    """Such as `autograd.grad` makes of a sum: to be measured they need not be."""
    p = nn.Parameter(torch.ones(4))
    optimizer = torch.optim.SGD([p], lr=0.25)
    memory = Memory()
    with gradclip.patch(policy, sinks=[memory]):
        p.grad = make()
        optimizer.step()
    assert torch.equal(p, 1.0 - 0.25 * make().clone())
    assert [(record.status, record.total_norm) for record in memory.records] == [("ok", 2 * make()[0].item())]


@pytest.mark.parametrize("policy", [None, FixedNorm(1.0)])
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.jagged])
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_parameters_whose_gradients_have_no_norm_are_let_be(
    layout: torch.layout, policy: FixedNorm | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that trains them trains on, and hears once that they are left alone."""
    monkeypatch.setattr("gradclip.callers._said", set())
    if layout is torch.jagged:
        p: Any = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout, requires_grad=True)
    else:
        p = nn.Parameter(torch.eye(3).to_sparse_csr())
    optimizer = torch.optim.SGD([p], lr=0.25, foreach=False)
    memory = Memory()
    said = r"neither recorded nor clipped by a policy. `GradClipper\(parameters=...\)` must be strided or sparse COO"
    with gradclip.patch(policy, sinks=[memory]):
        p.grad = p.detach().clone()
        with pytest.warns(UserWarning, match=said):
            optimizer.step()
        p.grad = p.detach().clone()
        optimizer.step()
    assert p.detach().values().unique().tolist() == [0.5625]
    assert not memory.records
