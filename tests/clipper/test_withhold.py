"""Steps of fused optimizers that a device keeps from happening: nothing waits, and all is as where the host decides."""

import math
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

import gradclip
from gradclip.exceptions import ConsecutiveSkipsError
from gradclip.policies import FixedNorm, SpikeSkip, schedule
from policies.cases import CASES, SHAPES, clipper_of, model
from there import There, no_waits

Make = Callable[[list[Parameter]], Optimizer]

FUSED: dict[str, Make] = {
    "Adam": lambda ps: Adam(ps, lr=0.01, amsgrad=True, fused=True),
    "AdamW": lambda ps: AdamW(ps, lr=0.01, fused=True),
    "SGD": lambda ps: SGD(ps, lr=0.01, momentum=0.9, weight_decay=0.1, fused=True),
    "SGD without momentum": lambda ps: SGD(ps, lr=0.01, fused=True),
    "Adagrad": lambda ps: Adagrad(ps, lr=0.01, fused=True),
}

BAD = {0: math.nan, 4: math.inf, 5: math.nan, 9: -math.inf}
"""An element of the gradient in each step that should not happen."""


class Late:
    """A copy to the host that is under way until it is waited for."""

    def __init__(self, vector: Tensor) -> None:
        self.host = vector.held.clone()

    def is_done(self) -> bool:
        return False

    def wait(self) -> None:
        """Come to an end."""


@pytest.fixture(autouse=True)
def late_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("gradclip.records.draft.Transfer", Late)
    monkeypatch.setattr("gradclip.clipper.withhold.Transfer", Late)
    yield
    gradclip.records.flush()


def held(x: Any) -> Any:
    return x.held.clone() if isinstance(x, There) else x.clone() if isinstance(x, Tensor) else x


def gradients(parameters: dict[str, Parameter], step: int, put: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(step)
    for key, shape in SHAPES.items():
        x = torch.randn(shape, dtype=torch.float64) * (40.0 if step == 7 else 1.0)
        if step in BAD and key == list(SHAPES)[1]:
            x.view(-1)[0] = BAD[step]
        parameters[key].grad = put(x)


def run(make: Make, policy: Any, put: Callable[[Tensor], Tensor], *, steps: int = 12, waits: bool = False) -> list[Any]:
    """Return all that there is after each step, and the statuses of the records."""
    torch.manual_seed(0)
    parameters: dict[str, Any] = {key: Parameter(put(p.detach())) for key, p in model().items()}
    statuses: list[tuple[Any, ...]] = []

    def sink(record: gradclip.ClipRecord) -> None:
        statuses.append((record.step, record.status, record.threshold is None))

    optimizer = make(list(parameters.values()))
    clipper = clipper_of(policy, parameters, sinks=[sink]).attach(optimizer)
    found: list[Any] = []
    for step in range(steps):
        gradients(parameters, step, put)
        if step < 2 or waits:  # the first step that happens makes the state of the optimizer
            optimizer.step()
        else:
            with no_waits():
                optimizer.step()
        assert not hasattr(optimizer, "found_inf")
        states = [{k: held(v) for k, v in optimizer.state.get(p, {}).items()} for p in parameters.values()]
        grads = [held(p.grad) for p in parameters.values()]
        found.append(([held(p.detach()) for p in parameters.values()], states, grads))
    clipper.detach()
    return [found, statuses, clipper.state_dict()]


def close(ours: Any, expected: Any) -> None:
    """Compare all numbers of two structures."""
    if isinstance(ours, dict):
        assert ours.keys() == expected.keys()
        ours, expected = list(ours.values()), list(expected.values())
    if isinstance(ours, (list, tuple)):
        assert len(ours) == len(expected)
        for pair in zip(ours, expected, strict=True):
            close(*pair)
    elif isinstance(ours, (float, Tensor)):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-15, equal_nan=True)
    else:
        assert ours == expected


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_optimizers(make: Make) -> None:
    """Parameters, states, counts of steps and gradients are those of a run where the host decides."""
    close(run(make, FixedNorm(1.0), There), run(make, FixedNorm(1.0), lambda x: x))


@pytest.mark.parametrize("make", FUSED.values(), ids=FUSED)
def test_a_step_that_does_not_happen_leaves_every_bit(make: Make) -> None:
    found, statuses, _ = run(make, FixedNorm(1.0), There)
    assert [status for _, status, _ in statuses if status.startswith("skipped")] == ["skipped_nonfinite"] * len(BAD)
    for step in set(BAD) - {0}:
        close_bits(found[step][:2], found[step - 1][:2])
    assert found[0][1] == [{}] * len(SHAPES) or make is FUSED["Adagrad"]


def close_bits(ours: Any, expected: Any) -> None:
    """Compare all bits of two structures."""
    for a, b in zip(leaves(ours), leaves(expected), strict=True):
        assert torch.equal(a, b)


