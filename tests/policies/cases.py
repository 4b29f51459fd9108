"""All policies in one table with what they promise, a small model, and series of norms to drive them by."""

import functools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

import gradclip
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    BlockRMS,
    Decision,
    FixedNorm,
    FixedValue,
    Layout,
    MedianClip,
    Normalize,
    Norms,
    Policy,
    SmoothNorm,
    SpikeSkip,
    ZClip,
    by_group,
    by_name,
    chain,
    schedule,
    warmup,
)


@dataclass(frozen=True)
class Case:
    """A policy with its documented traits.

    Attributes:
        policy: The policy, with a bound of 1 or so where it takes one, and a short warm-up.
        scope: What keeps its direction: the whole gradient, each parameter, each unit, or nothing (`"element"`).
        idle: Whether gradients below the bound stay as they are, byte for byte.
        bound: A norm, of the order of the policy, that no whole gradient exceeds afterwards.
        free: The same rule without any absolute number, where it learns: its decisions do not depend on the scale.
        unlocks: How many steps after a lasting threefold rise the free rule clips as rarely as before, or None.
    """

    policy: Policy
    scope: Literal["total", "parameter", "unit", "element"] = "total"
    idle: bool = True
    bound: float | None = None
    free: Policy | None = None
    unlocks: int | None = None

    @property
    def history(self) -> int:
        """Steps after which the policy has warmed up."""
        return 1 if self.free is None else 30


def falling(step: int) -> Policy:
    """A bound that comes down from 2 to 1."""
    return FixedNorm(1.0 + 0.9**step)


CASES = {
    "FixedNorm": Case(FixedNorm(1.0), bound=1.0),
    "FixedNorm p=1": Case(FixedNorm(1.0, 1.0), bound=1.0),
    "FixedNorm p=inf": Case(FixedNorm(1.0, math.inf), bound=1.0),
    "FixedNorm each": Case(FixedNorm(1.0, scope="parameter"), "parameter"),
    "FixedValue": Case(FixedValue(0.1), "element", bound=0.1),
    "BlockRMS": Case(BlockRMS(0.1), "parameter"),
    "AGC": Case(AGC(), "unit"),
    "SmoothNorm sqrt": Case(SmoothNorm(1.0), idle=False, bound=1.0),
    "SmoothNorm rational": Case(SmoothNorm(1.0, "rational"), idle=False, bound=1.0),
    "SmoothNorm tanh": Case(SmoothNorm(1.0, "tanh"), idle=False, bound=1.0),
    "Normalize": Case(Normalize(), idle=False, bound=1.0),
    "Normalize each": Case(Normalize(scope="parameter"), "parameter", idle=False),
    "AutoClip": Case(
        AutoClip(1.0), bound=1.0, free=AutoClip(math.inf, percentile=90.0, window=50, eps=0.0), unlocks=20
    ),
    "AutoClip each": Case(
        AutoClip(1.0, percentile=90.0, include_current=False, scope="parameter"),
        "parameter",
        free=AutoClip(math.inf, percentile=90.0, window=50, include_current=False, eps=0.0, scope="parameter"),
        unlocks=20,
    ),
    "MedianClip": Case(MedianClip(1.0), bound=1.0, free=MedianClip(math.inf, window=50, eps=0.0), unlocks=30),
    "ZClip": Case(ZClip(1.0), bound=1.0, free=ZClip(math.inf, warmup=20, eps=0.0), unlocks=40),
    "AdaGC": Case(AdaGC(1.0, warmup=20), "parameter", bound=1.0, free=AdaGC(math.inf, warmup=20, eps=0.0), unlocks=250),
    "SpikeSkip": Case(SpikeSkip(1.0), bound=1.0, free=SpikeSkip(math.inf, warmup=20), unlocks=25),
    "warmup": Case(warmup(1000, FixedNorm(1.0)), bound=1.0),
    "schedule": Case(schedule(falling), bound=2.0),
    "chain": Case(chain(FixedNorm(2.0, scope="parameter"), FixedNorm(1.0)), "parameter", bound=1.0),
    "chain of two stages": Case(chain(FixedValue(0.1), FixedNorm(0.2)), "element", bound=0.2),
    "chain that learns": Case(
        chain(warmup(20, FixedNorm(1.0)), ZClip(1.0), AdaGC(1.0, warmup=20)),
        "parameter",
        bound=1.0,
        free=chain(ZClip(math.inf, warmup=20, eps=0.0), AdaGC(math.inf, warmup=20, eps=0.0)),
        unlocks=250,
    ),
    "by_name": Case(by_name({"body.*": FixedNorm(1.0), "*.weight": AGC()}, default=BlockRMS(0.1)), "unit"),
    "by_name that learns": Case(
        by_name({"body.*": ZClip(1.0)}, default=AdaGC(1.0, warmup=20)),
        "parameter",
        free=by_name({"body.*": ZClip(math.inf, warmup=20, eps=0.0)}, default=AdaGC(math.inf, warmup=20, eps=0.0)),
        unlocks=250,
    ),
    "by_group": Case(by_group(FixedNorm(1.0)), "parameter"),
    "by_group that learns": Case(
        by_group([ZClip(1.0), MedianClip(1.0)]),
        "parameter",
        free=by_group([ZClip(math.inf, warmup=20, eps=0.0), MedianClip(math.inf, window=50, eps=0.0)]),
        unlocks=40,
    ),
}

