"""What happens to a step whose gradients are not finite, or that the policy does not want."""

import math
import pickle
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import gradclip
import reference
from clipper.training import (
    OPTIMIZERS,
    Batch,
    backward,
    batches,
    everything,
    gradients,
    loss_of,
    network,
    same_bits,
    train_from_scratch,
)
from gradclip import ConsecutiveSkipsError, GradClipper, NonFiniteGradientError
from gradclip.clipper import hooks
from gradclip.policies import FixedNorm, SpikeSkip, ZClip, chain
from processes import printed

Make = Callable[[Any], Optimizer]


POISONED = (0, 3, 5, 6)
"""The first batch, one between others, and two in a row."""


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_the_batch_had_never_been(name: str, attached: bool) -> None:
    """A skipped step changes nothing, not a count; and the gradients are the same tensors with the same bits.

    So parameters, state, step counts and what the policy learned are those of a run without these batches, bit for bit.
    """
    data = batches(8, poisoned=POISONED)
    net, optimizer, clipper = train_from_scratch(OPTIMIZERS[name], [], attached=attached)
    for i, batch in enumerate(data):
        backward(net, optimizer, batch)
        found, kept = gradients(net), [everything(net, optimizer), [x.clone() for x in gradients(net) if x is not None]]
        if not attached:
            clipper.clip()
        optimizer.step()
        assert clipper.last is not None and (clipper.last.status == "skipped_nonfinite") is (i in POISONED)
        assert all(a is b for a, b in zip(gradients(net), found, strict=True))
        assert same_bits([everything(net, optimizer), gradients(net)], kept) is (i in POISONED)
    clean = [batch for i, batch in enumerate(data) if i not in POISONED]
    other, its_optimizer, its_clipper = train_from_scratch(OPTIMIZERS[name], clean, attached=attached)
    assert same_bits(everything(net, optimizer), everything(other, its_optimizer))
    assert clipper.state_dict()["stages"] == its_clipper.state_dict()["stages"]


def test_fused_momentum_starts_from_the_first_step_that_happens() -> None:
    """Told to pass over its first step, the fused SGD of torch would keep a buffer that nobody has initialised."""
    net, optimizer, _ = train_from_scratch(OPTIMIZERS["SGD, momentum, fused"], batches(1, poisoned=[0]), attached=True)
    assert not optimizer.state
    backward(net, optimizer, batches(2)[1])
    optimizer.step()
    assert all(same_bits(optimizer.state[p]["momentum_buffer"], p.grad) for p in net.parameters())


# What is counted, and what stops.


