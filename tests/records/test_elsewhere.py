"""Records of numbers on another device: copied without waiting, and given a clip later.

Tensors of the CPU are taken to be elsewhere here, and their copies to take as long as a test says. What a GPU does with
the same calls is tested where there is one.
"""

import gc
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from conftest import skip_without
from gradclip import ClipRecord, ClipResult, GradClipper, Status
from gradclip.gradients.nonfinite import Counts
from gradclip.policies import AdaGC, FixedNorm, Policy, ZClip
from gradclip.records import Memory, flush, sinks
from gradclip.records.sinks import Sinks
from gradclip.result import Each, Outcome
from gradclip.testing import capture_records
from processes import printed


class SlowCopy:
    """A copy to the host whose numbers come when the test says so; until then it holds others."""

    copies: list["SlowCopy"] = []

    def __init__(self, vector: Tensor) -> None:
        self.host = torch.full_like(vector, -1.0)
        self._vector = vector.clone()
        self.is_there = False
        self.waited = False
        SlowCopy.copies.append(self)

    def arrive(self) -> None:
        self.host.copy_(self._vector)
        self.is_there = True

    def is_done(self) -> bool:
        return self.is_there

    def wait(self) -> None:
        self.waited = self.waited or not self.is_there
        self.arrive()


@pytest.fixture(autouse=True)
def copies(monkeypatch: pytest.MonkeyPatch) -> list[SlowCopy]:
    """Takes every tensor to be on another device; returns what is on its way from there."""
    monkeypatch.setattr("gradclip.records.draft.is_ready", lambda x: not isinstance(x, Tensor))
    monkeypatch.setattr("gradclip.records.draft.Transfer", SlowCopy)
    monkeypatch.setattr(SlowCopy, "copies", [])
    return SlowCopy.copies


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def result(step: int, norm: float = 5.0, skipped: Status | None = None) -> ClipResult:
    """A clip to 1, whose numbers are on the device."""
    coefficient = min(1.0, 1.0 / norm)
    outcome = Outcome(number(norm * coefficient), number(1.0), number(coefficient), torch.tensor(coefficient < 1.0))
    each = Each(("a", "b", "c"), torch.tensor([3.0, 4.0], dtype=torch.float64), torch.tensor([0, 2]))
    return ClipResult(step, number(norm), lambda _: outcome, lambda: each, skipped)


def give(to: Sinks, *results: ClipResult, loss: Tensor | None = None) -> None:
    for each in results:
        to.record(each, None, loss, None, norms=True)


def sinks_of(*given: Callable[[ClipRecord], object]) -> Sinks:
    return Sinks(given, FixedNorm(1.0))


def test_a_record_comes_with_the_next_whose_numbers_are_there(copies: list[SlowCopy]) -> None:
    """Nothing waits for them."""
    memory = Memory()
    own = sinks_of(memory)
    give(own, result(1))
    assert len(memory.records) == 0
    copies[0].arrive()
    give(own, result(2))
    assert [x.step for x in memory.records] == [1]
    give(own, result(3))
    copies[1].arrive()
    copies[2].arrive()
    give(own, result(4))
    assert [x.step for x in memory.records] == [1, 2, 3]
    assert not any(copy.waited for copy in copies)


def test_every_number_comes_across(copies: list[SlowCopy]) -> None:
    """As it was when the clip was, whatever becomes of the tensors."""
    memory, rate, loss = Memory(), torch.tensor(0.25), torch.tensor(2.5)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=rate)
    own = sinks_of(memory)
    given = result(1)
    own.record(given, optimizer, loss, Counts(["a", "b"], torch.tensor([[1, 0], [0, 0]])), norms=True)
    rate.fill_(0.0)
    loss.fill_(0.0)
    assert isinstance(given._total, Tensor)
    given._total.fill_(0.0)
    own.flush()
    (found,) = memory.records
    assert found == ClipRecord(
        step=1,
        time=found.time,
        status="clipped",
        total_norm=5.0,
        total_norm_after=1.0,
        threshold=1.0,
        coefficient=0.2,
        policy=repr(FixedNorm(1.0)),
        worst=(("c", pytest.approx(0.64)), ("a", pytest.approx(0.36))),
        lr=0.25,
        loss=2.5,
        nonfinite={"a": (1, 0)},
        norms={"a": 3.0, "c": 4.0},
    )
    assert copies[0].waited


def test_what_the_host_knows_waits_for_its_turn(copies: list[SlowCopy]) -> None:
    """Records come in the order of their steps."""
    memory = Memory()
    own = sinks_of(memory)
    known = ClipResult(2, 0.5, lambda _: Outcome(0.5, 1.0, 1.0, shrunk=False), lambda: None)
    give(own, result(1), known, result(3, 0.5), result(4, math.inf, Status.SKIPPED_NONFINITE))
    assert len(memory.records) == 0 and len(copies) == 3
    own.flush()
    found = [(x.step, x.status, x.total_norm) for x in memory.records]
    assert found == [(1, "clipped", 5.0), (2, "ok", 0.5), (3, "ok", 0.5), (4, "skipped_nonfinite", math.inf)]