def leaves(x: Any) -> list[Any]:
    if isinstance(x, (list, tuple)):
        return [leaf for part in x for leaf in leaves(part)]
    if isinstance(x, dict):
        return leaves(list(x.values()))
    return [x] if isinstance(x, Tensor) else []


@pytest.mark.parametrize("name", CASES)
def test_policies(name: str) -> None:
    """All decide, learn and record on the device what they do on the host; those that count steps wait for it."""
    policy = CASES[name].policy
    waits = len(policy.stages) > 1 or policy.counts_steps
    make = FUSED["AdamW"]
    close(run(make, policy, There, waits=waits), run(make, policy, lambda x: x))


def test_a_policy_that_skips() -> None:
    policy = SpikeSkip(math.inf, window=4, warmup=2)
    there, here = run(FUSED["SGD"], policy, There), run(FUSED["SGD"], policy, lambda x: x)
    close(there, here)
    assert "skipped_spike" in [status for _, status, _ in there[1]]


def owner() -> tuple[Parameter, Optimizer]:
    parameter = Parameter(There(torch.ones(3)))
    return parameter, SGD([parameter], lr=0.1, fused=True)


def step(parameter: Parameter, optimizer: Optimizer, value: float) -> None:
    parameter.grad = There(torch.full((3,), value))
    optimizer.step()


@pytest.mark.parametrize("most", [0, 3, 12, 25])
def test_too_many_in_a_row_raise_at_the_step_at_which_the_host_would(most: int) -> None:
    parameter, optimizer = owner()
    clipper = gradclip.GradClipper({"weight": parameter}.items(), max_consecutive_skips=most).attach(optimizer)
    for value in (1.0, math.nan, 1.0):
        step(parameter, optimizer, value if most else 1.0)
    for _ in range(most):
        step(parameter, optimizer, math.inf)
    assert clipper.state_dict()["skips"] == most
    with pytest.raises(ConsecutiveSkipsError, match=rf"{most + 1} steps in a row .* weight"):
        step(parameter, optimizer, math.nan)


def test_the_result_says_on_demand_whether_the_step_happened() -> None:
    parameter, optimizer = owner()
    clipper = gradclip.GradClipper([parameter]).attach(optimizer)
    with no_waits():
        step(parameter, optimizer, math.nan)
    assert clipper.last is not None
    assert (clipper.last.skipped, clipper.last.status, clipper.last.threshold) == ("skipped_nonfinite",) * 2 + (None,)
    step(parameter, optimizer, 5.0)
    assert (clipper.last.skipped, clipper.last.status, clipper.last.threshold) == (None, "clipped", 1.0)


def test_a_copied_clipper_knows_the_skips() -> None:
    parameter, optimizer = owner()
    clipper = gradclip.GradClipper([parameter]).attach(optimizer)
    for _ in range(3):
        step(parameter, optimizer, math.nan)
    assert deepcopy(clipper).state_dict()["skips"] == 3


def test_a_step_that_raises_leaves_nothing_on_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    parameter, optimizer = owner()
    clipper = gradclip.GradClipper([parameter]).attach(optimizer)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[SGD.__module__], "sgd", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            step(parameter, optimizer, math.nan)
    clipper.detach()
    assert not hasattr(optimizer, "found_inf")
    parameter.grad = There(torch.ones(3))
    with pytest.warns(gradclip.MisuseWarning, match="clip"):  # detached
        optimizer.step()
    assert not torch.equal(parameter.detach().held, torch.ones(3))


def test_a_scaler_that_found_an_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `GradScaler.step` tells a fused optimizer: the step does not happen, and counts for no skip."""
    parameter, optimizer = owner()
    optimizer_: Any = optimizer
    clipper = gradclip.GradClipper([parameter], max_consecutive_skips=9).attach(optimizer)
    step(parameter, optimizer, 1.0)
    before = parameter.detach().held.clone()
    flag = There(torch.ones(()))
    for _ in range(4):
        optimizer_.grad_scale, optimizer_.found_inf = There(torch.full((), 8.0)), flag
        with no_waits():
            step(parameter, optimizer, math.inf)
        assert optimizer_.found_inf is flag  # which the scaler takes away
        del optimizer_.grad_scale, optimizer_.found_inf
    assert torch.equal(parameter.detach().held, before)
    assert clipper.last is not None
    assert (clipper.last.skipped, clipper.state_dict()["skips"]) == ("skipped_scaler", 0)


@pytest.mark.parametrize("given", [{"policy": schedule(lambda _: FixedNorm(1.0))}, {"nonfinite": "raise"}, {}])
def test_who_asks_the_host(given: dict[str, Any]) -> None:
    """A policy that counts steps; what raises; an optimizer that is not fused."""
    parameter, optimizer = owner()
    optimizer = optimizer if given else SGD([parameter], lr=0.1)
    gradclip.GradClipper([parameter], **given).attach(optimizer)
    with no_waits(), pytest.raises(AssertionError, match="waits"):
        step(parameter, optimizer, 1.0)