def test_the_budget_of_skips_in_a_row() -> None:
    """Two are allowed, a good step starts the count anew, and the third in a row raises with the names."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    GradClipper(net, max_consecutive_skips=2).attach(optimizer)
    good, bad = batches(2, poisoned=[1])
    for batch in (bad, bad, good, bad, bad):
        backward(net, optimizer, batch)
        optimizer.step()
    kept = everything(net, optimizer)
    backward(net, optimizer, bad)
    message = (
        r"3 steps in a row were skipped, the last as skipped_nonfinite, and `max_consecutive_skips` is 2\. "
        r"Found in 0\.weight \(12 NaN, 0 Inf of 12 elements\), 0\.bias .*\. Lower the learning rate"
    )
    with pytest.raises(ConsecutiveSkipsError, match=message):
        optimizer.step()
    assert same_bits(everything(net, optimizer), kept)
    assert all(p.grad is not None for p in net.parameters())


def test_no_skip_may_be_allowed_or_any_number() -> None:
    """0 raises at the first; infinity never does."""
    net = network()
    loss_of(net, batches(1, poisoned=[0])[0]).backward()
    with pytest.raises(ConsecutiveSkipsError, match="1 steps in a row"):
        GradClipper(net, max_consecutive_skips=0).clip()
    clipper = GradClipper(net, max_consecutive_skips=math.inf)
    assert {clipper.clip().status for _ in range(100)} == {"skipped_nonfinite"}


def test_skips_by_policy_count_too() -> None:
    """A policy that wants no step any more also spends the budget; there is nothing non-finite to name then."""
    parameter = nn.Parameter(torch.zeros(2))
    policy = SpikeSkip(math.inf, window=4, warmup=2, patience=math.inf)
    clipper = GradClipper([("w", parameter)], policy, max_consecutive_skips=1)
    for size in (1.0, 1.1, 100.0):
        parameter.grad = torch.full((2,), size)
        clipper.clip()
    with pytest.raises(ConsecutiveSkipsError, match="the last as skipped_spike, .* is 1. Lower the learning rate"):
        clipper.clip()


# The other answers to a norm that is not finite.


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_raise_names_the_parameters_and_changes_nothing(attached: bool) -> None:
    """Neither gradients nor parameters, nor what the policy learned; the step may be tried again."""
    net, optimizer, clipper = train_from_scratch(OPTIMIZERS["Adam"], batches(2), attached=attached, nonfinite="raise")
    backward(net, optimizer, batches(1)[0])
    assert net[2].bias.grad is not None
    net[2].bias.grad.fill_(math.inf)
    kept, found, learned = everything(net, optimizer), gradients(net), clipper.state_dict()
    with pytest.raises(NonFiniteGradientError, match=r"Found in 2\.bias \(0 NaN, 1 Inf of 1 elements\)\."):
        optimizer.step() if attached else clipper.clip()
    assert same_bits(everything(net, optimizer), kept) and clipper.state_dict() == learned
    assert all(a is b for a, b in zip(gradients(net), found, strict=True))
    net[2].bias.grad.fill_(1.0)
    if not attached:
        clipper.clip()
    optimizer.step()
    assert not same_bits(everything(net, optimizer), kept)


def test_sanitize_clips_what_is_finite() -> None:
    """NaN and infinite elements become 0, the others are clipped as if these had been 0, and the step happens."""
    p, q = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    p.grad, q.grad = torch.tensor([3.0, math.nan, -math.inf]), torch.tensor([0.0, 4.0])
    optimizer = torch.optim.SGD([p, q], lr=1.0)
    result = GradClipper(optimizer, FixedNorm(1.0), nonfinite="sanitize").attach(optimizer)
    optimizer.step()
    assert result.last is not None and result.last.total_norm == 5.0 and result.last.status == "clipped"
    assert (-p).tolist() == pytest.approx([0.6, 0.0, 0.0]) and (-q).tolist() == pytest.approx([0.0, 0.8])


def test_propagate_computes_as_torch_does() -> None:
    """A NaN norm makes every gradient NaN, an infinite one makes the finite ones 0: as `torch.nn.utils` has it."""
    for bad in (math.nan, math.inf):
        given = [torch.tensor([3.0, bad]), torch.tensor([4.0])]
        ours, theirs = ([nn.Parameter(torch.zeros_like(x)) for x in given] for _ in range(2))
        for x, p, q in zip(given, ours, theirs, strict=True):
            p.grad, q.grad = x.clone(), x.clone()
        result = GradClipper(ours, nonfinite="propagate").clip()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        assert same_bits([p.grad for p in ours], [q.grad for q in theirs])
        assert result.skipped is None and not math.isfinite(result.total_norm)


# The policy wants no step.


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_a_spike_is_skipped_as_if_the_batch_had_never_been(attached: bool) -> None:
    """With momentum, whose buffer a step without gradients would still apply."""

    def run(data: list[Batch]) -> tuple[Any, list[str]]:
        net = network()
        optimizer = OPTIMIZERS["SGD, momentum"](net.parameters())
        clipper = GradClipper(net, SpikeSkip(100.0, window=16, warmup=4))
        statuses = []
        if attached:
            clipper.attach(optimizer)
        for batch in data:
            backward(net, optimizer, batch)
            if not attached:
                clipper.clip()
            found = gradients(net)
            optimizer.step()
            assert all(a is b for a, b in zip(gradients(net), found, strict=True))
            assert clipper.last is not None
            statuses.append(clipper.last.status.value)
        return everything(net, optimizer), statuses

    data = batches(9)
    data[6] = (data[6][0], data[6][1] + 1e6)
    with_spike, statuses = run(data)
    without, _ = run(data[:6] + data[7:])
    assert [i for i, status in enumerate(statuses) if status == "skipped_spike"] == [6]
    assert same_bits(with_spike, without)


def test_the_loss_can_be_the_spike() -> None:
    """Gradients as ever, but a loss far above its mean: the step is skipped too."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    clipper = GradClipper([parameter], SpikeSkip(math.inf, window=8, warmup=2)).attach(optimizer)
    for loss in (1.0, 1.1, 0.9, 50.0, torch.tensor(1.0)):
        parameter.grad = torch.ones(1)
        clipper.observe_loss(loss)
        optimizer.step()
    assert parameter.item() == -4.0


