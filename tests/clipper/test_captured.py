"""A clip in a captured graph: each replay goes on from the one before, as steps do that are no replay."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from gradclip import GradClipper, sending, tracing
from gradclip.numbers import Scalar, bring_down, is_known, maximum
from gradclip.policies import (
    AdaGC,
    AutoClip,
    Decision,
    FixedNorm,
    Layout,
    Norms,
    Policy,
    SpikeSkip,
    ZClip,
    chain,
    schedule,
    warmup,
)
from policies.cases import CASES, SHAPES, clipper_of, falling, gradients, model
from there import PLACE, There, captured, no_waits
from withhold_workers import Late

WARM, REPLAYS = 30, 12
"""Steps before the graph, after which every policy has warmed up, and replays of it."""

SKIPPING = {name for name, case in CASES.items() if case.policy.skips}


def given(step: int) -> dict[str, Tensor]:
    """The gradients of a step, of which one is far larger, and one is NaN."""
    found = gradients(step, 1000.0 if step == WARM + 4 else 1.0)
    if step == WARM + 7:
        found["head.weight"] = found["head.weight"] * torch.nan
    return found


class Run:
    """A clipper on the stand-in device, whose gradients stay where they are."""

    def __init__(self, policy: Policy, missing: tuple[str, ...] = (), **options: Any) -> None:
        self.parameters: dict[str, Any] = {name: Parameter(There(p.detach())) for name, p in model().items()}
        for name, p in self.parameters.items():
            p.grad = None if name in missing else torch.zeros_like(p)
        self.clipper = clipper_of(policy, self.parameters, **({"nonfinite": "propagate"} | options))

    def draw(self, step: int) -> None:
        for name, x in given(step).items():
            if self.parameters[name].grad is not None:
                self.parameters[name].grad.held.copy_(x)

    def left(self) -> list[Tensor]:
        return [p.grad.held.clone() for p in self.parameters.values() if p.grad is not None]


@pytest.fixture(autouse=True)
def late_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What captures graphs has copies that nothing waits for."""
    monkeypatch.setattr("gradclip.clipper.skips.Transfer", Late)


@pytest.fixture
def replayed() -> Callable[[Policy], tuple[Run, Run]]:
    """A run whose last steps are replays, beside one without, which has to leave the same bits."""

    def of(policy: Policy, missing: tuple[str, ...] = ()) -> tuple[Run, Run]:
        eager, own = Run(policy, missing), Run(policy, missing)
        for step in range(WARM - 3):
            eager.draw(step)
            eager.clipper.clip()
        own.clipper.load_state_dict(eager.clipper.state_dict())
        for step in range(WARM - 3, WARM + 1):
            for run in (eager, own):
                run.draw(step)
                if run is own and step == WARM:
                    with captured() as replay, no_waits():
                        run.clipper.clip()
                else:
                    run.clipper.clip()
        for step in range(WARM + 1, WARM + 1 + REPLAYS):
            eager.draw(step)
            eager.clipper.clip()
            own.draw(step)
            replay()
            for ours, expected in zip(own.left(), eager.left(), strict=True):
                torch.testing.assert_close(ours, expected, rtol=0.0, atol=0.0, equal_nan=True)
        return eager, own

    return of


@pytest.mark.parametrize("name", [name for name in CASES if name not in {*SKIPPING, "schedule"}])
def test_replays_do_what_steps_do(name: str, replayed: Any) -> None:
    """Bit for bit, what they learn included; and steps after them go on from there."""
    runs = replayed(CASES[name].policy)
    for step in range(50, 53):
        for run in runs:
            run.draw(step)
            run.clipper.clip()
        eager, own = (run.left() for run in runs)
        assert all(map(torch.equal, own, eager))
    states = [run.clipper.state_dict()["stages"] for run in runs]
    assert states[0] == states[1]


@pytest.mark.parametrize("name", ["FixedNorm each", "AGC", "AdaGC", "by_name"])
def test_replays_where_a_parameter_has_no_gradient(name: str, replayed: Any) -> None:
    """What the graph copies from the host, such as the places of the others, outlives the capture."""
    replayed(CASES[name].policy, ("conv.weight",))


def fails(*_: Any) -> None:
    raise ValueError("it fails")


