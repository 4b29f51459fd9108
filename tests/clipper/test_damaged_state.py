"""States that no run has left: refused by the name of the entry, before anything changes, whatever is wrong with them.

The state of an adaptive policy decides about weights: a mean of -inf would write infinities into them at the next step.
"""

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradclip import GradClipper
from gradclip.policies import AdaGC, Policy, SpikeSkip, ZClip, warmup
from policies.cases import CASES, model

PARAMETERS = {name: nn.Parameter(value.detach().clone()) for name, value in model().items()}

Path = tuple[Any, ...]


def clipper_of(policy: Policy) -> GradClipper:
    """A clipper of two parameter groups, which has seen some steps."""
    for parameter in PARAMETERS.values():
        parameter.grad = None
    split = list(PARAMETERS.items())
    optimizer = torch.optim.SGD([{"params": split[:2]}, {"params": split[2:]}], lr=0.1)
    return GradClipper(optimizer, policy, nonfinite="propagate")


def after(clipper: GradClipper, steps: int) -> GradClipper:
    """The clipper after some steps with small gradients, which it leaves finite."""
    for step in range(steps):
        for parameter in PARAMETERS.values():
            parameter.grad = torch.full_like(parameter, 0.1 + 0.01 * step)
        clipper.clip(loss=-1.0 - 0.1 * step)
        assert all(parameter.grad.isfinite().all() for parameter in PARAMETERS.values() if parameter.grad is not None)
    return clipper


def leaves(node: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all that is no container, the numbers of a list once."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    elif isinstance(node, list) and node:
        yield from leaves(node[-1], (*path, len(node) - 1))
    elif not isinstance(node, list):
        yield path


def nodes(node: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield from nodes(value, (*path, key))


def changed(state: Any, path: Path, value: Any) -> Any:
    """A copy with something else at a path."""
    if not path:
        return value
    found = copy.deepcopy(state)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


def value_at(state: Any, path: Path) -> Any:
    for key in path:
        state = state[key]
    return state


POISON = [math.nan, -math.inf, True, "12", None, 1j, 10**400, [], {}, [1.0], torch.tensor(1.0)]


@pytest.mark.parametrize("name", CASES)
def test_every_number_of_every_policy(name: str) -> None:
    """Whatever is no number, and no negative one but a loss: the entry is named, and nothing has changed."""
    clipper = after(clipper_of(CASES[name].policy), 24)
    state = clipper.state_dict()
    numbers = [path for path in leaves(state) if not isinstance(value_at(state, path), str)]
    assert ("step",) in numbers and ("skips",) in numbers
    for path in numbers:
        for poison in [*POISON, *[-1.0] * ("losses" not in path)]:
            with pytest.raises(ValueError, match="`load_state_dict") as caught:
                clipper.load_state_dict(changed(state, path, poison))
            words = [key for key in path if isinstance(key, str)]
            assert words[-1] in str(caught.value), (path, str(caught.value))
            assert clipper.state_dict() == state


@pytest.mark.parametrize(
    ("policy", "path", "value", "message"),
    [
        (ZClip(1.0), ("mean",), -math.inf, "must have a finite number >= 0 at ZClip.mean, got -inf"),
        (ZClip(1.0), ("var",), "high", "must have a finite number >= 0 at ZClip.var, got 'high'"),
        (AdaGC(1.0), ("gamma", "gain"), math.nan, r"must have a number > 0 at AdaGC.gamma\['gain'\], got nan"),
        (AdaGC(1.0), ("gamma", "gain"), 0.0, r"must have a number > 0 at AdaGC.gamma\['gain'\], got 0.0"),
        (warmup(9, ZClip(1.0)), ("steps",), 1.5, "must have a whole number >= 0 at Warmup.steps, got 1.5"),
        (SpikeSkip(1.0), ("norms", 0, 0), -1.0, "must have a finite number >= 0 at SpikeSkip.norms, got -1.0"),
        (SpikeSkip(1.0), ("losses", 0, 0), math.inf, "must have a finite number at SpikeSkip.losses, got inf"),
    ],
)
def test_what_was_reported(policy: Policy, path: Path, value: float, message: str) -> None:
    """Each poisoned the weights, or switched the rule off."""
    clipper = after(clipper_of(policy), 24)
    with pytest.raises(ValueError, match=message):
        clipper.load_state_dict(changed(clipper.state_dict(), ("stages", 0, "state", *path), value))


@pytest.mark.parametrize("entry", ["step", "skips"])
@pytest.mark.parametrize("value", [-(10**9), True, "12", 1.5, math.inf, 10**400, "many", None])
def test_counters(entry: str, value: object) -> None:
    """A count below 0 would switch off the budget of skips."""
    clipper = clipper_of(ZClip(1.0))
    with pytest.raises(ValueError, match=f"must have a whole number >= 0 at {entry}, got"):
        clipper.load_state_dict({**clipper.state_dict(), entry: value})


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
def test_anything_anywhere(data: st.DataObject) -> None:
    """It is refused with a ValueError and nothing changes, or it is taken and the next gradients stay finite."""
    name = data.draw(st.sampled_from(["ZClip", "AdaGC", "SpikeSkip", "AutoClip each", "chain that learns", "warmup"]))
    clipper = after(clipper_of(CASES[name].policy), 3)
    state = clipper.state_dict()
    damaged = changed(state, data.draw(st.sampled_from(list(nodes(state)))), data.draw(ANYTHING))
    with contextlib.suppress(ValueError):
        clipper.load_state_dict(damaged)
        after(clipper, 3)
        return
    assert clipper.state_dict() == state