# Clipping by hand.


def test_by_hand_only_these_gradients_hold_the_step_back() -> None:
    """The step after a skip happens on other gradients, be they made by hand."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    clipper = GradClipper([parameter], FixedNorm(10.0))
    parameter.grad = torch.tensor([math.nan])
    clipper.clip()
    optimizer.step()
    optimizer.step()  # they are what they were
    assert parameter.item() == 0.0
    parameter.grad = torch.ones(1)
    clipper.clip()
    optimizer.step()
    assert parameter.item() == -1.0


def test_by_hand_other_optimizers_step() -> None:
    """A skip holds back the optimizers of its parameters alone."""
    mine, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizers = [torch.optim.SGD([p], lr=1.0) for p in (mine, other)]
    mine.grad, other.grad = torch.tensor([math.nan]), torch.ones(1)
    clipper = GradClipper([mine])
    clipper.clip()
    for optimizer in optimizers:
        optimizer.step()
    assert (mine.item(), other.item()) == (0.0, -1.0)


def test_an_optimizer_of_few_among_many_parameters_is_held_back_too() -> None:
    """Not every gradient of a large model is watched, but every optimizer is."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(1000)]
    for p in parameters:
        p.grad = torch.tensor([math.nan])
    optimizers = [torch.optim.SGD([p], lr=1.0) for p in parameters]
    clipper = GradClipper(parameters)
    clipper.clip()
    for optimizer in optimizers:
        optimizer.step()
    assert all(p.item() == 0.0 for p in parameters)


# Steps with a closure.


@pytest.mark.parametrize("by_keyword", [True, False])
@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_steps_with_a_closure(attached: bool, by_keyword: bool) -> None:
    """The closure makes the gradients, they are clipped, a bad one is skipped; the loss is returned."""

    def run(data: list[Batch]) -> Any:
        net = network()
        optimizer = OPTIMIZERS["SGD, momentum"](net.parameters())
        clipper = GradClipper(net, FixedNorm(1.0))
        if attached:
            clipper.attach(optimizer)
        for batch in data:

            def closure(batch: Batch = batch) -> Tensor:
                loss = backward(net, optimizer, batch)
                if not attached:
                    clipper.clip()
                return loss

            with torch.no_grad():
                expected = loss_of(net, batch)
            loss: Any = optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
            assert same_bits(loss, expected)
            assert clipper.last is not None
            left = reference.norm([x for x in gradients(net) if x is not None], 2.0)
            assert left <= 1.0 + 1e-6 or clipper.last.skipped
        assert clipper.state_dict()["step"] == len(data)
        return everything(net, optimizer)

    data = batches(5, poisoned=[0, 3])
    assert same_bits(run(data), run([data[1], data[2], data[4]]))


def test_a_closure_that_only_returns_the_loss() -> None:
    """Clipped by hand before the step, the gradients are the same in it: a skip is a skip."""
    net, optimizer, clipper = train_from_scratch(OPTIMIZERS["Adam"], batches(2), attached=False)
    loss = backward(net, optimizer, batches(1, poisoned=[0])[0])
    kept, found = everything(net, optimizer), gradients(net)
    clipper.clip()
    assert optimizer.step(lambda: loss) is loss
    assert same_bits(everything(net, optimizer), kept)
    assert all(a is b for a, b in zip(gradients(net), found, strict=True))


