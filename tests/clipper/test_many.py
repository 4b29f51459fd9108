"""Very many clippers, as one a parameter: each costs what one costs."""

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import gradclip
from gradclip import GradClipper, MisuseWarning
from gradclip.policies import FixedNorm


def calls_in(act: Callable[[], object]) -> int:
    """Return how many calls of Python's functions something takes, which no clock tells so reliably."""
    count = 0

    def profile(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def training(count: int, *, attached: bool, shared: bool) -> Callable[[], None]:
    """Make clippers of a parameter each; return a step, by one optimizer of all parameters, or by one of each."""
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(count)]
    optimizers = [torch.optim.SGD(some, lr=0.1) for some in ([parameters] if shared else [[p] for p in parameters])]
    clippers = []
    for i, parameter in enumerate(parameters):
        clippers.append(clipper := GradClipper([parameter], FixedNorm(1.0)))
        if attached:
            clipper.attach(optimizers[0 if shared else i])

    def step() -> None:
        for parameter in parameters:
            parameter.grad = torch.full((2,), 3.0)
        for clipper in () if attached else clippers:
            clipper.clip()
        for optimizer in optimizers:
            optimizer.step()
        assert all(p.grad is not None and p.grad.norm() <= 1.0 for p in parameters)

    return step


@pytest.mark.parametrize("shared", [True, False], ids=["one optimizer", "one optimizer each"])
@pytest.mark.parametrize("attached", [True, False], ids=["attached", "by hand"])
def test_twice_as_many_clippers_cost_twice_as_much(
    attached: bool, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None asks all others about its parameters, nor hears of steps that are about none of them."""
    monkeypatch.setattr("gradclip.clipper.trust.PATIENCE", 3)

    def calls(count: int) -> list[int]:
        """Count those of making them and a first step, and of more, of which one looks for parameters that none has."""
        made: list[Callable[[], None]] = []
        made_and_stepped = calls_in(lambda: made.append(training(count, attached=attached, shared=shared)) or made[0]())
        return [made_and_stepped, *(calls_in(made[0]) for _ in range(4))]

    calls(2)  # what is done once in a process
    few, many = calls(20), calls(40)
    assert [x < 2.2 * y for x, y in zip(many, few, strict=True)] == [True] * len(few), (few, many)


def test_under_patch_as_well() -> None:
    """A step looks for clippers of the script's own among those of its parameters."""

    def calls(count: int) -> int:
        def begin() -> None:
            training(count, attached=True, shared=False)()

        with gradclip.patch():
            return calls_in(begin)

    calls(2)
    assert calls(40) < 2.2 * calls(20)


def test_one_parameter_that_none_of_many_clips() -> None:
    """Each clipper says so, though what nobody clips is found out for all of them at once."""
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(5)]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    clippers = [GradClipper([p], FixedNorm(1.0)).attach(optimizer) for p in parameters[:4]]
    for parameter in parameters:
        parameter.grad = torch.ones(2)
    with pytest.warns(MisuseWarning, match=r"1 parameters that no clipper clips: param_groups\[0\]\[4\]") as said:
        optimizer.step()
    assert len(said) == len(clippers)


def test_a_clipper_made_between_two_steps_hears_of_the_second() -> None:
    """Whom a step is told to follows whatever comes: a clipper, more parameters of one, and of the optimizer."""
    heard: list[Any] = []

    def skipping(parameters: Any) -> GradClipper:
        clipper = GradClipper(parameters)
        for parameter in parameters:
            parameter.grad = torch.full((2,), float("nan"))
        heard.append(clipper.clip().skipped)
        return clipper

    first, second, third = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = torch.optim.SGD([first, second], lr=0.1)
    alive = [skipping([first])]
    optimizer.step()
    first.grad = None
    alive.append(skipping([second]))
    optimizer.step()
    second.grad = None
    optimizer.add_param_group({"params": [third]})
    alive.append(skipping([third]))
    optimizer.step()
    assert all(status is not None for status in heard)
    assert all(torch.equal(p.detach(), torch.ones(2)) for p in (first, second, third))