def test_a_device_that_lags_far_behind_is_waited_for(copies: list[SlowCopy], monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded."""
    monkeypatch.setattr(sinks, "MOST_WAITING", 3)
    memory = Memory()
    own = sinks_of(memory)
    give(own, *(result(i) for i in range(1, 9)))
    assert [x.step for x in memory.records] == [1, 2, 3, 4, 5]
    assert [copy.waited for copy in copies] == [True] * 5 + [False] * 3


def test_the_last_record_of_a_clipper_that_is_gone() -> None:
    """It is not lost."""
    memory = Memory()
    own = sinks_of(memory)
    give(own, result(1))
    del own
    gc.collect()
    assert [x.step for x in memory.records] == [1]


def test_flushing_all() -> None:
    """Of every clipper, once."""
    first, second = Memory(), Memory()
    kept = [sinks_of(first), sinks_of(second)]
    give(kept[0], result(1))
    give(kept[1], result(1), result(2))
    flush()
    flush()
    assert [len(x.records) for x in (first, second)] == [1, 2]


POLICIES: list[Policy] = [AdaGC(0.5, warmup=2), FixedNorm(0.5, scope="parameter")]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_a_clipper_whose_numbers_are_elsewhere(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its records are those of one whose numbers are here, once it is detached."""

    def records() -> list[ClipRecord]:
        memory = Memory()
        named = [(name, nn.Parameter(torch.zeros(4))) for name in ("a", "b", "c")]
        optimizer = torch.optim.SGD([p for _, p in named], lr=0.1)
        draw = torch.Generator().manual_seed(0)
        with GradClipper(named, policy, norms_every=2, sinks=[memory]).attach(optimizer):
            for step in range(6):
                for name, p in named:
                    p.grad = None if name == "b" and step == 3 else torch.randn(4, generator=draw)
                if step == 4:
                    named[0][1].grad = torch.full((4,), math.nan)
                optimizer.step(lambda: 1.5)
                assert len(memory.records) == step + 1 or SlowCopy.copies
        return list(memory.records)

    late = records()
    assert len(SlowCopy.copies) == 6
    monkeypatch.undo()
    early = records()
    assert [x.norms.keys() for x in late if x.norms] == [{"a", "b", "c"}, {"a", "c"}, {"a", "b", "c"}]
    assert [_without_time(x) for x in late] == [_without_time(x) for x in early]
    assert late[4].nonfinite == {"a": (4, 0)} and late[0].loss == 1.5 and late[0].lr == 0.1


def _without_time(record: ClipRecord) -> str:
    return repr({**record.to_dict(), "time": 0.0})  # in which NaN is NaN


def test_tests_do_not_wait() -> None:
    """What captures records hears of each clip at once."""
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    clipper = GradClipper([p], FixedNorm(1.0, scope="parameter"))
    for which in (None, clipper):
        p.grad = torch.tensor([3.0, 4.0])
        with capture_records(which) as records:
            clipper.clip()
            assert [x.total_norm for x in records] == [5.0]


def test_the_last_record_of_a_program() -> None:
    """It is given when the program ends, with nothing detached."""
    script = """
import torch
import gradclip
from records.test_elsewhere import SlowCopy
from gradclip.records import draft

draft.is_ready, draft.Transfer = (lambda x: not isinstance(x, torch.Tensor)), SlowCopy
p = torch.nn.Parameter(torch.zeros(2))
p.grad = torch.tensor([3.0, 4.0])
policy = gradclip.policies.FixedNorm(1.0, scope="parameter")
clipper = gradclip.GradClipper([p], policy, sinks=[lambda record: print(record.step)])
clipper.clip()
print("end")
"""
    assert printed(script).split() == ["end", "1"]


# On a GPU.


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU, with nothing taken for what it is not."""
    if not torch.cuda.is_available():
        skip_without("cuda", "there is no GPU")
    monkeypatch.undo()
    return torch.device("cuda")


@pytest.mark.parametrize("policy", [FixedNorm(1.0), ZClip(1.0, warmup=2), AdaGC(1.0, warmup=2)], ids=repr)
def test_recording_does_not_wait_for_a_gpu(policy: Policy, gpu: torch.device) -> None:
    """Under `"propagate"`, clipping does not either: no operation of the loop may."""
    memory = Memory()
    named = [(name, nn.Parameter(torch.zeros(1000, device=gpu))) for name in ("a", "b")]
    for _, p in named:
        p.grad = torch.randn_like(p)
    expected = math.hypot(*(float(p.grad.double().norm()) for _, p in named if p.grad is not None))
    clipper = GradClipper(named, policy, nonfinite="propagate", norms_every=2, sinks=[memory])
    clipper.clip()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            clipper.clip()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    clipper.detach()
    assert [x.step for x in memory.records] == list(range(1, 22))
    assert memory.records[0].total_norm == pytest.approx(expected, rel=1e-6)
