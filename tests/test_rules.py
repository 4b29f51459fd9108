"""Rules as kernels: decisions on a device in a launch or two, with the numbers of torch's own operations."""

import copy
import linecache
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import pytest
import torch
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import skip_without, take_elsewhere
from gradclip.numbers import CPU, as_float64, isfinite, where
from gradclip.ops import registry
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    Decision,
    FixedNorm,
    FixedValue,
    Layout,
    MedianClip,
    Norms,
    Policy,
    SmoothNorm,
    SpikeSkip,
    ZClip,
    by_group,
    by_name,
    chain,
    warmup,
)
from gradclip.policies.saving import pack, unpack
from gradclip.stages import Stage
from policies.cases import CASES, LEARNING, SHAPES
from test_triton import StandIn
from waits import NoReads

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl

from gradclip.ops.triton import backend, driver, fusing, lane, launch, ordering, recording, rule, sheet
from interpreted import in_less_time

LAYOUT = Layout(tuple(SHAPES), (12, 4, 24, 8, 0, 1), (4, 1, 2, 2, 1, 1), (0, 0, 1, 1, 1, 1), 2, CPU, (2, 1, 4, 2, 2, 0))

TENSORS = {"FixedValue", "SmoothNorm sqrt", "SmoothNorm tanh", "schedule"}
"""Rules that torch decides by: in one launch, or by what no kernel is made of."""

FREE = {f"{name}, free": LEARNING[name] for name in ("ZClip", "AdaGC", "SpikeSkip", "chain that learns")}
MORE: dict[str, Policy] = {
    "AutoClip of 5": AutoClip(1.0, percentile=90.0, window=5),
    "AutoClip each, of 5": AutoClip(math.inf, window=5, scope="parameter"),
    "MedianClip of 5": MedianClip(math.inf, window=5, warmup=3),
    "SpikeSkip of 9": SpikeSkip(2.0, sigmas=1.5, window=9, warmup=4, learn_skipped=True),
    "SpikeSkip of 64": SpikeSkip(math.inf, sigmas=2.0, window=64, warmup=10, patience=3.0),
    "ZClip in per cent": ZClip(9.0, mode="percentile", warmup=5),
    "ZClip by means": ZClip(9.0, clip_option="mean", warmup=5, skip_update_on_spike=True),
    "AGC of some": AGC(0.3, min_ndim=2),
    "learning for a time": chain(warmup(30, ZClip(math.inf, warmup=5)), AdaGC(math.inf, warmup=50)),
    "a time within one": warmup(6, chain(ZClip(1.0, warmup=2), warmup(3, ZClip(math.inf, warmup=2)))),
    "groups of norms": by_group([SmoothNorm(1.0, "rational"), FixedNorm(2.0, scope="parameter")]),
    "SpikeSkip in a chain": chain(SpikeSkip(2.0, sigmas=1.5, window=9, warmup=4), ZClip(math.inf, warmup=5)),
    "SpikeSkip of parts": by_name(
        {"head.weight": SpikeSkip(2.0, sigmas=1.5, window=9, warmup=4, learn_skipped=True)},
        AdaGC(math.inf, warmup=9),
    ),
    "names for some": by_name({"body.*": ZClip(1.0, warmup=5)}),
}
EVERY: dict[str, Policy] = {name: case.policy for name, case in CASES.items()} | FREE | MORE


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if why := registry.why_no_triton():
        skip_without("triton", f"the kernels for GPUs do not run: {why}")
    take_elsewhere(monkeypatch)
    in_less_time(monkeypatch)
    with registry.forced("triton"):
        yield