@pytest.mark.parametrize(
    "policy",
    [
        ZClip(1.0, warmup=3),
        SpikeSkip(2.0, window=8, warmup=3),
        AutoClip(1.0, window=5),
        chain(warmup(WARM + 6, FixedNorm(0.5)), AdaGC(1.0, warmup=WARM + 3)),
    ],
)
def test_replays_of_a_fused_step_skip_and_learn(policy: Policy) -> None:
    """Whole steps of an optimizer, of which one has a NaN: parameters and what was learned, bit for bit."""
    runs = [Run(policy, nonfinite="skip", max_consecutive_skips=math.inf) for _ in range(2)]
    steps = []
    for run in runs:
        optimizer = torch.optim.SGD(run.parameters.values(), lr=0.1, momentum=0.9, fused=True)
        run.clipper.attach(optimizer)
        steps.append(optimizer.step)
    before: list[Tensor] = []
    for step in range(WARM + REPLAYS):
        for run, act in zip(runs, steps, strict=True):
            run.draw(step)
            if run is runs[0] or step < WARM:
                act()
            elif step == WARM:
                with captured() as replay, no_waits():
                    act()
            else:
                replay()
        ours, expected = ([p.detach().held.clone() for p in run.parameters.values()] for run in reversed(runs))
        assert all(map(torch.equal, ours, expected))
        stays = bool(before) and all(map(torch.equal, ours, before))
        assert stays is (step == WARM + 7 or (step == WARM + 4 and policy.skips))
        before = ours
    for run, act in zip(runs, steps, strict=True):  # and on, where the host decides
        run.draw(50)
        act(lambda: None)
    for run, act in zip(runs, steps, strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(policy), "decide", fails)
            run.draw(51)
            with pytest.raises(ValueError, match="fails"):
                act(lambda: None)
    runs[0].draw(52)
    steps[0]()
    runs[1].draw(52)
    replay()
    states = [run.clipper.state_dict() for run in runs]
    assert states[0]["stages"] == states[1]["stages"]
    assert states[0]["skips"] == states[1]["skips"]


def test_a_state_is_loaded_where_replays_read_it() -> None:
    """They go on from it."""
    policy = ZClip(1.0, warmup=3)
    runs = [Run(policy) for _ in range(2)]
    for step in range(20):
        for run in runs:
            run.draw(step)
            run.clipper.clip()
    saved = runs[0].clipper.state_dict()
    with captured() as replay:
        runs[1].clipper.clip()
    for step in range(20, 25):
        runs[1].draw(step)
        replay()
    runs[1].clipper.load_state_dict(saved)
    runs[0].draw(WARM + 4)
    runs[0].clipper.clip()
    runs[1].draw(WARM + 4)
    replay()
    assert all(map(torch.equal, runs[1].left(), runs[0].left()))


def test_a_count_of_skips_begins_outside_of_a_graph() -> None:
    """Replays would begin it anew; after one step outside they count on."""
    run = Run(FixedNorm(1.0), nonfinite="skip", max_consecutive_skips=math.inf)
    optimizer = torch.optim.SGD(run.parameters.values(), lr=0.1, fused=True)
    run.clipper.attach(optimizer)
    run.draw(0)
    words = r"max_consecutive_skips=.* begins, .* Take a step outside"
    with captured(), no_waits(), pytest.raises(RuntimeError, match=words):
        optimizer.step()
    optimizer.step()
    with captured() as replay, no_waits():
        optimizer.step()
    run.draw(WARM + 7)
    for _ in range(3):
        replay()
    assert run.clipper.state_dict()["skips"] == 3


def test_a_result_of_a_captured_clip_is_that_of_the_last_replay() -> None:
    """All that it says, of one replay after the other, whether it was asked before or not."""
    run, eager = (Run(FixedNorm(1.0), nonfinite="skip") for _ in range(2))
    replayed, stepped = (torch.optim.SGD(one.parameters.values(), lr=0.1, fused=True) for one in (run, eager))
    run.clipper.attach(replayed)
    eager.clipper.attach(stepped)
    run.draw(0)
    replayed.step()
    with captured() as replay:
        replayed.step()
    for step in (1, WARM + 4, WARM + 7, 2):
        run.draw(step)
        eager.draw(step)
        replay()
        stepped.step()
        own, other = run.clipper.last, eager.clipper.last
        assert own is not None and other is not None and own.status is other.status
        for name in ("total_norm", "total_norm_after", "coefficient", "threshold", "clipped"):
            assert getattr(own, name) == pytest.approx(getattr(other, name), nan_ok=True), name


def test_what_was_captured_is_forgotten_on_another_device() -> None:
    """A clipper whose parameters moved away learns there, and not in the memory of the graph that they left."""
    run, eager = Run(ZClip(1.0, warmup=3)), Run(ZClip(1.0, warmup=3))
    for step in range(5):
        for one in (run, eager):
            one.draw(step)
            one.clipper.clip()
    with captured():
        run.clipper.clip()
    eager.clipper.clip()
    selection = run.clipper._selection
    selection.owners[:] = here = [Parameter(p.detach().held) for p in selection.owners]
    for step in range(5, 8):
        eager.draw(step)
        eager.clipper.clip()
        for name, p in zip(run.parameters, here, strict=True):
            p.grad = given(step)[name]
        run.clipper.clip()
        torch.testing.assert_close([p.grad for p in here], eager.left())
    learned, expected = (one.clipper.state_dict()["stages"][0]["state"] for one in (run, eager))
    assert learned == pytest.approx(expected, rel=1e-12)
    assert run.clipper._pipeline._captured is None