def test_the_loss_of_a_closure_is_observed() -> None:
    """As `observe_loss` does; what is no single number is passed by."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    GradClipper([parameter], SpikeSkip(math.inf, window=8, warmup=2)).attach(optimizer)
    no_losses = (torch.ones(3), ("loss", 1.0), None, torch.tensor(True))
    for loss in (1.0, torch.tensor([1.1]), torch.tensor(0.9), 50.0, *no_losses):
        parameter.grad = torch.ones(1)
        optimizer.step(lambda loss=loss: loss)
    assert parameter.item() == -7.0


def test_a_closure_that_raises_loses_nothing() -> None:
    """The error is the user's to see, and the next step is as ever."""
    net, optimizer, clipper = train_from_scratch(OPTIMIZERS["Adam"], batches(2), attached=True)
    kept = everything(net, optimizer)

    def closure() -> Tensor:
        msg = "out of data"
        raise LookupError(msg)

    with pytest.raises(LookupError, match="out of data"):
        optimizer.step(closure)
    assert same_bits(everything(net, optimizer), kept)
    backward(net, optimizer, batches(3)[2])
    optimizer.step()
    expected = train_from_scratch(OPTIMIZERS["Adam"], batches(3), attached=True)
    assert same_bits(everything(net, optimizer), everything(*expected[:2]))
    assert clipper.state_dict() == expected[2].state_dict()


def test_a_policy_of_two_stages_skips_before_it_learns() -> None:
    """A NaN is found in the first measurement, and no stage hears of it."""
    net = network()
    clipper = GradClipper(net, chain(gradclip.policies.FixedValue(0.1), ZClip(1.0)))
    loss_of(net, batches(1, poisoned=[0])[0]).backward()
    found, before = [x.clone() for x in gradients(net) if x is not None], clipper.state_dict()["stages"]
    assert clipper.clip().status == "skipped_nonfinite"
    assert same_bits(gradients(net), found) and clipper.state_dict()["stages"] == before


