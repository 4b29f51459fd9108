"""Records of steps that a device keeps from happening: nothing waits for them, and they say what a host would."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import withhold_workers as workers
from clipper.test_withhold import BAD, FUSED, LEARNING, SPIKE, Training
from gradclip.policies import AGC, FixedNorm, FixedValue, Policy
from gradclip.records import Memory, flush
from there import PLACE, There, captured, no_waits

POLICIES: dict[str, Policy] = {
    "FixedNorm": FixedNorm(1.0),
    "FixedNorm each": FixedNorm(0.5, scope="parameter"),
    "FixedValue": FixedValue(0.1),
    "AGC": AGC(0.1),
    **{name: LEARNING[name] for name in ("ZClip", "AutoClip each", "SpikeSkip", "SpikeSkip that learns", "by_name")},
}


class Copy:
    """A copy to the host that is under way until it is waited for."""

    def __init__(self, vector: Any) -> None:
        self.host = torch.full_like(vector.held, -1.0)
        self._vector = vector.held.clone()

    def is_done(self) -> bool:
        return False

    def wait(self) -> None:
        """Come to an end."""
        self.host.copy_(self._vector)


@pytest.fixture(autouse=True)
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels on the device: what stands in for it counts in plain torch."""
    monkeypatch.setattr("gradclip.clipper.skips.Transfer", workers.Late)
    monkeypatch.setattr("gradclip.records.draft.Transfer", Copy)
    for module in ("attaching", "work"):
        monkeypatch.setattr(f"gradclip.clipper.{module}.has_kernels", lambda device: device == PLACE)


def records(make: Callable[[Memory], Training], *, waits: bool = False, unread: int = 2) -> list[str]:
    """Return the records of a training but for their times."""
    training = make(memory := Memory())
    for step in range(12):
        training.backward(BAD.get(step), 1e6 if step == SPIKE else 1.0)
        if step == 10:
            training.optimizer.grad_scale, training.optimizer.found_inf = There(torch.ones(())), There(torch.ones(()))
        if step < unread or waits:
            training.optimizer.step()
        else:
            with no_waits():
                training.optimizer.step()
        training.optimizer.__dict__.pop("found_inf", None)
    assert waits or len(memory.records) < 12
    flush()
    return [repr({**x.to_dict(), "time": 0.0}) for x in memory.records]  # in which NaN is NaN


@pytest.mark.parametrize("name", POLICIES)
def test_they_are_those_of_a_host_that_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the counts of what is not finite by name, and whatever the policy had to say."""

    def make(memory: Memory) -> Training:
        return Training(FUSED["AdamW"], POLICIES[name], sinks=[memory], norms_every=3)

    ours = records(make)
    monkeypatch.setattr("gradclip.clipper.withhold.Ground.allows", lambda *_: False)
    assert ours == records(make, waits=True)
    assert [("nonfinite': {" in x, "skipped_scaler" in x) for x in ours] == [(i in BAD, i == 10) for i in range(12)]
    assert ("skipped_spike" in ours[SPIKE]) is ("SpikeSkip" in name)


@pytest.mark.parametrize("policy", [FixedNorm(1.0), LEARNING["ZClip"]], ids=["fixed", "learned"])
def test_what_computes_with_them_names_them_too(policy: Policy) -> None:
    """Under `"propagate"` nobody reads the norm: what is not finite is counted all the same."""
    memory = Memory()
    training = Training(FUSED["AdamW"], policy, sinks=[memory], nonfinite="propagate")
    for bad in (None, math.inf, None):
        with no_waits():
            training.backward(bad)
            training.clipper.clip()
    flush()
    assert [x.nonfinite for x in memory.records] == [None, {list(training.parameters)[1]: (0, 1)}, None]


def test_where_no_kernels_are_the_host_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """To count in plain torch would read all gradients once more at every step."""
    monkeypatch.setattr("gradclip.clipper.attaching.has_kernels", lambda _: False)
    training = Training(sinks=[Memory()])
    training.step()
    with no_waits(), pytest.raises(AssertionError, match="waits"):
        training.step()


def test_a_graph_that_is_captured_leaves_no_record() -> None:
    """In it no number is to be had; those before it, and after, are told."""
    memory = Memory()
    training = Training(FUSED["SGD"], sinks=[memory])
    for _ in range(4):
        training.step()
    with captured() as replay:
        with no_waits():
            training.step()
        replay()
    training.step()
    flush()
    assert [x.step for x in memory.records] == [1, 2, 3, 4, 6]