@pytest.fixture
def _exact_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots that are the nearest numbers, as on a GPU: those of MKL, torch's on the CPU, are not, one in 200."""
    plain = Tensor.sqrt

    def root(x: Tensor) -> Tensor:
        return plain(x) if x.is_meta else x.clone().apply_(lambda v: math.sqrt(v) if v >= 0.0 else math.nan)

    monkeypatch.setattr(Tensor, "sqrt", root)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were launched."""
    names: list[str] = []
    act = fusing.launch

    def noting(calls: list[Any], device: torch.device) -> None:
        names.extend(call.kernel.fn.__name__ for call in calls)
        act(calls, device)

    monkeypatch.setattr(fusing, "launch", noting)
    return names


class Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def tensor(x: object) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def norms_of(scale: float, missing: Sequence[int] = (), bad: float = 1.0, **more: Any) -> Norms:
    """The norms of a step, of the parameters that have a gradient."""
    units = tensor([1.0, 2.0, 0.5, 0.25, 0.7, 3.0, 1.5, 0.1, 0.2, 0.0, 4.0]) * scale
    units[4] *= bad
    each = torch.stack([units[LAYOUT.owners == p].norm() for p in range(6)])
    present = [p for p in range(6) if p not in missing]
    total = each[present].norm()
    for p in missing:
        each[p], units[LAYOUT.owners == p] = math.nan, math.nan
    weights = torch.linspace(0.0, 2.0, len(units), dtype=torch.float64)
    return Norms(LAYOUT, 2.0, total, each, units, weights, present if missing else None, **more)


def scales(steps: int) -> list[float]:
    """A run with spikes, zeros, a burst, and a lasting change of level."""
    chance = random.Random(0)
    found = [math.exp(chance.gauss(0.0, 0.2)) * (3.0 if t > steps // 2 else 1.0) for t in range(steps)]
    for t in range(0, steps, 9):
        found[t] *= 50.0
    return [0.0 if t % 41 == 5 else x for t, x in enumerate(found)]


def given(steps: int) -> list[Norms]:
    """The same with what is not finite, and a loss."""
    bad = {4: math.nan, 6: math.inf, 19: -math.inf}
    return [
        norms_of(x, bad=bad.get(t, 1.0), loss=tensor(math.sin(t) - (9.0 if t == 30 else 0.0)))
        for t, x in enumerate(scales(steps))
    ]


def steps_of(policy: Policy) -> int:
    """How many steps to look at: the interpreter is slow at what goes down columns."""
    said = repr(policy)
    return 8 if "AutoClip" in said else 12 if "MedianClip" in said else 40


def has_sums(policy: Policy) -> bool:
    """Whether it takes the norm of norms, which is a sum in another order here."""
    return any(word in repr(policy) for word in ("AdaGC", "Chain", "By"))


def same(ours: Any, theirs: Any, rtol: float) -> None:
    """Hold numbers, of the host or a device, and what is made of them, to others; NaN is one number."""
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for x, y in zip(ours, theirs, strict=True):
            same(x, y, rtol)
    elif isinstance(theirs, dict):
        same([*ours, *ours.values()], [*theirs, *theirs.values()], rtol)
    elif isinstance(theirs, Tensor):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=0.0, equal_nan=True)
    else:
        assert repr(ours) == repr(theirs)  # also of NaN


def compared(policy: Policy, series: Sequence[Norms], launched: list[str], watch: Any = None) -> list[int]:
    """Hold the decisions and states of kernels to those of torch; return how many kernels each step launched."""
    stage, state, counts = Stage(policy, LAYOUT), policy.init(LAYOUT), []
    rtol = 1e-14 if has_sums(policy) else 0.0
    for norms in series:
        launched.clear()
        with watch or NoReads():
            ours = stage.decide(norms)
        counts.append(len(launched))
        theirs, state = policy.decide(norms, state)
        same(ours, theirs, rtol)
        same(pack(stage.state, LAYOUT), pack(state, LAYOUT), rtol)
    return counts


@pytest.mark.usefixtures("_exact_roots")
@pytest.mark.parametrize("name", EVERY)
def test_kernels_decide_as_torch_does(name: str, launched: list[str]) -> None:
    """Bit for bit, but for sums in another order; nothing is read, and few kernels are launched."""
    policy = EVERY[name]
    for part in policy.stages:
        counts = compared(part, given(steps_of(policy)), launched)
        assert counts[0] == 0  # where it is asked for the first time, and what is on the host still, torch does it
        assert set(counts[2:]) <= ({0} if name in TENSORS or isinstance(part, FixedValue) else {1, 2})


@pytest.mark.usefixtures("_exact_roots")
@pytest.mark.parametrize("name", ["by_name that learns", "by_group that learns", "ZClip", "AdaGC, free", "AGC of some"])
def test_parameters_without_a_gradient(name: str, launched: list[str]) -> None:
    """Each set of them is another way to ask; where there are too many, torch decides."""
    missing = [(), (2,), (0, 3), (2,), (0, 1)]
    counts = compared(EVERY[name], [norms_of(1.0 + t % 7, missing[t % 5]) for t in range(20)], launched, nullcontext())
    assert set(counts[:3]) == {0}
    assert set(counts[15:]) <= {1, 2}
    ever_others = [norms_of(1.0 + t, [p for p in range(5) if 2**p & t]) for t in range(31)]
    assert set(compared(EVERY[name], ever_others, launched, nullcontext())) == {0}


def test_a_total_norm_is_of_any_parameters(launched: list[str]) -> None:
    """A rule for it need not know which have a gradient, and one that asks is left to torch."""
    series = [norms_of(1.0 + t, [t % 5])._replace(each=None, units=None, weights=None) for t in range(9)]
    assert set(compared(ZClip(1.0), series, launched)[2:]) == {1}
    asks = Mine(lambda n: n * 2.0, lambda norms: float(len(norms.present)))
    assert set(compared(asks, series, launched)) == {0}


@pytest.mark.usefixtures("_exact_roots")
@pytest.mark.parametrize("name", ["ZClip", "AdaGC", "SpikeSkip of 9", "MedianClip of 5", "by_group that learns"])
def test_a_saved_state_goes_on(name: str, launched: list[str]) -> None:
    """From kernels to torch and back: what was learned is the same on both sides."""
    policy, series, rtol = EVERY[name], given(15), 1e-13 if has_sums(EVERY[name]) else 0.0
    stage, state = Stage(policy, LAYOUT), policy.init(LAYOUT)
    for t, norms in enumerate(series):
        if t % 5 == 4:
            state, stage = unpack(policy.init(LAYOUT), pack(stage.state, LAYOUT), LAYOUT), Stage(policy, LAYOUT)
            stage.state = unpack(stage.state, pack(state, LAYOUT), LAYOUT)
        decision, state = policy.decide(norms, state)
        same(stage.decide(norms), decision, rtol)
    assert launched


UNREAD = ["FixedNorm", "FixedValue", "AGC of some", "ZClip", "AutoClip of 5", "MedianClip of 5", "SpikeSkip of 9",
          "by_name", "by_group that learns"]  # fmt: skip


@pytest.mark.usefixtures("_exact_roots")
@pytest.mark.parametrize("is_scaled", [False, True])
@pytest.mark.parametrize("name", UNREAD)
def test_a_step_that_only_the_device_knows_of(name: str, is_scaled: bool, launched: list[str]) -> None:
    """One that does not happen multiplies by 1 and teaches nothing, unless the rule itself asks for no step."""
    policy, chance = EVERY[name], random.Random(1)
    stage, state, counts = Stage(policy, LAYOUT), policy.init(LAYOUT), []
    rtol, in_a_row = 1e-14 if has_sums(policy) else 0.0, 0.0
    for norms in given(min(12, steps_of(policy))):
        overflow = is_scaled and chance.random() < 0.2
        launched.clear()
        with NoReads():
            by_scaler = tensor(overflow) > 0.0 if is_scaled else False
            more = by_scaler, tensor(in_a_row)
            ours, stage.state, withheld = stage.fused.decide_unread(norms, stage.state, *more, skips_nonfinite=True)
        counts.append(len(launched))
        happens = math.isfinite(norms.total.item()) and not overflow
        theirs, learned = policy.decide(norms, state) if happens else (Decision(), state)
        state = learned
        skips = not happens or bool(theirs.skip)
        in_a_row = in_a_row if overflow else in_a_row + 1.0 if skips else 0.0
        assert bool(ours.skip) is skips
        assert withheld.flag.dtype == torch.float32  # type: ignore[union-attr] -- on the device
        assert (float(withheld.flag), float(withheld.in_a_row)) == (float(skips), in_a_row)
        for own, expected, if_skipped in zip(
            ours[:2] + ours[4:], theirs[:2] + theirs[4:], (1.0, None, math.inf), strict=True
        ):
            if not skips:
                same(own is None or as_float64(own), expected is None or as_float64(expected), rtol)
            elif own is not None and if_skipped is not None:
                assert bool((as_float64(own) == if_skipped).all())
        same(pack(stage.state, LAYOUT), pack(state, LAYOUT), rtol)
    assert counts[0] == 0
    assert set(counts[2:]) <= {1, 2}


def test_results_stay_as_they_are() -> None:
    """What a step returned, and learned, is not written by the next one."""
    stage, kept = Stage(chain(ZClip(1.0), AdaGC(1.0, warmup=3)), LAYOUT), []
    for norms in given(12):
        decision = stage.decide(norms)
        kept.append((decision, stage.state, copy.deepcopy((decision, pack(stage.state, LAYOUT)))))
    for decision, state, (then, packed) in kept:
        same((decision, pack(state, LAYOUT)), (then, packed), 0.0)


def test_a_copy_makes_its_own_kernels() -> None:
    """In this process or another."""
    stage = Stage(ZClip(1.0), LAYOUT)
    for norms in given(4):
        stage.decide(norms)
    for other in (copy.deepcopy(stage.fused), pickle.loads(pickle.dumps(stage.fused))):  # noqa: S301
        same(other.decide(given(5)[4], stage.state), stage.fused.decide(given(5)[4], stage.state), 1e-15)


# What torch decides.


@final
@dataclass(frozen=True)
class Mine(Policy):
    """A rule of a user, that does what no kernel is made of."""

    does: Callable[[Tensor], Tensor]
    asks: Callable[[Norms], float] = lambda _: 1.0
    counts: Callable[[Any, Any], Any] = lambda n, steps: where(isfinite(n), steps + 1.0, steps)

    def init(self, layout: Layout) -> tuple[float, float]:
        return (0.0, 0.0)

    def decide(self, norms: Norms, state: tuple[Any, float]) -> tuple[Decision, tuple[Any, float]]:
        n, (seen, steps) = norms.total, state
        level = self.does(n) * self.asks(norms)
        for _ in range(3):
            level = level * 0.5 + n * 0.5
        return Decision((level / n).clamp(max=1.0), level), (seen + level, self.counts(n, steps))


class Moved(Policy):
    """A rule that somebody changes between two steps."""

    def __init__(self) -> None:
        self.bound = 4.0

    def init(self, layout: Layout) -> tuple[()]:
        return ()

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        level = norms.total
        for _ in range(4):
            level = level * 0.5 + self.bound
        return Decision((level / norms.total).clamp(max=1.0), level), state


@pytest.mark.parametrize("wrapped", [lambda policy: policy, lambda policy: chain(ZClip(9.0), policy)])
def test_a_rule_that_may_change(wrapped: Any, launched: list[str]) -> None:
    """It is asked at every step."""
    moved = Moved()
    policy = wrapped(moved)
    stage, state = Stage(policy, LAYOUT), policy.init(LAYOUT)
    for t, norms in enumerate(given(8)):
        moved.bound = 4.0 / (1 + t)
        ours = stage.decide(norms)
        theirs, state = policy.decide(norms, state)
        same(ours, theirs, 0.0)
    assert not launched


@dataclass
class Loose:
    """What a policy may be made of, that may change."""

    factor: float = 2.0


@final
@dataclass(frozen=True)
class Made(Policy):
    """A rule that is frozen, of something that is not."""

    of: Loose

    def init(self, layout: Layout) -> tuple[()]:
        return ()

    def decide(self, norms: Norms, state: tuple[()]) -> tuple[Decision, tuple[()]]:
        level = norms.total
        for _ in range(4):
            level = level * 0.5 + self.of.factor
        return Decision((level / norms.total).clamp(max=1.0), level), state


class Added(ZClip):  # type: ignore[misc] -- whoever does so in spite of `final`
    """A frozen rule with an attribute of its own."""


@pytest.mark.parametrize("policy", [Made(Loose()), Added(9.0), chain(ZClip(9.0), Made(Loose()))])
def test_a_rule_of_what_may_change(policy: Policy, launched: list[str]) -> None:
    """Torch decides, at every step."""
    stage = Stage(policy, LAYOUT)
    for norms in given(5):
        stage.decide(norms)
    assert not launched


EACH = AutoClip(math.inf, window=5, scope="parameter")


@pytest.mark.usefixtures("_exact_roots")
@pytest.mark.parametrize(
    "policy", [chain(EACH, EACH), by_group([chain(EACH, EACH), FixedNorm(1.0, scope="parameter")])]
)
def test_a_column_of_what_comes_of_columns(policy: Policy, launched: list[str]) -> None:
    """A quantile of norms that a quantile has bounded is left to torch."""
    compared(policy, given(6), launched)


@final
@dataclass(frozen=True)
class Narrow(Policy):
    """A rule that begins with what torch makes by default, and counts by an int."""

    bounds: tuple[float, ...] = (9.0, 3.0, 2.0)

    def init(self, layout: Layout) -> tuple[Tensor, int]:
        return torch.ones(len(layout.names), device=layout.device), 0

    def decide(self, norms: Norms, state: tuple[Tensor, int]) -> tuple[Decision, tuple[Tensor, int]]:
        scale, steps = state
        level = norms.total
        for _ in range(4):
            level = level * 0.5 + self.bounds[min(steps // 2, 2) if steps < 6 else 2]
        new = scale if steps < 3 else scale.to(torch.float64) * 0.5
        return Decision((level * scale.sum() / norms.total).clamp(max=1.0), level), (new, steps + 1)


def test_a_state_of_another_dtype(launched: list[str]) -> None:
    """Kernels are of float64 numbers; an int stays one."""
    policy = Narrow()
    stage, state = Stage(policy, LAYOUT), policy.init(LAYOUT)
    for norms in given(12):
        ours = stage.decide(norms)
        theirs, state = policy.decide(norms, state)
        same(ours, theirs, 1e-14)
        assert type(stage.state[1]) is int


def numbers(*shape: int) -> Tensor:
    """Some that are told apart."""
    return torch.arange(1.0, 1.0 + math.prod(shape), dtype=torch.float64).reshape(shape)


def written_later(n: Tensor) -> Tensor:
    """Use a number, and write it."""
    other = torch.full((2,), 0.5, dtype=torch.float64)
    found = n * other
    other[:1].fill_(0.25)
    return found.sum()


def written_under_a_view(n: Tensor) -> Tensor:
    """Write numbers that a view was taken of before."""
    whole = n * torch.ones(4, dtype=torch.float64)
    seen = whole.view(2, 2)
    whole[torch.tensor([1])] = 0.5
    return seen.sum()


RULES: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "known": (lambda n: (n * -0.3).abs().sqrt(), True),
    "a view": (lambda n: torch.stack([n, n])[0].reshape(1)[0], False),
    "unknown": (lambda n: n.log1p(), False),
    "a power": (lambda n: n**3.0, False),
    "random": (lambda n: n * torch.rand_like(n).ceil(), False),
    "in place": (lambda n: n.clone().mul_(0.9), False),
    "a number that is read": (lambda n: n * (2.0 if float(n) > 3.0 else 1.0), False),
    "a branch on a number": (lambda n: n if n > 3.0 else n * 2.0, False),
    "a constant that is written": (written_later, False),
    "a view of what is written": (written_under_a_view, False),
    "several of a column": (lambda n: (n * numbers(4)).sort(0).values.gather(0, torch.tensor([1, 2])).sum(), False),
    "another dtype": (lambda n: n.to(torch.float32).to(torch.float64), True),
    "columns": (lambda n: (n * torch.ones(3, 4, dtype=torch.float64)).sum(0).sum(), True),
    "a row and a column": (lambda n: ((n * numbers(4, 1)) + (n * numbers(4, 4))).sum(), False),
    "a row for each": (lambda n: ((n * numbers(1, 4)) + (n * numbers(3, 4))).sum(), True),
    "norms of rows": (lambda n: torch.linalg.vector_norm(n * numbers(3, 4), dim=1)[1], False),
    "bits": (lambda n: n.view(torch.int64).to(torch.float64), False),
    "more than a difference": (lambda n: torch.rsub(n, 9.0, alpha=0.5), False),
    "numbers of float32": (lambda n: n * (n.to(torch.float32) * 2.5), False),
    "places from the end": (lambda n: (n * numbers(5))[torch.tensor([-1, 0, -2])].sum(), True),
    "rows": (lambda n: (n * torch.ones(3, 4, dtype=torch.float64)).sum(1).sum(), False),
}


@pytest.mark.usefixtures("_exact_roots")
@pytest.mark.parametrize("what", RULES)
def test_rules_of_users(what: str, launched: list[str]) -> None:
    """Those that are made of what is known become kernels; all others are left to torch, and nobody notices."""
    does, is_known = RULES[what]
    stage, state = Stage(Mine(does), LAYOUT), (0.0, 0.0)
    for t in range(6):
        norms = norms_of(1.0 + t)
        decision, state = Mine(does).decide(norms, state)
        same((stage.decide(norms), stage.state), (decision, state), 0.0)
    assert bool(launched) == is_known


def test_a_rule_that_fails() -> None:
    """It fails as it does without kernels."""
    stage = Stage(Mine(lambda n: n + torch.zeros(7, dtype=torch.float64)[9]), LAYOUT)
    for _ in range(3):
        with pytest.raises(IndexError, match="index 9"):
            stage.decide(norms_of(1.0))


def test_memory_that_is_short_for_a_moment(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing of a rule, whose kernels are made the next time, and not left to torch for good."""
    stage, series = Stage(ZClip(1.0), LAYOUT), given(4)
    stage.decide(series[0])
    stage.decide(series[1])
    launched.clear()
    with monkeypatch.context() as patch:
        patch.setattr(fusing.Kernels, "_memory", short_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            stage.decide(series[2])
    stage.decide(series[3])
    assert launched == ["rule"]


def short_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError


@pytest.mark.parametrize("name", ["GRADCLIP_BACKEND", "a dispatch mode", "a capture", "no dispatch modes"])
def test_where_no_kernel_is_made(name: str, launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch decides where it is asked to, where somebody traces it, and while a graph is captured."""
    monkeypatch.setattr(rule, "is_captured", lambda _: name == "a capture")
    if name == "no dispatch modes":
        monkeypatch.setattr(backend, "Rule", None)
    around = registry.forced("reference") if name.isupper() else Watching() if "mode" in name else nullcontext()
    stage = Stage(ZClip(1.0), LAYOUT)
    with around if name != "no dispatch modes" else nullcontext():
        for norms in given(4):
            stage.decide(norms)
    assert launched == []


def test_what_a_capture_may_use(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that there are."""
    stage, series = Stage(ZClip(1.0), LAYOUT), given(6)
    for norms in series[:3]:
        stage.decide(norms)
    monkeypatch.setattr(rule, "is_captured", lambda _: True)
    launched.clear()
    stage.decide(series[3])
    assert launched == ["rule"]


def test_a_history_of_all_norms(launched: list[str]) -> None:
    """It has another shape at every step: torch decides."""
    assert set(compared(AutoClip(1.0, window=None), given(8), launched)) == {0}


def test_a_loss_of_the_host(launched: list[str]) -> None:
    """It is brought to the device, in a launch of torch."""
    series = [norms_of(1.0 + t % 3, loss=float(t)) for t in range(12)]
    assert set(compared(EVERY["SpikeSkip of 9"], series, launched)[2:]) == {1}


def test_a_rule_that_counts_on_the_host(launched: list[str]) -> None:
    """It is another rule with each number, and torch decides; until it has counted enough."""
    counting = Mine(lambda n: n, counts=lambda _, steps: min(steps + 1.0, 30.0))
    counts = compared(counting, given(40), launched)
    assert set(counts[:31]) == {0} and set(counts[32:]) == {1}


@pytest.mark.parametrize("ways", [rule.MOST + 1, 24])
def test_more_ways_in_turn_than_have_kernels(ways: int, launched: list[str]) -> None:
    """As where layers are trained in turns: those that came first have them."""
    series = [norms_of(1.0 + t % 3, [p for p in range(5) if 2**p & (t % ways)]) for t in range(3 * ways)]
    counts = compared(EVERY["AGC of some"], series, launched, nullcontext())
    assert set(counts[:ways]) == {0} and sum(counts[-ways:]) == rule.MOST


# What kernels call.


@given_by(st.lists(st.floats(allow_nan=True), min_size=1, max_size=20), st.integers(0, 19))
@settings(max_examples=12)
def test_a_place_in_order(listed: list[float], place: int) -> None:
    """Any number, infinite ones, zeros of both signs and NaN, which comes last."""
    place %= len(listed)
    out = torch.empty(1, dtype=torch.float64)
    _at_place[(1,)](tensor(listed), torch.tensor([place]), out, len(listed), COUNT=32)
    expected = tensor(listed).sort().values[place]
    assert torch.equal(out[0].nan_to_num(7.0), expected.nan_to_num(7.0))


@triton.jit
def _at_place(x, place, out, n, COUNT: tl.constexpr):  # noqa: ANN001, ANN202, N803 -- Triton's language
    lanes = tl.arange(0, COUNT)
    tl.store(out, ordering.in_order(tl.load(x + lanes, mask=lanes < n, other=0), lanes < n, tl.load(place)))


def test_rules_compile_for_cards() -> None:
    """For cards of NVIDIA and AMD, with all bits of their numbers, and products rounded before they are added."""
    script = Path(__file__).with_name("compile_rules.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["cuda 90: 14 kernels", "hip gfx942: 14 kernels"]


def test_what_the_driver_cannot_be_handed() -> None:
    """A kernel of more arguments than the extension passes stays Triton's."""
    about = {
        "target": SimpleNamespace(backend="cuda", warp_size=32),
        "num_ctas": 1,
        "num_warps": 4,
        "shared": 0,
        "launch_cooperative_grid": False,
        "launch_pdl": False,
        "global_scratch_size": 0,
        "profile_scratch_size": 0,
    }
    for count in (driver.MOST, driver.MOST + 1):
        source = SimpleNamespace(signature={f"p{i}": "*fp64" for i in range(count)} | {"BLOCK": "constexpr"})
        compiled = SimpleNamespace(function=5, metadata=SimpleNamespace(**about), src=source)
        assert (driver.ready(compiled, count) is None) == (count > driver.MOST)


def test_two_kernels_at_a_time() -> None:
    """Each thread has its own lines, by a name of their own: Triton asks Python for them."""
    make = fusing.kernel_of.__wrapped__  # as where neither is remembered yet
    kernels = [make(("p0",), (torch.float64,), (f"    tl.store(p0, {number}.0)",)) for number in (1, 2)]
    names = [kernel.fn.__code__.co_filename for kernel in kernels]
    assert [linecache.getline(name, 2).strip() for name in names] == ["tl.store(p0, 1.0)", "tl.store(p0, 2.0)"]


def test_memory_of_other_dtypes() -> None:
    """The same lines are another kernel then: the driver launches what was compiled for one dtype."""

    def key(dtype: torch.dtype) -> tuple[Any, ...]:
        sizes, norms = torch.tensor([3, 4], dtype=dtype), [torch.ones(2, dtype=torch.float64)]
        graph = recording.recorded(lambda given: ([given[0] * sizes], None), norms, CPU)
        kernels = fusing.Kernels(graph, 1)
        (call,) = kernels._calls(kernels._memory(norms, CPU))
        return call.key(CPU)

    assert key(torch.int64) == key(torch.int64) != key(torch.int32)


@pytest.mark.usefixtures("_exact_roots")
def test_a_decision_by_the_driver(monkeypatch: pytest.MonkeyPatch, launched: list[str]) -> None:
    """What is compiled is launched by it: one launch, in the current stream."""
    pytest.importorskip("gradclip.ops._native")
    by = StandIn()
    monkeypatch.setattr(driver, "found", lambda: driver.Driver(*by.addresses))
    monkeypatch.setattr(launch, "_compiled", by)
    monkeypatch.setattr(launch, "current_cuda_stream", lambda _: 77)
    assert compared(ZClip(1.0, warmup=5), given(30), launched)[2:] == [1] * 28
    assert by.launched == [("rule", 1, 77)] * 28


@pytest.mark.usefixtures("_exact_roots")
def test_a_launch_is_kept(monkeypatch: pytest.MonkeyPatch, launched: list[str]) -> None:
    """For numbers at other addresses, in one stream; what it has returned stays as it was."""
    pytest.importorskip("gradclip.ops._native")
    by, written = StandIn(), list[int]()
    monkeypatch.setattr(driver, "found", lambda: driver.Driver(*by.addresses))
    monkeypatch.setattr(launch, "_compiled", by)
    monkeypatch.setattr(launch, "current_cuda_stream", lambda _: 77)
    monkeypatch.setattr(sheet, "launches_of", lambda *given: written.append(1) or launch.launches_of(*given))
    lanes = [lane.Lane(CPU, (0, stream)) for stream in (78, 79)]
    streams = iter([78] * 8 + [79] * 12 + [78] * 8)
    monkeypatch.setattr(fusing, "lane_of", lambda _: lanes[next(streams) - 78])
    compared(ZClip(1.0, warmup=5), given(30), launched)
    assert len(written) == 3  # of the first of each
    assert [stream for *_, stream in by.launched] == [77, *[78] * 7, 77, *[79] * 11, 77, *[78] * 7]
