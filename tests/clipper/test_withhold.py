"""Steps of fused optimizers that a device keeps from happening: nothing waits, and all is as where the host decides."""

import gc
import math
import pickle
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

import gradclip
import withhold_workers as workers
from gradclip import torch_private as private
from gradclip.clipper.skips import LATE, Skips
from gradclip.clipper.withhold import SHARDED, Ground, told
from gradclip.exceptions import ConsecutiveSkipsError
from gradclip.numbers import as_float64, where
from gradclip.policies import (
    AdaGC,
    AutoClip,
    Decision,
    FixedNorm,
    FixedValue,
    Layout,
    MedianClip,
    Norms,
    Policy,
    SpikeSkip,
    ZClip,
    by_group,
    by_name,
    chain,
    schedule,
    warmup,
)
from gradclip.policies.fused import withheld_of
from gradclip.policies.history import History
from gradclip.result import Status
from gradclip.testing import RankPool, capture_records
from policies.cases import CASES, SHAPES, clipper_of, model
from processes import forked
from there import PLACE, There, captured, no_waits

Make = Callable[[list[Parameter]], Optimizer]

FUSED: dict[str, Make] = {
    "Adam": partial(Adam, lr=0.01, fused=True),
    "Adam, amsgrad": partial(Adam, lr=0.01, amsgrad=True, weight_decay=0.1, fused=True),
    "AdamW": partial(AdamW, lr=0.01, fused=True),
    "AdamW, maximize": partial(AdamW, lr=0.01, amsgrad=True, maximize=True, fused=True),
    "SGD": partial(SGD, lr=0.01, fused=True),
    "SGD, momentum": partial(SGD, lr=0.01, momentum=0.9, weight_decay=0.1, fused=True),
    "SGD, nesterov": partial(SGD, lr=0.01, momentum=0.9, nesterov=True, maximize=True, fused=True),
    "Adagrad": partial(Adagrad, lr=0.01, weight_decay=0.1, fused=True),
}

BAD = {0: math.nan, 4: math.inf, 5: math.nan, 9: -math.inf}
"""An element of the gradient in each step that should not happen."""

SPIKE = 8
"""A step whose gradient is a million times as large."""


@pytest.fixture(autouse=True)
def late_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradclip.clipper.skips.Transfer", workers.Late)


def held(x: Any) -> Any:
    return x.held.clone() if isinstance(x, There) else x.clone() if isinstance(x, Tensor) else x


class Training:
    """A clipper attached to an optimizer of the small model, whose tensors are all elsewhere."""

    def __init__(self, make: Make = FUSED["SGD"], policy: Policy | None = None, **options: Any) -> None:
        torch.manual_seed(0)
        self.parameters: dict[str, Any] = {key: Parameter(There(p.detach())) for key, p in model().items()}
        self.optimizer: Any = make(list(self.parameters.values()))
        self.clipper = clipper_of(policy or FixedNorm(1.0), self.parameters, **options).attach(self.optimizer)
        self.count = 0

    def backward(self, bad: float | None = None, scale: float = 1.0) -> None:
        torch.manual_seed(self.count)
        for key, shape in SHAPES.items():
            x = torch.randn(shape, dtype=torch.float64) * scale
            if bad is not None and key == list(SHAPES)[1]:
                x.view(-1)[0] = bad
            self.parameters[key].grad = There(x)
        self.count += 1

    def step(self, bad: float | None = None) -> None:
        self.backward(bad)
        self.optimizer.step()
        assert not hasattr(self.optimizer, "found_inf")

    def left(self) -> list[Any]:
        """Return parameters, states and gradients now."""
        states = [{k: held(v) for k, v in self.optimizer.state.get(p, {}).items()} for p in self.parameters.values()]
        grads = [held(p.grad) for p in self.parameters.values()]
        return [[held(p.detach()) for p in self.parameters.values()], states, grads]