# What is kept, and what comes back.


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_steps_are_found_where_torch_names_them_not(attached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What first calls a hook is taken for what is around every step."""
    monkeypatch.setattr(hooks, "_STEP", None)
    net, optimizer, _ = train_from_scratch(
        lambda p: torch.optim.SGD(p, lr=0.1), batches(3, poisoned=[1]), attached=attached
    )
    expected = train_from_scratch(
        lambda p: torch.optim.SGD(p, lr=0.1), [batches(3)[0], batches(3)[2]], attached=attached
    )
    assert same_bits(everything(net, optimizer), everything(*expected[:2]))


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_no_gradient_outlives_a_skipped_step(attached: bool) -> None:
    """`zero_grad()` frees them as ever, and a pickled clipper is as small as one that has skipped nothing."""
    net, optimizer, clipper = train_from_scratch(OPTIMIZERS["Adam"], batches(1), attached=attached)
    size = len(pickle.dumps(clipper))
    backward(net, optimizer, batches(1, poisoned=[0])[0])
    if not attached:
        clipper.clip()
    optimizer.step()
    assert clipper.last is not None and clipper.last.skipped is not None
    watched = [weakref.ref(x) for x in gradients(net) if x is not None]
    assert len(watched) == 4
    assert len(pickle.dumps(clipper)) <= size + 10
    optimizer.zero_grad()
    assert [reference() for reference in watched] == [None] * 4


class Stubborn(torch.optim.SGD):
    """An optimizer that wants gradients."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if any(p.grad is None for group in self.param_groups for p in group["params"]):
            raise LookupError("no gradient")
        return super().step(closure)


def fail(*_: object) -> None:
    raise LookupError("somebody else's")


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


FAILING: dict[str, Callable[[Optimizer], Any]] = {
    "a hook before": lambda optimizer: optimizer.register_step_pre_hook(fail),
    "a hook after": lambda optimizer: optimizer.register_step_post_hook(fail),
    "a hook of all optimizers before": lambda _: register_optimizer_step_pre_hook(fail),
    "a hook of all optimizers after": lambda _: register_optimizer_step_post_hook(fail),
    "Ctrl-C": lambda optimizer: optimizer.register_step_post_hook(interrupt),
    "the step itself": lambda _: None,
}


@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
@pytest.mark.parametrize("traced", [False, True], ids=["", "traced"])
@pytest.mark.parametrize("what", FAILING)
def test_an_error_in_a_skipped_step_loses_no_gradient(what: str, traced: bool, attached: bool) -> None:
    """They are there as soon as it is left, whoever raises; what traced before goes on, and nothing else is left."""
    kind = Stubborn if what == "the step itself" else torch.optim.SGD
    net, optimizer, clipper = train_from_scratch(lambda p: kind(p, lr=0.1), batches(1), attached=attached)
    backward(net, optimizer, batches(1, poisoned=[0])[0])
    found = gradients(net)
    if not attached:
        clipper.clip()
    handle = FAILING[what](optimizer)
    tracer, seen = sys.gettrace(), set[str]()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        seen.add(frame.f_code.co_name)
        return trace

    try:
        if traced:
            sys.settrace(trace)
        with pytest.raises((LookupError, KeyboardInterrupt)):
            optimizer.step()
        assert sys.gettrace() is (trace if traced else tracer)
    finally:
        sys.settrace(tracer)
        if handle is not None:
            handle.remove()
    assert all(a is b and a is not None for a, b in zip(gradients(net), found, strict=True))
    assert not traced or {"fail", "interrupt", "step"} & seen
    backward(net, optimizer, batches(3)[2])
    if not attached:
        clipper.clip()
    optimizer.step()
    assert clipper.last is not None and clipper.last.skipped is None


FIRST_STEP = """
import math, torch, gradclip

p = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.SGD([p], lr=0.1)
made = []


def closure():
    made.append(gradclip.GradClipper([p]))
    p.grad = torch.full((2,), math.nan)
    assert made[0].clip().skipped == "skipped_nonfinite"
    return 1.0


optimizer.step(closure)
assert p.tolist() == [1.0, 1.0], p
"""


def test_the_first_step_of_a_program() -> None:
    """It is kept from happening too, before any hook has run."""
    printed(FIRST_STEP)


def test_a_wrapper_that_calls_the_hooks_itself() -> None:
    """Torch's hooks for all optimizers, called by what is none, find no step to look at."""
    from torch.optim import optimizer as module

    class Wrapper:
        def step(self, inner: torch.optim.Optimizer) -> None:
            for hook in module._global_optimizer_pre_hooks.values():
                hook(inner, (), {})
            inner.step()

    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    clipper = GradClipper([p])
    p.grad = torch.full((2,), math.nan)
    assert clipper.clip().skipped == "skipped_nonfinite"
    Wrapper().step(optimizer)
    assert p.tolist() == [1.0, 1.0]


class CountsByWord(torch.optim.SGD):
    """An optimizer that keeps numbers of its own in its state, as MADGRAD does."""

    def step(self, closure: Any = None) -> Any:
        own = self.state.setdefault("count", {"steps": 0, "total": torch.zeros(())})  # type: ignore[arg-type]
        own["steps"] += 1
        own["total"] += 1.0
        self.state["calls"] = self.state.get("calls", 0) + 1  # type: ignore[index]
        return super().step(closure)


def test_what_an_optimizer_keeps_of_no_parameter() -> None:
    """It is as if the step had not been called, too; in the first step it is not there."""
    p = nn.Parameter(torch.zeros(2))
    optimizer = CountsByWord([p], lr=0.1, momentum=0.9)
    GradClipper([p]).attach(optimizer)
    seen = []
    for bad in (math.nan, 1.0, math.nan, math.nan, 1.0):
        p.grad = torch.full((2,), bad)
        optimizer.step()
        own: Any = {key: value for key, value in optimizer.state.items() if isinstance(key, str)}
        seen.append([own["count"]["steps"], own["count"]["total"].item(), own["calls"]] if own else [])
    assert seen == [[], [1, 1.0, 1], [1, 1.0, 1], [1, 1.0, 1], [2, 2.0, 2]]