def test_a_count_of_skips_is_loaded_where_replays_count_on() -> None:
    """As what the policy has learned."""
    run = Run(ZClip(1.0, warmup=3), nonfinite="skip")
    optimizer = torch.optim.SGD(run.parameters.values(), lr=0.1, fused=True)
    run.clipper.attach(optimizer)
    for step in range(5):
        run.draw(step)
        optimizer.step()
    with captured() as replay:
        optimizer.step()
    run.draw(WARM + 7)
    replay()
    run.clipper.load_state_dict({**run.clipper.state_dict(), "skips": 5})
    replay()
    replay()
    assert run.clipper.state_dict()["skips"] == 7


@pytest.mark.parametrize(
    ("policy", "steps", "why"),
    [
        (ZClip(1.0), 0, "met its first gradient"),
        (AutoClip(1.0, window=5), 0, "met its first gradient"),
        (AutoClip(1.0, window=None), 3, "remembers more norms with each step"),
        (AdaGC(1.0, warmup=9), 0, "met its first gradient"),
        (warmup(9, FixedNorm(1.0)), 0, "met its first gradient"),
        (schedule(falling), 3, "counts on the host"),
    ],
)
def test_what_cannot_be_replayed_is_refused(policy: Policy, steps: int, why: str) -> None:
    """With what to do about it; outside of a graph it goes on."""
    by_hand, fused = Run(policy), Run(policy, nonfinite="skip")
    optimizer = torch.optim.SGD(fused.parameters.values(), lr=0.1, fused=True)
    fused.clipper.attach(optimizer)
    for run, act in ((by_hand, by_hand.clipper.clip), (fused, optimizer.step)):
        for step in range(steps):
            run.draw(step)
            act()
        run.draw(steps)
        before = run.clipper.state_dict()
        with (
            captured(),
            no_waits(),
            pytest.raises(RuntimeError, match=rf"must do the same at every step .* {why}.* in it. Clip outside"),
        ):
            act()
        assert run.clipper.state_dict() == before
        for step in range(steps, steps + 3):
            run.draw(step)
            act()


@pytest.mark.parametrize("nonfinite", ["raise", "sanitize", "skip"])
def test_what_reads_the_norm_is_refused(nonfinite: Any) -> None:
    """By name, before anything waits; outside of a graph it goes on as if nothing had been."""
    run, other = (Run(ZClip(1.0, warmup=3), nonfinite=nonfinite) for _ in range(2))
    for step in range(8):
        for one in (run, other):
            one.draw(step)
        if step == 5:
            with captured(), no_waits(), pytest.raises(RuntimeError, match=f"{nonfinite}.* reads the norm, .* Use"):
                run.clipper.clip()
        for one in (run, other):
            one.clipper.clip()
        assert all(map(torch.equal, run.left(), other.left()))


