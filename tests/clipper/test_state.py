"""A run that was stopped and goes on, for every policy; and states that belong to another."""

import copy
import io
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradclip
from clipper.training import same_bits
from gradclip import ConsecutiveSkipsError, GradClipper
from gradclip.policies import (
    AdaGC,
    AutoClip,
    Decision,
    FixedNorm,
    FixedValue,
    Layout,
    Norms,
    Policy,
    ZClip,
    by_group,
    by_name,
    chain,
    schedule,
)
from policies.cases import CASES

HISTORY = 24
"""Steps after which every policy has warmed up, and has met spikes and NaN."""

MORE = 9
"""Steps after a stop, with a spike, and mostly a NaN, among them."""

SHAPES = {"body.weight": (4, 3), "body.bias": (4,), "conv.weight": (2, 3, 2, 2), "head.weight": (2, 4), "gain": ()}

Through = Callable[[Any], Any]


def by_torch(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def by_pickle(state: Any) -> Any:
    return pickle.loads(pickle.dumps(state))  # noqa: S301 -- our own


THROUGH: dict[str, Through] = {
    "torch": by_torch,
    "json": lambda state: json.loads(json.dumps(state)),
    "pickle": by_pickle,
}


def noise(step: int) -> dict[str, torch.Tensor]:
    """Always the same numbers for a step, by name."""
    draw = torch.Generator().manual_seed(step)
    return {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}


class Run:
    """Parameters that an optimizer trains with a clipper attached, on the same gradients in every run."""

    def __init__(self, policy: Policy) -> None:
        self.parameters = {name: nn.Parameter(value) for name, value in noise(-1).items()}
        groups: list[dict[str, Any]] = [{"params": []}, {"params": []}]
        for name, p in self.parameters.items():
            groups[int(not name.startswith("body."))]["params"].append((name, p))
        self.optimizer = torch.optim.Adam(groups, lr=0.1)
        self.clipper = GradClipper(self.optimizer, policy, norms_every=3).attach(self.optimizer)
        self.steps = 0

    def train(self, first: int, last: int) -> "Run":
        for step in range(first, last):
            given, size = noise(step), 100.0 if step % 9 == 8 else 1.0
            for name, p in self.parameters.items():
                p.grad = size * given[name] + 0.01 * p.detach()
            if step % 11 == 10:
                self.parameters["gain"].grad = torch.tensor(math.nan)
            self.optimizer.step()
        self.steps = last
        return self

    def values(self) -> dict[str, Any]:
        return {name: (p.detach(), self.optimizer.state.get(p)) for name, p in self.parameters.items()}


@pytest.mark.parametrize("name", CASES)
def test_states_survive_saving(name: str) -> None:
    """Every number, in any format."""
    state = Run(CASES[name].policy).train(0, 12).clipper.state_dict()
    assert [json.dumps(through(state)) for through in THROUGH.values()] == [json.dumps(state)] * len(THROUGH)


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_goes_on_bit_for_bit(name: str) -> None:
    """Parameters, optimizer, clipper: stopped at any step, saved and loaded, all end the same."""
    whole = Run(CASES[name].policy)
    for stop in (0, MORE, HISTORY):
        whole.train(whole.steps, stop)
        saved = by_torch(whole.clipper.state_dict())
        resumed = Run(CASES[name].policy)
        for p, q in zip(resumed.parameters.values(), whole.parameters.values(), strict=True):
            p.data.copy_(q.data)
        resumed.optimizer.load_state_dict(by_torch(whole.optimizer.state_dict()))
        resumed.clipper.load_state_dict(saved)
        assert resumed.clipper.state_dict() == whole.clipper.state_dict()
        for run in (resumed, whole):
            run.train(stop, stop + MORE)
        assert same_bits(resumed.values(), whole.values())
        assert json.dumps(resumed.clipper.state_dict()) == json.dumps(whole.clipper.state_dict())


@pytest.mark.parametrize("name", CASES)
def test_copies_go_on_bit_for_bit(name: str) -> None:
    """A copy of it all is a run of its own, which ends as the first does and does not disturb it."""
    run = Run(CASES[name].policy).train(0, HISTORY)
    copies = [copied(run) for copied in (copy.deepcopy, by_pickle)]
    for other in copies:
        other.clipper.attach(other.optimizer)
        other.train(HISTORY, HISTORY + MORE)
    run.train(HISTORY, HISTORY + MORE)
    for other in copies:
        assert same_bits(other.values(), run.values()) and other.clipper.state_dict() == run.clipper.state_dict()
        assert all(p is not q for p, q in zip(run.parameters.values(), other.parameters.values(), strict=True))


def test_what_is_saved_is_plain() -> None:
    """Numbers, words, lists and dicts by name: no tensor, no class."""
    run = Run(chain(ZClip(1.0, warmup=2), AdaGC(1.0, warmup=2), AutoClip(1.0, window=4, scope="parameter")))
    state = run.train(0, 8).clipper.state_dict()

    def kinds(x: Any) -> set[type]:
        inner = x.values() if isinstance(x, dict) else x if isinstance(x, list) else ()
        return {type(x)}.union(*map(kinds, inner))

    assert kinds(state) == {dict, list, str, int, float}
    (stage,) = state["stages"]
    assert stage["policy"] == "Chain"
    assert stage["state"]["1"]["gamma"].keys() == set(SHAPES) == set(state["parameters"])
    (history,) = stage["state"]["2"].values()
    assert {name: len(norms) for name, norms in history.items()} == dict.fromkeys(SHAPES, 4)


def test_skips_in_a_row_go_on_counting() -> None:
    """A budget that was nearly spent is still so after a restart."""
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.tensor([math.nan])
    first, second = (GradClipper([("p", p)], max_consecutive_skips=2) for _ in range(2))
    first.clip()
    first.clip()
    second.load_state_dict(first.state_dict())
    with pytest.raises(ConsecutiveSkipsError, match="3 steps in a row"):
        second.clip()


def test_the_number_of_clips_goes_on() -> None:
    """So the norms of every third clip come when they would have come."""
    run = Run(FixedNorm(1.0)).train(0, 4)
    other = Run(FixedNorm(1.0))
    other.clipper.load_state_dict(run.clipper.state_dict())
    measured = []
    for step in range(4, 9):
        other.train(step, step + 1)
        assert other.clipper.last is not None
        measured.append((other.clipper.last.step, other.clipper.last.has_norms))
    assert measured == [(5, False), (6, True), (7, False), (8, False), (9, True)]


def test_bounds_are_those_of_the_new_clipper() -> None:
    """A state holds what was learned, not what was chosen."""
    run = Run(ZClip(1.0, warmup=2)).train(0, 4)
    other = Run(ZClip(0.1, warmup=2))
    other.clipper.load_state_dict(run.clipper.state_dict())
    other.train(4, 5)
    assert other.clipper.last is not None and other.clipper.last.threshold == 0.1


# States of something else.


def renamed(state: Any) -> Any:
    return json.loads(json.dumps(state).replace("gain", "loss"))


def without(key: str) -> Callable[[Any], Any]:
    return lambda state: {k: v for k, v in state.items() if k != key}


LEARNING = chain(ZClip(1.0, warmup=2), AdaGC(1.0, warmup=2))

MISMATCHES: dict[str, tuple[Policy, Policy, Callable[[Any], Any], str]] = {
    "another policy": (
        ZClip(1.0),
        AdaGC(1.0),
        lambda s: s,
        r"at policy lacks AdaGC and holds ZClip\. Make the clipper as",
    ),
    "more stages": (chain(FixedValue(1.0), ZClip(1.0)), ZClip(1.0), lambda s: s, "at policy lacks"),
    "another order": (
        chain(ZClip(1.0), FixedNorm(1.0)),
        chain(FixedNorm(1.0), ZClip(1.0)),
        lambda s: s,
        "at Chain.0 lacks",
    ),
    "other parts": (
        by_name({"body.*": ZClip(1.0)}),
        by_name({"head.*": ZClip(1.0)}),
        lambda s: s,
        r"at ByName lacks head.\* and holds body.\*",
    ),
    "a parameter more, learning": (LEARNING, LEARNING, renamed, "at parameters lacks gain and holds loss"),
    "no step": (ZClip(1.0), ZClip(1.0), without("step"), "at the top lacks step and holds nothing else"),
    "no parameters": (ZClip(1.0), ZClip(1.0), without("parameters"), "at the top lacks parameters"),
    "of an optimizer": (
        ZClip(1.0),
        ZClip(1.0),
        lambda _: torch.optim.SGD([nn.Parameter(torch.ones(1))]).state_dict(),
        "top",
    ),
    "a list": (ZClip(1.0), ZClip(1.0), lambda _: [1, 2], "at the top lacks .* and holds list"),
    "nothing": (ZClip(1.0), ZClip(1.0), lambda _: None, "at the top lacks .* and holds NoneType"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_a_state_of_something_else_is_refused(name: str) -> None:
    """The error says what differs, and nothing has changed."""
    policy, other, change, message = MISMATCHES[name]
    state = change(Run(policy).train(0, 5).clipper.state_dict())
    run = Run(other).train(0, 7)
    before = copy.deepcopy(run.clipper.state_dict())
    with pytest.raises(ValueError, match=message) as caught:
        run.clipper.load_state_dict(state)
    assert str(caught.value).startswith("`load_state_dict(state_dict=...)` must come from a clipper of the same")
    assert run.clipper.state_dict() == before


@pytest.mark.parametrize("policy", [FixedNorm(1.0), ZClip(1.0, warmup=2), by_name({"*": ZClip(1.0)})], ids=repr)
def test_what_learned_of_no_parameter_fits_any(policy: Policy) -> None:
    """A state without names, of other names."""
    state = Run(policy).train(0, 5).clipper.state_dict()
    other = Run(policy)
    other.clipper.load_state_dict(renamed(copy.deepcopy(state)))
    assert other.clipper.state_dict() == state


WRAPPED = {
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "data parallel": lambda net: nn.ModuleDict({"module": net}),
    "both": lambda net: nn.ModuleDict({"module": torch.compile(net, backend="eager")}),
    "checkpointed": lambda net: nn.ModuleDict({"_checkpoint_wrapped_module": net}),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_are_no_part_of_a_name(kind: str) -> None:
    """A state goes from a plain model to a wrapped one, and back; patterns mean the same."""

    def trained(wrap: Callable[[nn.Module], nn.Module]) -> GradClipper:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        policy = by_name({"2.*": AdaGC(1.0, warmup=1)}, default=FixedNorm(0.5))
        wrapped = wrap(net)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        clipper = GradClipper(wrapped, policy).attach(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(5, 3)).square().sum().backward()
            optimizer.step()
        return clipper

    plain, wrapped = trained(lambda net: net), trained(WRAPPED[kind])
    assert wrapped.state_dict() == plain.state_dict()
    plain.load_state_dict(wrapped.state_dict())
    wrapped.load_state_dict(plain.state_dict())


def test_a_part_that_is_replicated_keeps_its_name() -> None:
    """Whether it is replicated or not, in a model or in a list; a part that somebody calls so is none."""
    part = nn.ModuleDict({"module": nn.Linear(2, 1)})
    plain, replicated = ({"G": wrap(nn.Linear(2, 1)), "rest": part} for wrap in (lambda net: net, nn.DataParallel))
    names = ["G.weight", "G.bias", "rest.module.weight", "rest.module.bias"]
    for parts in (plain, replicated):
        assert list(gradclip.get_norms(_with_gradients(nn.ModuleDict(parts)))) == names
    listed = [nn.DataParallel(nn.DataParallel(nn.Linear(2, 1))), nn.Linear(2, 1)]
    found = gradclip.get_norms([_with_gradients(net) for net in listed])
    assert list(found) == [f"parameters[{i}].{name}" for i in range(2) for name in ("weight", "bias")]
    GradClipper(nn.ModuleDict(plain), AdaGC(1.0)).load_state_dict(
        GradClipper(nn.ModuleDict(replicated), AdaGC(1.0)).state_dict()
    )


def test_names_that_would_be_the_same_stay() -> None:
    """Where a wrapper's name tells two parameters apart."""
    net = nn.ModuleDict({"a": nn.Linear(2, 1), "_orig_mod": nn.ModuleDict({"a": nn.Linear(2, 1)})})
    names = set(gradclip.get_norms(_with_gradients(net)))
    assert names == {name for name, _ in net.named_parameters()}


def _with_gradients(net: nn.Module) -> nn.Module:
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    return net


def test_groups_must_be_as_many() -> None:
    """A state of two groups does not fit one."""
    run = Run(by_group(ZClip(1.0))).train(0, 3)
    other = GradClipper(torch.optim.SGD(list(run.parameters.items()), lr=0.1), by_group(ZClip(1.0)))
    with pytest.raises(ValueError, match="at ByGroup lacks nothing and holds group 1"):
        other.load_state_dict(run.clipper.state_dict())


def test_a_checkpoint_with_a_model(tmp_path: Path) -> None:
    """As it would be written: one file with everything, loaded without trusting it."""
    run = Run(ZClip(1.0, warmup=2)).train(0, 5)
    path = tmp_path / "checkpoint.pt"
    torch.save({"optimizer": run.optimizer.state_dict(), "clipper": run.clipper.state_dict()}, path)
    other = Run(ZClip(1.0, warmup=2))
    other.clipper.load_state_dict(torch.load(path, weights_only=True)["clipper"])
    assert other.clipper.state_dict() == run.clipper.state_dict()


def test_a_schedule_that_cannot_be_pickled() -> None:
    """Its state can be saved all the same."""
    run = Run(schedule(lambda step: FixedNorm(1.0 + step))).train(0, 5)
    other = Run(schedule(lambda step: FixedNorm(1.0 + step)))
    other.clipper.load_state_dict(by_torch(run.clipper.state_dict()))
    other.train(5, 6)
    assert other.clipper.last is not None and other.clipper.last.threshold == 6.0


def test_the_version_of_the_package_is_no_part_of_it() -> None:
    """Nor are times: saving twice gives the same bytes."""
    run = Run(LEARNING).train(0, 5)
    assert pickle.dumps(run.clipper.state_dict()) == pickle.dumps(run.clipper.state_dict())
    assert gradclip.__version__ not in json.dumps(run.clipper.state_dict())


@dataclass(frozen=True)
class Learning(Policy):
    """A rule whose state is whatever it is told."""

    begin: Any
    scope: Any = "unit"

    def init(self, layout: Layout) -> Any:
        return self.begin(layout) if callable(self.begin) else self.begin

    def decide(self, norms: Norms, state: Any) -> tuple[Decision, Any]:
        return Decision(), (norms.of_units(),) if callable(self.begin) else state


@pytest.mark.parametrize("state", [None, [1.0], {"a": 1.0}, True, "x", (1.0, None), torch.zeros(3, 2), torch.zeros(9)])
def test_a_state_that_could_not_be_loaded_is_refused_before_it_is_learned(state: Any) -> None:
    with pytest.raises(TypeError, match=r"`Learning\.init` must return numbers, tensors of one number for each"):
        GradClipper(nn.Linear(2, 3), Learning(state))


@dataclass(frozen=True)
class Flags(Policy):
    """Remember what is true of norms: of the total, as the host or a tensor has it, and of each."""

    scope: Any = "parameter"

    def init(self, layout: Layout) -> Any:
        return np.float64(0.0), 0.0, torch.tensor(False), torch.zeros(len(layout.names), dtype=torch.bool)

    def decide(self, norms: Norms, state: Any) -> tuple[Decision, Any]:
        assert norms.each is not None
        large = norms.each > 1.0
        return Decision(), (state[0] + np.float64(1.0), norms.total > 1.0, large.any(), large)


def test_what_is_true_is_saved_as_a_number() -> None:
    """Plain ones, which are loaded again."""
    model = nn.Linear(2, 3)
    clipper, other = GradClipper(model, Flags()), GradClipper(model, Flags())
    model(torch.ones(1, 2)).square().sum().mul(9.0).backward()
    clipper.clip()
    saved = by_torch(clipper.state_dict())
    state = saved["stages"][0]["state"]
    assert [state[key] for key in "012"] == [1.0, 1.0, 1.0]
    assert set(map(type, [*map(state.get, "012"), *state["3"].values()])) == {float}
    other.load_state_dict(json.loads(json.dumps(saved)))
    assert other.state_dict() == saved


def test_a_number_for_each_unit_is_saved_by_the_name_of_its_parameter() -> None:
    policy = Learning(lambda layout: (torch.zeros(sum(layout.units), dtype=torch.float64),))
    model = nn.Linear(2, 3)
    clipper = GradClipper(model, policy)
    model(torch.ones(1, 2)).sum().backward()
    clipper.clip()
    saved = json.loads(json.dumps(clipper.state_dict()))
    found = saved["stages"][0]["state"]["0"]
    assert {name: len(numbers) for name, numbers in found.items()} == {"weight": 3, "bias": 1}
    assert found["weight"] == pytest.approx([math.sqrt(2.0)] * 3)
    other = GradClipper([("bias", model.bias), ("weight", model.weight)], policy)
    other.load_state_dict(saved)
    assert other.state_dict()["stages"] == saved["stages"]
    found["weight"].pop()
    with pytest.raises(ValueError, match="must have lists of"):
        GradClipper(model, policy).load_state_dict(saved)