def run(training: Training, *, waits: bool, steps: int = 12, unread: int = 2) -> list[Any]:
    """Return all that there is after each step, of which nothing waits from some step on.

    The first that happens makes the state of the optimizer, and waits.
    """
    found: list[Any] = []
    for step in range(steps):
        training.backward(BAD.get(step), 1e6 if step == SPIKE else 1.0)
        if step < unread or waits:
            training.optimizer.step()
        else:
            with no_waits():
                training.optimizer.step()
        last = training.clipper.last
        assert last is not None
        found.append([training.left(), last.status, last.threshold, last.total_norm, last.total_norm_after])
    return [found, training.clipper.state_dict(), training.optimizer.state_dict()["state"]]


def same(ours: Any, expected: Any, *, bits: bool = True) -> None:
    """Compare two structures."""
    if isinstance(ours, dict):
        assert ours.keys() == expected.keys()
        ours, expected = list(ours.values()), list(expected.values())
    if isinstance(ours, (list, tuple)):
        assert len(ours) == len(expected)
        for pair in zip(ours, expected, strict=True):
            same(*pair, bits=bits)
    elif isinstance(ours, (float, Tensor)):
        exact = {"rtol": 0.0, "atol": 0.0} if bits else {"rtol": 1e-9, "atol": 1e-15}
        torch.testing.assert_close(held(ours), held(expected), equal_nan=True, **exact)
    else:
        assert ours == expected


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_optimizers(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, states, counts of steps, gradients and results are those of a run where the host decides."""
    ours = run(Training(make), waits=False)
    monkeypatch.setattr("gradclip.clipper.withhold.Ground.allows", lambda *_: False)
    same(ours, run(Training(make), waits=True))


LEARNING: dict[str, Policy] = {
    "ZClip": ZClip(math.inf, warmup=3),
    "ZClip without spikes": ZClip(math.inf, warmup=3, skip_update_on_spike=True),
    "AutoClip of all": AutoClip(math.inf, percentile=50.0, window=None),
    "AutoClip": AutoClip(math.inf, percentile=50.0, window=4),
    "AutoClip each": AutoClip(math.inf, percentile=50.0, window=4, scope="parameter"),
    "MedianClip": MedianClip(math.inf, scale=1.0, window=4, warmup=2),
    "SpikeSkip": SpikeSkip(math.inf, window=6, warmup=2, sigmas=3.0),
    "SpikeSkip that learns": SpikeSkip(math.inf, window=6, warmup=2, sigmas=3.0, learn_skipped=True),
    "AdaGC": AdaGC(math.inf, warmup=3),
    "by_name": by_name({"body.*": ZClip(math.inf, warmup=3)}, default=AutoClip(math.inf, window=4)),
    "by_group": by_group(MedianClip(math.inf, window=4, warmup=2)),
    "chain": chain(FixedNorm(1e3), ZClip(math.inf, warmup=3)),
    "warmup": chain(warmup(6, FixedNorm(0.5)), ZClip(math.inf, warmup=3)),
    "warmup of all": warmup(5, AutoClip(math.inf, percentile=50.0, window=None)),
    "warmup each": warmup(7, AdaGC(0.5, warmup=5)),
    "SpikeSkip in a chain": chain(SpikeSkip(math.inf, window=6, warmup=2, sigmas=3.0), ZClip(math.inf, warmup=3)),
    "SpikeSkip that learns in a chain": chain(
        SpikeSkip(math.inf, window=6, warmup=2, sigmas=3.0, learn_skipped=True), ZClip(math.inf, warmup=3)
    ),
    "SpikeSkip by name": by_name(
        {"body.*": SpikeSkip(math.inf, window=6, warmup=2, sigmas=3.0, learn_skipped=True)},
        default=AdaGC(math.inf, warmup=6),
    ),
    "SpikeSkip in warmup": warmup(10, SpikeSkip(math.inf, window=6, warmup=2, sigmas=3.0)),
}
"""Rules that have warmed up after a few steps."""

OF_EACH = {"AdaGC", "AdaGC, warm", "warmup each, warm", "chain that learns"}
"""Rules that warm up with one coefficient on the host, one for each on a device: what is left is summed otherwise."""

ASKING = ("schedule", "chain of two stages", "warmup of all, warm")
"""Rules that have to know the step, or measure twice, and so wait for one number as ever."""


@pytest.mark.parametrize("name", [*CASES, *(f"{name}, warm" for name in LEARNING)])
def test_policies(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All decide and learn on the device what they do on the host."""
    policy = CASES[name].policy if name in CASES else LEARNING[name.removesuffix(", warm")]
    ours = run(Training(FUSED["AdamW"], policy), waits=False, unread=100 if name in ASKING else 2)
    monkeypatch.setattr("gradclip.clipper.withhold.Ground.allows", lambda *_: False)
    expected = run(Training(FUSED["AdamW"], policy), waits=True)
    if name in OF_EACH:
        same([own.pop() for own in ours[0]], [own.pop() for own in expected[0]], bits=False)  # the norms after clipping
    same(ours, expected, bits="tanh" not in name)
    statuses = {status for _, status, *_ in expected[0]}
    assert (Status.SKIPPED_SPIKE in statuses) is (name.startswith("SpikeSkip") and name.endswith("warm"))


@pytest.mark.parametrize("name", ["SpikeSkip", "SpikeSkip that learns", "ZClip", "AutoClip each"])
def test_policies_that_compute_with_what_is_not_finite(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that skips then keeps a step from happening by itself alone."""

    def trained() -> Training:
        return Training(FUSED["AdamW"], LEARNING[name], nonfinite="propagate")

    monkeypatch.setattr(sys.modules[__name__], "BAD", {10: math.nan})
    ours = run(trained(), waits=False)
    monkeypatch.setattr("gradclip.clipper.withhold.Ground.allows", lambda *_: False)
    same(ours, run(trained(), waits=True))
    statuses = [status for _, status, *_ in ours[0]]
    assert [i for i, status in enumerate(statuses) if status.value.startswith("skipped")] == [SPIKE] * ("Spike" in name)
    assert "skipped_nonfinite" not in statuses


@dataclass(frozen=True)
class Growing(Policy):
    """A rule whose state has another form after each step."""

    def init(self, layout: Layout) -> tuple[Any, ...]:
        return (0.0,)

    def decide(self, norms: Norms, state: tuple[Any, ...]) -> tuple[Decision, tuple[Any, ...]]:
        norm = as_float64(norms.total, norms.layout.device)
        return Decision(0.5), (*state, norm) if len(state) < 3 else (*state[:2], norm.expand(6) + 0.0)


class Told:
    """Policies of steps, and which steps were asked for."""

    def __init__(self, most: int) -> None:
        self.steps: set[int] = set()
        self._most = most

    def __call__(self, step: int) -> Policy:
        assert step < self._most
        self.steps.add(step)
        return FixedNorm(1.0 + 0.9**step)


@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
def test_a_schedule_for_a_time_is_asked_no_more_after_it(nonfinite: Any) -> None:
    """It need not know more steps; and where no step is skipped, nothing waits for how many there were."""
    steps = Told(5)
    training = Training(FUSED["AdamW"], warmup(5, schedule(steps)), nonfinite=nonfinite)
    for step in range(9):
        with no_waits() if nonfinite == "propagate" and step > 1 else nullcontext():
            training.step()
    assert steps.steps == set(range(5))


def test_a_history_of_all_for_a_time() -> None:
    """Nothing waits for how many steps there were where none is skipped; it remembers no more after them."""
    training = Training(FUSED["AdamW"], warmup(5, AutoClip(1.0, window=None)), nonfinite="propagate")
    for step in range(9):
        with no_waits() if step > 1 else nullcontext():
            training.step()
    ((history,),) = training.clipper.state_dict()["stages"][0]["state"]["inner"].values()
    assert len(history) == 5


@dataclass(frozen=True)
class RemembersAll(Policy):
    """A rule of a user that remembers all norms, and says so nowhere."""

    def init(self, layout: Layout) -> tuple[History]:
        return (History.of(None),)

    def decide(self, norms: Norms, state: tuple[History]) -> tuple[Decision, tuple[History]]:
        return Decision(), (state[0].add(norms.total),)


def test_a_history_of_a_user_ends_with_its_time() -> None:
    training = Training(FUSED["AdamW"], warmup(3, RemembersAll()), nonfinite="propagate")
    for _ in range(9):
        training.step()
    (state,) = [stage.state for stage in training.clipper._pipeline._stages]
    assert len(state.inner[0].rows) == 3


SAID: dict[str, Callable[[Any], Any]] = {
    "a number": lambda n: where(n > 1e3, 1.0, 0.0),
    "never, of NumPy": lambda _: np.bool_(0),
    "never, a number": lambda _: 0,
    "one of the host": lambda n: torch.tensor(bool(held(n) > 1e3)),
}
"""What a rule may answer whether it skips, of a norm."""


@dataclass(frozen=True)
class Says(Policy):
    """A rule that skips what is large, and counts on the host."""

    form: Callable[[Any], Any]
    skips = True

    def init(self, layout: Layout) -> tuple[float]:
        return (0.0,)

    def decide(self, norms: Norms, state: tuple[float]) -> tuple[Decision, tuple[float]]:
        return Decision(skip=self.form(norms.total)), (state[0] + 1.0,)


@pytest.mark.parametrize("form", SAID)
@pytest.mark.parametrize("within", [partial(warmup, 9), by_group, lambda x: chain(x, ZClip(1.0))])
def test_a_rule_in_others_that_skips_in_any_form(form: str, within: Callable[[Policy], Policy]) -> None:
    training = Training(FUSED["SGD"], within(Says(SAID[form])))
    for step in range(5):
        training.backward(None, 1e6 if step == 3 else 1.0)
        training.optimizer.step()
        skipped = training.clipper.last.skipped  # type: ignore[union-attr]
        assert (skipped is not None) is (step == 3 and not form.startswith("never"))


def in_turns(policy: Policy, by_host: Callable[[int], bool]) -> list[Any]:
    """Return all that there is after each step, some of which have a closure, and so are left to the host."""
    training, found = Training(FUSED["AdamW"], policy), []
    for step in range(12):
        if by_host(step):
            training.optimizer.step(lambda: training.backward(BAD.get(step)))  # noqa: B023 -- called at once
        else:
            training.step(BAD.get(step))
        found.append([training.left(), training.clipper.state_dict()])
    return found


def test_a_state_of_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept or left as a whole."""
    ours = in_turns(Growing(), lambda step: step == 7)
    monkeypatch.setattr("gradclip.clipper.withhold.Ground.allows", lambda *_: False)
    same(ours, in_turns(Growing(), lambda step: step == 7))


@pytest.mark.parametrize("name", LEARNING)
def test_host_and_device_take_turns_in_learning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step with a closure is left to the host, it goes on from what the device has learned, and back."""
    ours = in_turns(LEARNING[name], lambda step: step % 3 == 2)
    monkeypatch.setattr("gradclip.clipper.withhold.Ground.allows", lambda *_: False)
    same(ours, in_turns(LEARNING[name], lambda step: step % 3 == 2), bits=False)


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_a_step_that_does_not_happen_leaves_every_bit(make: Make) -> None:
    training = Training(make)
    training.step(math.nan)
    assert all(not state for state in training.left()[1]) or "Adagrad" in repr(training.optimizer)
    training.step()
    before = training.left()
    with no_waits():
        training.step(math.inf)
    after = training.left()
    same(after[:2], before[:2])
    with no_waits():
        training.step()
    assert not torch.equal(training.left()[0][0], before[0][0])


# Who asks the host.


class Own(SGD):
    """A subclass with code of its own around the kernel."""


OTHERS: dict[str, Callable[[], Training]] = {
    "not fused": lambda: Training(partial(SGD, lr=0.1)),
    "a subclass": lambda: Training(partial(Own, lr=0.1, fused=True)),
    "raise": lambda: Training(nonfinite="raise"),
    "two stages": lambda: Training(FUSED["Adam"], chain(FixedValue(0.1), ZClip(max_norm=1.0))),
    "counts steps": lambda: Training(policy=schedule(lambda _: FixedNorm(1.0))),
    "remembers all for a time": lambda: Training(policy=warmup(9, AutoClip(1.0, window=None))),
    "a sink": lambda: Training(sinks=[lambda _: None]),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_who_asks_the_host(make: Callable[[], Training]) -> None:
    training = make()
    training.step()
    with no_waits(), pytest.raises(AssertionError, match="waits"):
        training.step()


def waits(training: Training) -> bool:
    """Whether the host decides about the next step."""
    try:
        with no_waits():
            training.step()
    except AssertionError:
        return True
    return False


def test_a_wrapped_step_is_left_to_the_host() -> None:
    training = Training()
    assert not waits(training)
    step = training.optimizer.step
    training.optimizer.step = partial(step)
    assert waits(training)


def test_the_host_decides_where_it_would_wait_for_each_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on accelerators whose copies it waits for: too many skips are an error at once. If any may be, nobody asks."""
    monkeypatch.setattr(workers.Late, "is_waited_for", lambda _: True)
    training = Training(max_consecutive_skips=1)
    assert waits(training)
    training.step(math.nan)
    with pytest.raises(ConsecutiveSkipsError, match="2 steps in a row"):
        training.step(math.nan)
    assert not waits(Training(max_consecutive_skips=math.inf))


def test_a_scheduler_wraps_steps_as_torch_does() -> None:
    training = Training()
    torch.optim.lr_scheduler.ConstantLR(training.optimizer)
    assert not waits(training)


def test_a_closure_is_left_to_the_host() -> None:
    training = Training(FUSED["Adam"])
    training.step()
    before = training.left()
    training.optimizer.step(lambda: training.backward(math.nan))
    same(training.left()[:2], before[:2])
    assert not waits(training)


@pytest.mark.parametrize("step", [lambda x: x.step(None), lambda x: x.step(closure=None)], ids=["None", "by name"])
def test_no_closure_is_none(step: Callable[[Any], object]) -> None:
    """As Accelerate steps: nothing waits, and a step that should not happen does not."""
    training = Training(FUSED["Adam"])
    training.step()
    before = training.left()
    training.backward(math.nan)
    with no_waits():
        step(training.optimizer)
    same(training.left()[:2], before[:2])


def test_two_clippers_on_one_optimizer_do_not_freeze_it() -> None:
    training = Training(FUSED["Adam"])
    training.step()
    with pytest.warns(gradclip.MisuseWarning):
        other = gradclip.GradClipper(training.parameters.items()).attach(training.optimizer)
    assert waits(training)
    for bad in (math.nan, None, None):
        before = training.left()[0]
        training.step(bad)
        assert torch.equal(training.left()[0][0], before[0]) is (bad is not None)
    other.detach()
    assert not waits(training)


def test_a_hook_after_it_is_left_to_the_host() -> None:
    """It may change for whom the step is taken."""
    training = Training()
    hook = training.optimizer.register_step_pre_hook(lambda optimizer, args, kwargs: ((optimizer,), kwargs))
    assert waits(training)
    before = training.left()[0]
    training.step(math.nan)
    same(training.left()[0], before)
    hook.remove()
    assert not waits(training)


def test_a_group_that_is_added() -> None:
    """The first step of a parameter, which makes its state, is left to the host."""
    training = Training(FUSED["AdamW"])
    training.step()
    more: Any = Parameter(There(torch.ones(3)))
    training.optimizer.add_param_group({"params": [more]})
    assert not waits(training)
    more.grad = There(torch.full((3,), 1.0))
    training.step(math.nan)
    assert more not in training.optimizer.state
    training.step()
    assert more in training.optimizer.state


def test_a_state_that_is_thrown_away() -> None:
    training = Training(FUSED["SGD, momentum"])
    training.step()
    assert not waits(training)
    for state in training.optimizer.state.values():
        state["momentum_buffer"] = None
    training.step(math.nan)
    assert all(state["momentum_buffer"] is None for state in training.left()[1])


# What goes wrong in between.


def test_a_step_that_raises_leaves_nothing_on_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(FUSED["Adam"])
    training.step()

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[Adam.__module__], "adam", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            training.step(math.nan)
    assert "found_inf" not in vars(training.optimizer)
    before = training.left()[0]
    training.step(math.nan)
    same(training.left()[0], before)
    training.step()
    assert not torch.equal(training.left()[0][0], before[0])


def test_a_clip_that_raises_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the host decides."""
    training = Training(FUSED["Adam"], LEARNING["ZClip"])
    for _ in range(4):
        training.step()
    before = training.clipper.state_dict()

    def fails(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("gradclip.clipper.work.ClipWork.apply", fails)
        with no_waits(), pytest.raises(RuntimeError, match="out of memory"):
            training.step()
    assert training.clipper.state_dict() == before


def test_a_step_again_on_the_same_gradients() -> None:
    """After a step that raised, what was decided stands."""
    training = Training(FUSED["Adam"])
    training.step()

    def fails(*_: Any) -> None:
        raise RuntimeError("not yet")

    before = training.left()[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[Adam.__module__], "adam", lambda *_, **__: fails())
        with pytest.raises(RuntimeError, match="not yet"):
            training.step(math.nan)
    with no_waits():
        training.optimizer.step()
    same(training.left()[0], before)
    assert training.clipper.last is not None
    assert training.clipper.last.step == 2


# How many.


@pytest.mark.parametrize("most", [0, 1, 3, 12])
def test_too_many_in_a_row_raise_a_few_steps_late(most: int) -> None:
    """Always as many, and not at all where they were just as many as allowed."""
    training = Training(FUSED["AdamW"], max_consecutive_skips=most)
    training.step()
    for _ in range(most):
        training.step(math.nan)
    for _ in range(LATE + 2):
        training.step()
    with no_waits():
        for _ in range(most + LATE):
            training.step(math.nan)
    before = training.left()[0]
    with pytest.raises(ConsecutiveSkipsError, match=rf"{most + LATE + 1} steps in a row .* skipped_nonfinite"):
        training.step(math.nan)
    same(training.left()[0], before)


def test_too_many_that_are_over_raise_all_the_same() -> None:
    training = Training(max_consecutive_skips=1)
    training.step(math.nan)
    training.step(math.nan)
    for _ in range(LATE - 1):
        training.step()
    with pytest.raises(ConsecutiveSkipsError, match="2 steps in a row were skipped"):
        training.step()
    for _ in range(LATE + 2):
        training.step()


def test_all_ranks_raise_at_the_same_step() -> None:
    """As many steps late on each, though the NaN was on one."""
    with forked(RankPool(2)) as pool:
        first, second = pool.run(workers.train, (3, 6, 7, 8, 9), 2)
    assert first == second
    assert first[0] == 8 + LATE


@dataclass(frozen=True)
class Undeclared(Policy):
    """A rule that skips, and does not say so of itself."""

    most: float
    form: Callable[[Any], Any]

    def init(self, layout: Layout) -> tuple[()]:
        return ()

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        return Decision(skip=self.form(norms.total > self.most)), state


FORMS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda x: x,
    "a number": lambda x: where(x, 1.0, 0.0),
    "of NumPy": lambda x: np.bool_(bool(held(x))),
}
"""How a rule may say that it skips: whatever is true or not."""


@pytest.mark.parametrize("nonfinite", ["skip", "propagate"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_rule_that_skips_undeclared(form: Callable[[Any], Any], nonfinite: Any) -> None:
    """It is obeyed all the same."""
    training = Training(FUSED["AdamW"], Undeclared(1e3, form), nonfinite=nonfinite)
    training.step()
    for scale in (1.0, 1e6, 1.0):
        training.backward()
        for p in training.parameters.values():
            p.grad = p.grad * scale
        before = training.left()[:2]
        training.optimizer.step()
        skipped = scale > 1.0
        assert training.clipper.last is not None
        assert training.clipper.last.skipped == (Status.SKIPPED_SPIKE if skipped else None)
        if skipped:
            same(training.left()[:2], before)


def test_a_copy_has_heard_what_is_under_way() -> None:
    """And complains of too many, as its original will."""
    skips = Skips(2.0)
    for _ in range(3):
        withhold(skips, PLACE)
    assert deepcopy(skips).hear() == skips.hear() == 3


def test_a_count_in_a_graph_goes_on() -> None:
    """It is where the graph has it, whoever has asked or counted meanwhile."""
    skips = Skips(math.inf)
    withhold(skips, PLACE)
    assert skips.read() == 1
    place = skips._count
    with captured():
        withhold(skips, PLACE)
    withhold(skips, PLACE)
    skips.count(skipped=True)
    assert skips.read() == 4
    assert skips._count is place
    copied = pickle.loads(pickle.dumps(skips))  # noqa: S301 -- our own
    assert copied.read() == 4
    assert type(copied._count) is float


def test_a_count_follows_the_gradients() -> None:
    """As after `model.to(device)`."""
    skips = Skips(math.inf)
    for device in (PLACE, torch.device("cpu")):
        withhold(skips, device)
        assert isinstance(skips._count, Tensor)
        assert skips._count.device == device
    assert skips.read() == 2


def withhold(skips: Skips, device: torch.device) -> None:
    """Count a step that does not happen, as a device alone knows."""
    bad = torch.full((), True, device=device)
    skips.take(withheld_of(bad, False, skips.on(device)))


def test_what_is_known_of_one_kind_is_not_taken_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that Adam may step with are none for SGD; and nothing is kept of what was detached."""
    training = Training(FUSED["AdamW"])
    training.step()
    other = FUSED["SGD"](list(training.parameters.values()))
    monkeypatch.setattr("gradclip.clipper.withhold.is_dtensor", lambda _: True)
    ground = Ground()
    for optimizer, allowed in ((other, False), (training.optimizer, True), (other, False)):
        assert ground.allows(optimizer, []) is allowed
    training.clipper.detach()
    assert not training.clipper._ground._known


def test_shards_obey() -> None:
    """A fused step of DTensors reads the flag of its rank, as it is."""
    with forked(RankPool(2)) as pool:
        for kind in sorted(SHARDED, key=lambda kind: kind.__name__):
            assert pool.run(workers.step_with_shards, kind.__name__) == [(True, False)] * 2


def test_any_number_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(max_consecutive_skips=math.inf)
    monkeypatch.setattr("gradclip.clipper.skips.Transfer", None)
    for _ in range(40):
        training.step(math.nan)
    assert training.clipper.state_dict()["skips"] == 40


def test_host_and_device_take_turns_in_counting() -> None:
    training = Training(max_consecutive_skips=9)
    for turn in range(4):
        training.step(math.nan)
        training.optimizer.step(lambda: training.backward(math.nan))
        assert training.clipper.state_dict()["skips"] == 2 * turn + 2
    for copied in (deepcopy(training.clipper), pickle.loads(pickle.dumps(training.clipper))):  # noqa: S301
        assert copied.state_dict()["skips"] == 8
    other = Training(max_consecutive_skips=9)
    other.clipper.load_state_dict(training.clipper.state_dict())
    other.step(math.nan)
    assert other.clipper.state_dict()["skips"] == 9


# In company.


@pytest.mark.parametrize("overflow", [False, True])
@pytest.mark.parametrize("bad", [None, math.nan])
@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_what_a_scaler_tells(make: Make, bad: float | None, overflow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `GradScaler.step` tells a fused optimizer; its own flag stays, and an overflow counts for no skip."""

    def told_by_a_scaler(*, waits: bool) -> list[Any]:
        training = Training(make, max_consecutive_skips=9)
        optimizer = training.optimizer
        training.step()
        flag, found = There(torch.full((), float(overflow))), []
        for _ in range(2):
            optimizer.grad_scale, optimizer.found_inf = There(torch.full((), 0.5)), flag
            training.backward(bad)
            if waits:
                optimizer.step()
            else:
                with no_waits():
                    optimizer.step()
            assert optimizer.found_inf is flag  # which the scaler takes away
            assert flag.held == float(overflow)
            del optimizer.grad_scale, optimizer.found_inf
            found.append(training.left())
        assert training.clipper.last is not None
        return [found, training.clipper.last.status, training.clipper.state_dict()]

    ours = told_by_a_scaler(waits=False)
    assert ours[1] == ("skipped_scaler" if overflow else "skipped_nonfinite" if bad else "clipped")
    monkeypatch.setattr("gradclip.clipper.withhold.Ground.allows", lambda *_: False)
    same(ours, told_by_a_scaler(waits=True))


@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize("make", [FUSED["AdamW"], FUSED["SGD, momentum"]], ids=["AdamW", "SGD"])
def test_under_a_scaler(make: Make, is_told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one goes on with the same scales, and updates by its own flag."""

    def trained() -> list[Any]:
        training = Training(make)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=3)
        training.clipper.detach()
        training.clipper.attach(training.optimizer, scaler if is_told else None)
        scaler.scale(torch.ones(()))  # which makes its scale
        found: list[Any] = []
        for step in range(10):
            training.backward(BAD.get(step))
            for parameter in training.parameters.values():
                parameter.grad.mul_(scaler.get_scale())
            scaler.step(training.optimizer)
            scaler.update()
            assert not hasattr(training.optimizer, "found_inf")
            assert training.clipper.last is not None
            found.append([training.left(), scaler.get_scale(), training.clipper.last.status])
        return found

    ours = trained()
    assert [step for step, (*_, status) in enumerate(ours) if status == "skipped_scaler"] == list(BAD)
    monkeypatch.setattr("gradclip.clipper.withhold.Ground.allows", lambda *_: False)
    same(ours, trained())


def test_copies_of_the_optimizer_have_no_flag() -> None:
    training = Training(FUSED["Adam"])
    copies: list[Any] = []
    training.step()
    training.optimizer.register_step_post_hook(lambda optimizer, *_: copies.append(deepcopy(optimizer.__getstate__())))
    training.step(math.nan)
    assert "found_inf" not in str(copies)
    assert "found_inf" not in training.optimizer.state_dict()


def test_listeners_hear_at_once_what_the_host_would_have_said() -> None:
    training = Training(FUSED["Adam"])
    with capture_records(training.clipper) as records:
        for bad in (None, math.nan, None):
            training.step(bad)
    assert [record.status for record in records] == ["clipped", "skipped_nonfinite", "clipped"]
    assert records[1].nonfinite


def test_a_detached_clipper_keeps_nothing_from_happening() -> None:
    training = Training()
    training.step(math.nan)
    training.clipper.detach()
    training.backward()
    before = training.left()[0]
    training.optimizer.step()
    assert not torch.equal(training.left()[0][0], before[0])


def test_a_step_leaves_no_garbage() -> None:
    """What it has made is gone with the next, and no collector has to come for it."""
    training = Training()
    training.step()
    assert training.clipper.last is not None
    last = weakref.ref(training.clipper.last._judge)
    gc.disable()
    try:
        training.step()
    finally:
        gc.enable()
    assert last() is None


def test_the_stand_in_shares_all_but_the_flag() -> None:
    training = Training()
    stand_in: Any = told(training.optimizer, torch.tensor(1.0))
    stand_in.written = 1
    assert training.optimizer.written == 1
    assert isinstance(stand_in, SGD)
    assert private.fused_overflow(stand_in) == 1.0
    assert private.fused_overflow(training.optimizer) is None
    assert private.takes_overflow(training.optimizer)