LEARNING = {name: case.free for name, case in CASES.items() if case.free is not None}

# A model of six parameters in two groups, one of them empty.

SHAPES = {
    "body.weight": (4, 3),
    "body.bias": (4,),
    "conv.weight": (2, 3, 2, 2),
    "head.weight": (2, 4),
    "head.empty": (0, 4),
    "gain": (),
}
SIZES = {"body.weight": 1.0, "body.bias": 0.3, "conv.weight": 2.0, "head.weight": 0.1, "head.empty": 1.0, "gain": 3.0}
GROUPS = {name: int(not name.startswith("body.")) for name in SHAPES}

Named = dict[str, Parameter]
Gradients = dict[str, Tensor]


def model(names: Iterable[str] = SHAPES, dtype: torch.dtype = torch.float64) -> Named:
    """The parameters, always of the same values, in an order of names."""
    draw = torch.Generator().manual_seed(0)
    values = {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in SHAPES.items()}
    return {name: Parameter(values[name].to(dtype)) for name in names}


def gradients(step: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Gradients:
    """The gradients of a step, always the same: of norms between about 0.3 and 10 before scaling."""
    return {name: (value * scale).to(dtype) for name, value in _drawn(step).items()}


@functools.cache
def _drawn(step: int) -> Gradients:
    draw = torch.Generator().manual_seed(1 + step)
    return {
        name: torch.randn(shape, generator=draw, dtype=torch.float64) * SIZES[name] for name, shape in SHAPES.items()
    }


def clipper_of(policy: Policy, parameters: Named, **arguments: Any) -> gradclip.GradClipper:
    """A clipper of named parameters in two groups."""
    groups: list[dict[str, Any]] = [{"params": []}, {"params": []}]
    for name, parameter in parameters.items():
        groups[GROUPS[name]]["params"].append((name, parameter))
    return gradclip.GradClipper(torch.optim.SGD(groups, lr=0.1), policy, **arguments)


def clip(clipper: gradclip.GradClipper, parameters: Named, given: Gradients) -> tuple[gradclip.ClipResult, Gradients]:
    """Clip copies of gradients, of the parameters that have one; return the result, and what was left of them."""
    for name, parameter in parameters.items():
        parameter.grad = given[name].clone() if name in given else None
    result = clipper.clip()
    left = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return result, left


# Norms alone, for rules that are driven without a model.

LAYOUT = Layout(("body.weight", "head.weight", "gain"), (1, 1, 1), (1, 1, 1), groups=(0, 1, 1), group_count=2)


def series(steps: int, *, spread: float = 0.1, spikes: Iterable[int] = (), rise: int | None = None) -> list[float]:
    """Log-normal norms of median 1, times 100 at the spikes, and times 3 from the rise on."""
    chance = random.Random(steps)
    high = set(spikes)
    norms = [math.exp(chance.gauss(0.0, spread)) * (100.0 if t in high else 1.0) for t in range(steps)]
    return norms if rise is None else [*norms[:rise], *(3.0 * n for n in norms[rise:])]


def norms_of(total: float, *, on_host: bool = True, bad: float = 1.0) -> Norms:
    """The norms of a step whose three parameters share the total norm as 2 : 1 : 2; one may have a bad norm."""
    each = torch.tensor([2.0, 1.0 * bad, 2.0], dtype=torch.float64) * (total / 3.0)
    whole = total * bad if on_host else torch.tensor(total * bad, dtype=torch.float64)
    return Norms(LAYOUT, 2.0, whole, each)


def decide_all(
    policy: Policy, totals: Sequence[float], state: Any = None, of: Callable[[float], Norms] = norms_of
) -> tuple[list[Decision], Any]:
    """The decisions about a series of norms, and the state after it."""
    state = policy.init(LAYOUT) if state is None else state
    decisions = []
    for total in totals:
        decision, state = policy.decide(of(total), state)
        decisions.append(decision)
    return decisions, state


def numbers(decisions: Iterable[Decision]) -> tuple[Tensor, Tensor, list[bool]]:
    """The coefficients, the thresholds and the skips of decisions, as numbers."""
    listed = list(decisions)
    coefs, thresholds = (
        torch.stack([torch.as_tensor(x, dtype=torch.float64).expand(3) for x in column])
        for column in ([d.coef for d in listed], [d.threshold for d in listed])
    )
    return coefs, thresholds, [bool(decision.skip) for decision in listed]


def is_clipped(decision: Decision) -> bool:
    """Whether most of the gradient is made smaller, or the step is skipped."""
    return bool(decision.skip) or float(torch.as_tensor(decision.coef, dtype=torch.float64).median()) < 1.0