@pytest.mark.parametrize("steps", [0, 5])
def test_a_clip_that_fails_in_a_graph_leaves_nothing_there(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps after it are those of no graph."""
    run, other = (Run(ZClip(1.0, warmup=3)) for _ in range(2))
    for step in range(steps + 3):
        for one in (run, other):
            one.draw(step)
        if step == steps:
            with monkeypatch.context() as patch:
                patch.setattr(ZClip, "decide", fails)
                with captured(), pytest.raises(ValueError, match="it fails"):
                    run.clipper.clip()
        for one in (run, other):
            one.clipper.clip()
        assert all(map(torch.equal, run.left(), other.left()))
    assert run.clipper.state_dict()["stages"] == other.clipper.state_dict()["stages"]
    assert run.clipper._pipeline._captured is None


@dataclass(frozen=True)
class LastTwo(Policy):
    """Bound the norm by twice the larger of the last two."""

    def init(self, layout: Layout) -> tuple[float, float]:
        return (100.0, 100.0)

    def decide(self, norms: Norms, state: tuple[Scalar, Scalar]) -> tuple[Decision, tuple[Scalar, Scalar]]:
        bound = 2.0 * maximum(*state)
        return Decision(bring_down(norms.total, bound, 0.0), bound), (norms.total, state[0])


@dataclass(frozen=True)
class First(Policy):
    """Remember the first norm beside the last, which are one tensor at first."""

    def init(self, layout: Layout) -> tuple[float, float]:
        return (0.0, 0.0)

    def decide(self, norms: Norms, state: tuple[Scalar, Scalar]) -> tuple[Decision, tuple[Scalar, Scalar]]:
        return Decision(0.5), (norms.total if is_known(state[0]) else state[0], norms.total)


@dataclass(frozen=True)
class Longer(Policy):
    """Remember one more number each step."""

    def init(self, layout: Layout) -> tuple[float, ...]:
        return (0.0,)

    def decide(self, norms: Norms, state: tuple[Scalar, ...]) -> tuple[Decision, tuple[Scalar, ...]]:
        return Decision(0.5), (*state, norms.total)


@pytest.mark.parametrize(
    ("policy", "why"), [(First(), "keeps one tensor in two places"), (Longer(), "remembers more norms")]
)
def test_what_has_no_place_of_its_own_is_refused(policy: Policy, why: str) -> None:
    """Replays would write one number over another; nothing is learned."""
    run = Run(policy)
    run.draw(0)
    run.clipper.clip()
    before = run.clipper.state_dict()
    with captured(), pytest.raises(RuntimeError, match=why):
        run.clipper.clip()
    assert run.clipper.state_dict()["stages"] == before["stages"]


def test_what_was_known_may_be_learned_in_another_place(replayed: Any) -> None:
    """Nothing is written before all is read."""
    eager, own = replayed(LastTwo())
    assert own.clipper.state_dict()["stages"] == eager.clipper.state_dict()["stages"]


@dataclass(frozen=True)
class CountsToThree(Policy):
    """A rule that counts on the host, wherever norms are."""

    def init(self, layout: Layout) -> tuple[float]:
        return (0.0,)

    def decide(self, norms: Norms, state: tuple[float]) -> tuple[Decision, tuple[float]]:
        return Decision(0.5), (min(state[0] + 1.0, 3.0),)


def test_what_has_no_place_in_a_graph_is_not_loaded() -> None:
    """And nothing is changed."""
    runs = [Run(CountsToThree()) for _ in range(2)]
    for step in range(5):
        for run in runs[: 1 if step else 2]:
            run.draw(step)
            run.clipper.clip()
    with captured():
        runs[0].clipper.clip()
    before = runs[0].clipper.state_dict()
    with pytest.raises(RuntimeError, match="must do the same at every step"):
        runs[0].clipper.load_state_dict(runs[1].clipper.state_dict())
    assert runs[0].clipper.state_dict() == before
    assert runs[0].clipper._pipeline.__getstate__()["_captured"] is None


@pytest.mark.parametrize("has_spare", [True, False])
def test_a_table_outlives_the_capture(has_spare: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay copies it again: from memory that was pinned before, or from any where none is left."""
    pytest.importorskip("triton")
    from gradclip.ops.triton import copying, lane, table

    spares = [torch.zeros(100, dtype=torch.int64) if has_spare else None]
    monkeypatch.setattr(lane.Slots, "take_spare", lambda *_: spares.pop())
    monkeypatch.setattr(copying, "is_captured", lambda _: True)
    found = table.tabled([torch.ones(3), torch.ones(20_000)])
    there = table.on_device(found, PLACE)
    with captured() as replay, no_waits():
        copying.copy(found, there, None, (1.0, 1e-6))
    expected = table.on_device(found, torch.device("cpu")).words
    table.write(found, (1.0, 1e-6), expected)
    there.words.held.zero_()
    replay()
    assert torch.equal(there.words.held, expected)


def test_what_a_graph_copies_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch asks for that; before, it can pin none then."""
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: pinned.append(x) or x.clone())
    for asks in (False, True):
        monkeypatch.setattr(sending, "TAKES_PINNED", asks)
        x = torch.ones(2)
        assert (sending.for_replays(x) is x) is not asks
    assert len(pinned) == 1


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_each_accelerator_is_asked(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device itself, which need not be the current one: else a replay copies from memory that is gone."""
    module = tracing.WITH_GRAPHS.get(kind) or pytest.skip("this torch captures no graph there")
    current: list[int | None] = [0]

    @contextlib.contextmanager
    def on(index: int | None) -> Iterator[None]:
        current.append(index)
        yield
        current.pop()

    monkeypatch.setattr(module, "device", on)
    monkeypatch.setattr(module, "is_current_stream_capturing", lambda: current[-1] >= 1)
    monkeypatch.setattr(tracing, "current_cuda_stream", lambda device: 7 if device < 2 else 0)
    captured = [tracing.is_captured(torch.device(kind, i)) for i in range(3)]
    assert captured == [False, True, kind != "cuda"]  # the default stream captures nothing


def test_on_the_host_nothing_is_captured() -> None:
    """A clip of the CPU asks nobody, and learns as ever."""
    clipper = GradClipper([Parameter(torch.ones(2))], ZClip(1.0))
    clipper.clip()
    assert clipper._pipeline._captured is None
    assert len(SHAPES) == len(model())
