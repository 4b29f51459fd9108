"""A script that calls torch's functions calls ours, wherever it has them from, and everything is put back."""

import contextlib
import functools
import gc
import inspect
import math
import sys
import time
import weakref
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn.utils import clip_grad
from torch.utils.flop_counter import FlopCounterMode

import gradclip
import rank_functions
from gradclip.patching.clippers import IDLE
from gradclip.patching.places import originals
from gradclip.policies import FixedNorm, MedianClip, Policy, ZClip, by_group
from gradclip.records import Memory
from gradclip.testing import RankPool
from processes import forked, printed

TORCHS = {name: getattr(nn.utils, name) for name in ("clip_grad_norm_", "clip_grad_value_", "get_total_norm")}


def huge() -> nn.Parameter:
    """A gradient whose norm is infinite to torch."""
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3e20, 4e20])
    return p


@pytest.fixture
def importer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that has imported torch's function by a name of its own."""
    module = ModuleType("importer")
    module.clip = nn.utils.clip_grad_norm_
    monkeypatch.setitem(sys.modules, "importer", module)
    return module


def test_every_name_is_reached(importer: ModuleType) -> None:
    """In torch, in its module, and where it was imported; afterwards, all are torch's again."""
    with gradclip.patch() as patched:
        for clip in (nn.utils.clip_grad_norm_, clip_grad.clip_grad_norm_, importer.clip):
            p = huge()
            assert clip([p], 1.0).item() == pytest.approx(5e20)
            assert p.grad.tolist() == pytest.approx([0.6, 0.8])
        assert {"torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad.clip_grad_norm_"} < set(patched.places)
        assert "importer.clip" in patched.places
        assert nn.utils.get_total_norm(tensors=[huge().grad]).item() == pytest.approx(5e20)
        assert nn.utils.clip_grad_norm_.__name__ == "clip_grad_norm_"
    assert {name: getattr(nn.utils, name) for name in TORCHS} == TORCHS
    assert importer.clip is clip_grad.clip_grad_norm_ is TORCHS["clip_grad_norm_"]
    assert nn.utils.clip_grad_norm_([huge()], 1.0).item() == math.inf


def test_arguments_go_as_they_are() -> None:
    """By place and by name, generators too; and what torch raises for, ours does."""
    with gradclip.patch():
        model = nn.Linear(3, 2)
        model(torch.ones(4, 3)).sum().backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        expected = torch.linalg.vector_norm(torch.cat([x.flatten() for x in gradients]), 3.0)
        norm = nn.utils.clip_grad_norm_(parameters=(p for p in model.parameters()), max_norm=0.1, norm_type=3.0)
        assert norm.item() == pytest.approx(expected.item())
        nn.utils.clip_grad_value_(model.parameters(), clip_value=0.01)
        assert max(p.grad.abs().max().item() for p in model.parameters()) <= 0.01
        nn.utils.clip_grads_with_norm_(model.parameters(), 0.5, torch.tensor(1.0))
        with pytest.raises(RuntimeError, match="non-finite"):
            nn.utils.clip_grad_norm_([_bad()], 1.0, error_if_nonfinite=True)
        with pytest.warns(FutureWarning, match="deprecated"):
            nn.utils.clip_grad_norm([huge()], 1.0)


@pytest.mark.parametrize("sinks", [[], [Memory()]], ids=["plain", "recorded"])
@pytest.mark.parametrize("name", ["clip_grad_norm_", "clip_grad_value_"])
def test_an_exhausted_iterator_is_told_of_once(name: str, sinks: list[Memory]) -> None:
    """As without a patch: torch tells of a generator, and ours of other iterators too."""
    model = nn.Linear(3, 2)
    exhausted = [model.parameters(), filter(torch.is_tensor, model.parameters())]
    for iterator in exhausted:
        assert len(list(iterator)) == 2
    with gradclip.patch(sinks=sinks):
        for iterator, kind in zip(exhausted, ("empty generator", "exhausted filter"), strict=True):
            with pytest.warns(UserWarning, match=kind) as told:
                getattr(nn.utils, name)(iterator, 1.0)
            assert [warning.filename for warning in told] == [__file__]


@pytest.mark.parametrize("sinks", [[], [Memory()]], ids=["plain", "recorded"])
@pytest.mark.parametrize("module", [nn.utils, gradclip], ids=["torch's", "ours"])
def test_iterators_in_a_list_are_walked_as_often_as_needed(module: Any, sinks: list[Memory]) -> None:
    """Whether a call measures, limits elements or clips."""
    model = nn.Linear(3, 2)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with gradclip.patch(sinks=sinks):
        assert module.clip_grad_norm_([model.parameters()], math.inf).item() == pytest.approx(8**0.5)
        module.clip_grad_value_([model.parameters()], 0.5)
        assert module.clip_grad_norm_([model.parameters()], 1.0).item() == pytest.approx(2**0.5)
        assert gradclip.get_total_norm([p.grad for p in model.parameters()]).item() == pytest.approx(1.0)


def _bad() -> nn.Parameter:
    p = huge()
    p.grad[0] = math.nan
    return p


WRONG_CALLS = [
    ((), {}),
    ((), {"max_norm": 1.0}),
    ((), {"parameters": [], "function": 1}),
    (([],), {}),
    (([],), {"parameters": []}),
    (([],), {"tensors": []}),
    (([], 1.0), {"max_norm": 1.0, "clip_value": 1.0, "norm_type": 2.0}),
    (([], 1.0), {"max_nrom": 1.0}),
    (([], 1.0, 2.0), {"function": "clip_grad_norm_"}),
    (([], 1.0, 2.0, False, None, None), {}),
]


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("sinks", [[], [Memory()]], ids=["plain", "recorded"])
@pytest.mark.parametrize("name", sorted(originals()))
def test_a_wrong_call_is_the_error_that_it_is_to_torch(name: str, sinks: list[Memory], depth: int) -> None:
    """Whatever is missing, unknown or there twice: in torch's own words, and under its own names."""

    def complaint(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        try:
            getattr(nn.utils, name)(*args, **kwargs)
        except TypeError as error:
            return str(error)
        return ""

    def complaints() -> list[str]:
        return [complaint(*call) for call in WRONG_CALLS]

    expected, signature = complaints(), inspect.signature(getattr(nn.utils, name))
    assert sum(map(bool, expected)) >= len(WRONG_CALLS) - 2
    with gradclip.patch(sinks=sinks), gradclip.patch(FixedNorm(1.0)) if depth > 1 else contextlib.nullcontext():
        assert complaints() == expected
        assert inspect.signature(getattr(nn.utils, name)) == signature


def test_twice_is_once() -> None:
    """With the same arguments; with others, these hold until their end. To undo what is not done is nothing."""
    try:
        first = gradclip.patch(ZClip(1.0))
        with gradclip.patch(ZClip(1.0)) as second:
            assert second is first
        ours = nn.utils.clip_grad_norm_
        assert ours is not TORCHS["clip_grad_norm_"]
        with gradclip.patch():
            assert nn.utils.clip_grad_norm_ is not ours
        assert nn.utils.clip_grad_norm_ is ours
    finally:
        gradclip.unpatch()
    gradclip.unpatch()
    assert nn.utils.clip_grad_norm_ is TORCHS["clip_grad_norm_"]
    with pytest.raises(TypeError, match=r"`patch\(\)` must be given policies, got 1\.0"):
        gradclip.patch(1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"`patch\(sinks=\.\.\.\)` must hold callables"):
        gradclip.patch(sinks=[1])  # type: ignore[list-item]


def test_all_that_hold_are_put_back() -> None:
    """The last first: each gives back what it found."""
    for policy in (None, ZClip(1.0), FixedNorm(1.0)):
        gradclip.patch(policy)
    gradclip.unpatch()
    assert {name: getattr(nn.utils, name) for name in TORCHS} == TORCHS
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.full((1,), 9.0)
    torch.optim.SGD([p], lr=1.0).step()
    assert p.item() == -9.0


@pytest.mark.usefixtures("scalers_of_torch")
@pytest.mark.parametrize("second", [None, FixedNorm(1.0)], ids=["none", "fixed"])
def test_a_patch_that_ends_before_one_made_later_leaves_nothing_behind(second: FixedNorm | None) -> None:
    """Neither of torch's, nor of ours, nor of scalers."""
    ours, scalers = gradclip.clip_grad_norm_, torch.amp.GradScaler.step
    first, later = gradclip.patch(FixedNorm(0.5)), gradclip.patch(second)
    first.undo()
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.full((1,), 9.0)
    nn.utils.clip_grad_norm_([p], 3.0)
    assert p.grad.item() == pytest.approx(3.0 if second is None else 1.0)
    later.undo()
    assert {name: getattr(nn.utils, name) for name in TORCHS} == TORCHS
    assert gradclip.clip_grad_norm_ is ours and torch.amp.GradScaler.step is scalers


def test_what_is_imported_meanwhile_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where somebody has kept our function, it calls torch's afterwards."""
    late = ModuleType("late")
    with gradclip.patch(FixedNorm(0.1)):
        late.clip = kept = nn.utils.clip_grad_norm_
        monkeypatch.setitem(sys.modules, "late", late)
    assert late.clip is TORCHS["clip_grad_norm_"]
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.full((2,), 10.0)
    kept([p], 5.0)
    assert p.grad.norm().item() == pytest.approx(5.0)


def test_what_replaced_ours_stays() -> None:
    """Somebody else's function is not overwritten."""

    def other() -> None:
        """Clip otherwise."""

    try:
        gradclip.patch()
        nn.utils.clip_grad_norm_ = other
        gradclip.unpatch()
        assert nn.utils.clip_grad_norm_ is other
    finally:
        nn.utils.clip_grad_norm_ = TORCHS["clip_grad_norm_"]


@pytest.mark.filterwarnings("ignore:.* could not reach torch's function in an attribute of clip_grad_norm_")  # wrapped
@pytest.mark.parametrize("wrap", [lambda x: x, functools.wraps(TORCHS["clip_grad_norm_"])], ids=["plain", "wrapped"])
def test_what_others_have_put_in_the_place_of_torchs_function_stays(importer: ModuleType, wrap: Any) -> None:
    """It is called as before, and ours by it."""
    called = []

    @wrap
    def guarded(*args: Any) -> Tensor:
        called.append(args)
        return importer.clip(*args)

    nn.utils.clip_grad_norm_ = guarded
    try:
        with gradclip.patch() as patched, gradclip.patch(sinks=[memory := Memory()]):
            assert nn.utils.clip_grad_norm_([p := huge()], 1.0).item() == pytest.approx(5e20)
            assert p.grad.tolist() == pytest.approx([0.6, 0.8])
            assert nn.utils.clip_grad_norm_ is guarded
        assert "torch.nn.utils.clip_grad_norm_" not in patched.places
        assert nn.utils.clip_grad_norm_ is guarded
    finally:
        nn.utils.clip_grad_norm_ = TORCHS["clip_grad_norm_"]
    assert len(called) == len(memory.records) == 1
    assert importer.clip is clip_grad.clip_grad_norm_ is TORCHS["clip_grad_norm_"]


def test_what_cannot_be_reached_is_said() -> None:
    """A class, a closure, a default, a partial function."""

    def held(clip: Any) -> list[Any]:
        holder = type("Holder", (), {"clip": staticmethod(clip)})
        return [functools.partial(clip, max_norm=1.0), lambda p, own=clip: own(p, 1.0), lambda p: clip(p, 1.0), holder]

    kept = held(nn.utils.clip_grad_norm_)
    with pytest.warns(UserWarning, match=r"could not reach torch's function in .*a class.*\. Call it before"):
        patched = gradclip.patch()
    patched.undo()
    assert {"a closure", "a default argument", "a partial", "an attribute of a class"} <= set(patched.unreached)
    with pytest.raises(UserWarning, match="could not reach"):  # where warnings are errors
        gradclip.patch()
    assert nn.utils.clip_grad_norm_ is TORCHS["clip_grad_norm_"]
    del kept
    gc.collect()


# Records, and a policy in place of the caller's bound.


def train(steps: int, max_norm: float | None, *, optimizers: int = 1, seed: int = 0) -> list[list[Tensor]]:
    """A loop that knows nothing of gradclip; return the gradients that each step saw."""
    torch.manual_seed(seed)
    models = [nn.Linear(3, 2) for _ in range(optimizers)]
    stepping = [torch.optim.SGD(model.parameters(), lr=0.01) for model in models]
    seen: list[list[Tensor]] = []
    for _ in range(steps):
        for model, optimizer in zip(models, stepping, strict=True):
            optimizer.zero_grad()
            model(torch.randn(8, 3)).square().sum().backward()
            if max_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            seen.append([p.grad.clone() for p in model.parameters()])
    return seen


def norm_of(gradients: list[Tensor]) -> float:
    return math.sqrt(sum(x.double().square().sum().item() for x in gradients))


def test_a_record_of_every_call() -> None:
    """With the bound of the caller; clipped as without records."""
    records = Memory()
    expected = train(5, 1.0)
    with gradclip.patch(sinks=[records]):
        seen = train(5, 1.0)
    for own, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
    assert [record.step for record in records.records] == [1, 2, 3, 4, 5]
    assert {record.threshold for record in records.records} == {1.0}
    assert all(record.total_norm > 1.0 and record.clipped for record in records.records)


@pytest.mark.parametrize("policy", [None, FixedNorm(0.25)])
def test_a_call_by_a_norm_known_already_is_recorded(policy: FixedNorm | None) -> None:
    """As torchtitan clips, in two calls: with the norm that was given, clipped by it, and once a step."""
    records = Memory()
    bound = 0.25 if policy else 1.0
    with gradclip.patch(policy, sinks=[records]):
        p = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([p], lr=0.1)
        for _ in range(3):
            p.grad = torch.tensor([3.0, 4.0])
            norm = 2.0 * nn.utils.get_total_norm([p.grad])  # with the share of another stage
            nn.utils.clip_grads_with_norm_([p], 1.0, norm)
            optimizer.step()
            assert p.grad.norm().item() == pytest.approx(bound / 2.0, rel=1e-5)
    found = [(record.step, record.total_norm, record.total_norm_after) for record in records.records]
    assert found == [(step, 10.0, pytest.approx(bound, rel=1e-5)) for step in (1, 2, 3)]


@pytest.mark.parametrize("policy", [None, FixedNorm(0.25)])
def test_a_call_of_ours_is_recorded_as_one_of_torchs(policy: FixedNorm | None) -> None:
    """With the norm before, once a step, and by the policy; what torch's function has no word for stays as it is."""
    records, ours = Memory(), gradclip.clip_grad_norm_
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with gradclip.patch(policy, sinks=[records]):
        for _ in range(3):
            p.grad = torch.tensor([3.0, 4.0])
            assert gradclip.clip_grad_norm_([p], max_norm=0.5).item() == 5.0
            optimizer.step()
        bound = 0.25 if policy else 0.5
        assert p.grad.norm().item() == pytest.approx(bound, rel=1e-5)
        p.grad = torch.tensor([math.nan, 4.0])
        assert gradclip.clip_grad_norm_([p], 1.0, nonfinite="sanitize").item() == 4.0
    found = [(record.step, record.total_norm, record.total_norm_after) for record in records.records]
    assert found == [(step, 5.0, pytest.approx(bound, rel=1e-5)) for step in (1, 2, 3)]
    assert gradclip.clip_grad_norm_ is ours
    with gradclip.patch():
        assert gradclip.clip_grad_norm_ is ours


@pytest.mark.parametrize("policy", [None, FixedNorm(0.25)])
@pytest.mark.parametrize("clips", [True, False])
def test_a_call_that_measures_is_no_clip(policy: FixedNorm | None, clips: bool) -> None:
    """By an infinite bound, before or after the clip: each step is clipped and recorded once, by its own norm."""
    records = Memory()
    bound = 0.25 if policy else 0.5 if clips else 5.0
    with gradclip.patch(policy, sinks=[records]):
        p = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([p], lr=0.1)
        for _ in range(3):
            p.grad = torch.tensor([3.0, 4.0])
            assert nn.utils.clip_grad_norm_([p], math.inf).item() == 5.0
            if clips:
                assert nn.utils.clip_grad_norm_([p], 0.5).item() == 5.0
                assert nn.utils.clip_grad_norm_([p], math.inf).item() == pytest.approx(bound, rel=1e-5)
            optimizer.step()
            assert p.grad.norm().item() == pytest.approx(bound, rel=1e-5)
    found = [(record.step, record.total_norm, record.total_norm_after) for record in records.records]
    assert found == [(step, 5.0, pytest.approx(bound, rel=1e-5)) for step in (1, 2, 3)]


def test_a_policy_decides_once_where_a_call_comes_twice() -> None:
    """As of who asks for the norm by a bound that nothing exceeds: the second one measures what is left."""
    records = Memory()
    with gradclip.patch(MedianClip(math.inf, scale=1.0, warmup=2), sinks=[records]):
        p = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([p], lr=0.0)
        for step in range(6):
            p.grad = torch.tensor([3.0, 4.0]) * (step + 1)
            assert nn.utils.clip_grad_norm_([p], 1e9).item() == pytest.approx(5.0 * (step + 1))
            left = p.grad.clone()
            assert nn.utils.clip_grad_norm_([p], 1.0, "inf").item() == pytest.approx(left.max().item())
            assert torch.equal(p.grad, left)
            optimizer.step()
    assert [record.total_norm for record in records.records] == pytest.approx([5.0 * (i + 1) for i in range(6)])


@pytest.mark.parametrize("others_have", [True, False])
def test_a_second_call_clips_what_has_changed_since_the_first(others_have: bool) -> None:
    """Be it one gradient of very many, as of a head, with all others as they were, or gone."""
    with gradclip.patch(FixedNorm(0.5)):
        parameters = [nn.Parameter(torch.ones(2)) for _ in range(40)]
        for changed in parameters:
            for p in parameters:
                p.grad = torch.ones(2)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for p in parameters:
                p.grad = torch.ones(2) * 9.0 if p is changed else p.grad if others_have else None
            nn.utils.clip_grad_norm_(parameters, 1.0)
            assert changed.grad is not None
            assert changed.grad.norm().item() == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize("policy", [None, FixedNorm(0.5)], ids=["recorded", "by a policy"])
@pytest.mark.parametrize("module", [nn.utils, gradclip], ids=["torch's", "ours"])
def test_a_bound_on_elements_after_a_clip_is_part_of_it(module: Any, policy: FixedNorm | None) -> None:
    """Each step is recorded, and decided by a policy, once; so is one with such a bound alone, by the norm after it."""
    records = Memory()
    with gradclip.patch(policy, sinks=[records]):
        p = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([p], lr=0.0)
        for step in range(4):
            p.grad = torch.tensor([3.0, 4.0])
            if step < 3:
                nn.utils.clip_grad_norm_([p], 0.5)
            module.clip_grad_value_([p], 0.1)
            optimizer.step()
            assert p.grad.tolist() == pytest.approx([0.1, 0.1])
    found = [record.total_norm for record in records.records]
    assert found == pytest.approx([5.0, 5.0, 5.0, 0.1 * math.sqrt(2.0)])


def test_a_record_of_every_step_of_who_does_not_clip() -> None:
    """And nothing is changed; two optimizers are told apart."""
    records = Memory()
    expected = train(4, None, optimizers=2)
    with gradclip.patch(sinks=[records]):
        seen = train(4, None, optimizers=2)
    assert all(torch.equal(a, b) for x, y in zip(seen, expected, strict=True) for a, b in zip(x, y, strict=True))
    assert [(r.step, r.group) for r in list(records.records)[:4]] == [
        (1, None),
        (1, "parameters 2"),
        (2, None),
        (2, "parameters 2"),
    ]
    norms = [record.total_norm for record in records.records]
    assert norms == pytest.approx([norm_of(x) for x in expected], rel=1e-12)
    assert records.records[0].lr == 0.01
    train(1, None)
    assert len(records.records) == 8  # it has ended


@pytest.mark.parametrize("max_norm", [None, 100.0])
def test_a_policy_in_place_of_the_callers_bound(max_norm: float | None) -> None:
    """Whether the script clips or not."""
    with gradclip.patch(FixedNorm(0.25)):
        for gradients in train(4, max_norm):
            assert norm_of(gradients) == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("policy", [None, FixedNorm(0.5)])
def test_a_norm_that_is_not_finite_is_the_error_that_it_is_to_torch(policy: FixedNorm | None) -> None:
    """In the words that callers look for, of arguments that they have; nothing is changed, and the next call clips."""
    p = _bad()
    with gradclip.patch(policy, sinks=[memory := Memory()]):
        with pytest.raises(RuntimeError, match="order 2.0 for gradients from `parameters` is non-finite, .* para"):
            nn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
        assert p.grad[1].item() == pytest.approx(4e20)
        p.grad = torch.ones(2)
        nn.utils.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert memory.records[-1].total_norm == pytest.approx(math.sqrt(2.0))


def test_a_bad_step_does_not_happen_under_a_policy() -> None:
    """As with a clipper."""
    with gradclip.patch(FixedNorm(1.0)):
        for calls in (True, False):
            p = nn.Parameter(torch.ones(2))
            optimizer = torch.optim.SGD([p], lr=1.0)
            p.grad = torch.tensor([math.nan, 1.0])
            if calls:
                nn.utils.clip_grad_norm_([p], 1.0)
            optimizer.step()
            assert p.tolist() == [1.0, 1.0]


def test_a_scaled_loss_is_recorded_unscaled() -> None:
    """Though nobody calls `unscale_`."""
    records = Memory()
    with gradclip.patch(sinks=[records]):
        p = nn.Parameter(torch.ones(2))
        optimizer, scaler = torch.optim.SGD([p], lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)
        scaler.scale((p * torch.tensor([3.0, 4.0])).sum()).backward()
        scaler.step(optimizer)
    assert [record.total_norm for record in records.records] == [5.0]


def test_a_scaler_of_another_epoch_is_not_asked() -> None:
    """The loss is scaled at first, and not any more: records change nothing of that."""
    p = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=0.0)
    with gradclip.patch(sinks=[Memory()]):
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(p.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        p.sum().backward()
        optimizer.step()
    assert p.grad.item() == 1.0


@pytest.mark.parametrize("clips", [lambda step: step >= 2, lambda step: step % 2 == 0, lambda step: True])
@pytest.mark.parametrize("in_closure", [False, True])
def test_every_step_is_clipped_and_recorded_once(clips: Any, in_closure: bool) -> None:
    """By the call where there is one, which may be in a closure as in Lightning, and else before the step."""
    records = Memory()
    p = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], lr=0.0)

    def closure(step: int) -> Tensor:
        optimizer.zero_grad()
        loss = (p * float(step + 2)).sum()
        loss.backward()
        if clips(step):
            nn.utils.clip_grad_norm_([p], 0.5)
        return loss

    with gradclip.patch(sinks=[records]):
        for step in range(6):
            if in_closure:
                optimizer.step(lambda step=step: closure(step))
            else:
                closure(step)
                optimizer.step()
    found = [record.total_norm for record in records.records]
    assert found == pytest.approx([math.sqrt(3.0) * (step + 2) for step in range(6)], rel=1e-12)


def test_parameters_one_by_one() -> None:
    """A rule that learns of each goes on with it, however many there are."""
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(40)]
    records = Memory()
    with gradclip.patch(ZClip(1.0), sinks=[records]):
        for _ in range(4):
            for p in parameters:
                p.grad = torch.ones(2)
                nn.utils.clip_grad_norm_(p, 0.5)
    assert [record.step for record in records.records] == [step for step in (1, 2, 3, 4) for _ in parameters]


@pytest.mark.parametrize("begins", [0, 4, 20], ids=["calls", "both", "steps"])
def test_a_rule_goes_on_whether_the_script_clips_a_step_or_not(begins: int) -> None:
    """It has learned from the steps before: a spike does not begin anew, and steps are counted as one run."""
    records = Memory()
    p = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=0.0)
    with gradclip.patch(MedianClip(math.inf, warmup=3), sinks=[records]):
        for step in range(10):
            p.grad = torch.full((1,), 1000.0 if step == 7 else 1.0)
            if step >= begins:
                nn.utils.clip_grad_norm_([p], 1e9)
            optimizer.step()
            assert p.grad.item() <= 2.0
    assert [(x.step, x.group) for x in records.records] == [(step, None) for step in range(1, 11)]


def test_parameters_that_come_and_go_are_of_one_run() -> None:
    """As where a caller lists those that have a gradient, and heads are trained in turn."""
    trunk, heads = nn.Linear(3, 3), [nn.Linear(3, 1) for _ in range(3)]
    parameters = [*trunk.parameters(), *(p for head in heads for p in head.parameters())]
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    records, norms = Memory(), []
    with gradclip.patch(sinks=[records]):
        for step in range(7):
            optimizer.zero_grad()
            heads[step % 3](trunk(torch.ones(1, 3))).sum().backward()
            having = [p for p in parameters if p.grad is not None]
            norms.append(norm_of([p.grad for p in having]))
            if step != 4:
                nn.utils.clip_grad_norm_(having, 1e9)
            optimizer.step()
    assert [(x.step, x.group) for x in records.records] == [(step, None) for step in range(1, 8)]
    assert [x.total_norm for x in records.records] == pytest.approx(norms)


def test_a_call_about_some_of_those_that_have_a_gradient_is_about_these_alone() -> None:
    """The others stay as they are."""
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p, q], lr=0.0)
    with gradclip.patch(sinks=[Memory()]):
        for _ in range(3):
            p.grad, q.grad = torch.full((1,), 3.0), torch.full((1,), 4.0)
            nn.utils.clip_grad_norm_([p, q], 2.5)
            assert (p.grad.item(), q.grad.item()) == pytest.approx((1.5, 2.0))
            nn.utils.clip_grad_norm_([p], 0.5)
            assert (p.grad.item(), q.grad.item()) == pytest.approx((0.5, 2.0))
            optimizer.step()


def test_what_another_optimizer_has_stepped_with_is_not_all_of_a_step() -> None:
    """An encoder that two optimizers share: the head of the second is clipped and recorded too, and nothing twice."""
    encoder, actor, critic = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    both = torch.optim.SGD([encoder, actor], lr=0.1), torch.optim.SGD([encoder, critic], lr=0.1)
    records = Memory()
    with gradclip.patch(FixedNorm(1.0, eps=0.0), sinks=[records]):
        for _ in range(3):
            for p in (encoder, actor, critic):
                p.grad = torch.tensor([100.0])
            for optimizer in both:
                optimizer.step()
            assert [p.grad.item() for p in (encoder, actor, critic)] == pytest.approx([0.5**0.5, 0.5**0.5, 1.0])
    assert [(x.step, x.group) for x in records.records] == [(s, g) for s in (1, 2, 3) for g in (None, "parameters 2")]


def test_a_parameter_that_is_listed_twice_counts_once_among_those_of_a_call() -> None:
    """However many a family has grown to."""
    tied, decoder, head = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    with gradclip.patch(sinks=[Memory()]):
        for having, asked in [((tied, decoder), [tied, tied, decoder]), ((tied, head), [tied, head])]:
            for p in (tied, decoder, head):
                p.grad = torch.tensor([10.0]) if any(p is x for x in having) else None
            nn.utils.clip_grad_norm_(asked, 1.0)
        for p in (tied, decoder, head):
            p.grad = torch.tensor([10.0])
        assert nn.utils.clip_grad_norm_([tied, tied, decoder], 1.0).item() == pytest.approx(200.0**0.5)
        assert head.grad.item() == 10.0


@pytest.mark.parametrize("of", [nn.utils, gradclip], ids=["torch", "gradclip"])
def test_a_patch_within_another_holds_alone(of: Any) -> None:
    """For steps as for calls."""
    outer, inner = Memory(), Memory()
    p = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=0.1)
    with gradclip.patch(FixedNorm(1.0), sinks=[outer]), gradclip.patch(FixedNorm(100.0), sinks=[inner]):
        for calls in (False, True):
            p.grad = torch.tensor([50.0])
            if calls:
                of.clip_grad_norm_([p], 1.0)
            optimizer.step()
            assert p.grad.item() == 50.0
    assert (len(outer.records), [x.total_norm for x in inner.records]) == (0, [50.0, 50.0])


@pytest.mark.parametrize("clips", [False, True])
def test_a_new_optimizer_of_the_same_parameters_goes_on(clips: bool) -> None:
    """As one of another phase or epoch: with what the rule has learned, and in the same run."""
    records = Memory()
    p = nn.Parameter(torch.zeros(1))
    with gradclip.patch(MedianClip(1e9, warmup=3), sinks=[records]):
        for step in range(20):
            if step % 5 == 0:
                optimizer = torch.optim.SGD([p], lr=0.1)
            p.grad = torch.tensor([1e3 if step == 15 else 1.0])
            if clips:
                nn.utils.clip_grad_norm_([p], 1e9)
            optimizer.step()
            assert p.grad.item() <= 2.0
    assert [(x.step, x.group) for x in records.records] == [(step, None) for step in range(1, 21)]


def test_calls_that_a_policy_cannot_take_are_said() -> None:
    """Groups are those of an optimizer, which a call does not know."""
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    with gradclip.patch(by_group(FixedNorm(100.0))), pytest.warns(UserWarning, match="neither recorded nor clipped"):
        nn.utils.clip_grad_norm_(layer.parameters(), 0.5)


def test_many_calls_about_one_parameter_each_take_no_longer_than_they_are() -> None:
    """Nor does the first step after them: 400 took seven seconds."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(400)]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    begin = time.process_time()
    with gradclip.patch(sinks=[Memory()]):
        for p in parameters:
            p.grad = torch.ones(1)
            nn.utils.clip_grad_norm_(p, 9.0)
        optimizer.step()
    assert time.process_time() - begin < 3.0


def test_models_that_calls_clipped_are_let_go() -> None:
    """With their optimizers; and those that no optimizer stepped with, after many other calls."""
    gone = []
    with gradclip.patch(sinks=[Memory()]):
        for steps in (True, True, False):
            p = nn.Parameter(torch.ones(2))
            p.grad = torch.ones(2)
            nn.utils.clip_grad_norm_([p], 1.0)
            if steps:
                torch.optim.SGD([p], lr=0.1).step()
            gone.append(weakref.ref(p))
        del p
        gc.collect()
        assert [reference() is None for reference in gone] == [True, True, False]
        other = nn.Parameter(torch.ones(1))
        other.grad = torch.ones(1)
        for _ in range(2 * IDLE):
            nn.utils.clip_grad_norm_([other], 1.0)
        gc.collect()
        assert gone[2]() is None


def test_models_that_are_gone_are_let_go() -> None:
    """With their optimizers; and what only calls clipped, after many other calls."""
    gone = []
    with gradclip.patch(sinks=[Memory()]):
        for _ in range(3):
            p = nn.Parameter(torch.ones(2))
            p.grad = torch.ones(2)
            torch.optim.SGD([p], lr=0.1).step()
            gone.append(weakref.ref(p))
        del p
        gc.collect()
        assert [reference() for reference in gone] == [None] * 3


@pytest.mark.parametrize("policy", [None, ZClip(max_norm=1.0)], ids=["recorded", "by a policy"])
@pytest.mark.parametrize("mode", [FakeTensorMode, lambda: torch.device("meta")], ids=["fake", "meta"])
@pytest.mark.filterwarnings("ignore:Some gradients are neither")
def test_a_dry_run_goes_on_by_itself(mode: Any, policy: ZClip | None) -> None:
    """Of shapes without numbers, as whoever asks how much memory a training takes makes one: there is no norm."""
    memory = Memory()
    with gradclip.patch(policy, sinks=[memory]), mode():
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for clips in (True, False):
            model(torch.ones(4, 3)).sum().backward()
            if clips:
                assert nn.utils.clip_grad_norm_(model.parameters(), 1.0).shape == ()
            optimizer.step()
    assert not memory.records


@pytest.mark.parametrize("policy", [None, FixedNorm(1.0)], ids=["recorded", "by a policy"])
@pytest.mark.parametrize("is_first", [False, True])
def test_parts_of_a_model_without_numbers_are_no_dry_run(policy: FixedNorm | None, is_first: bool) -> None:
    """As where the whole is made on the meta device, and what is trained alone gets memory."""
    memory, trained = Memory(), nn.Linear(3, 2)
    parts = [trained, nn.Linear(3, 2, device="meta")]
    model = nn.ModuleList(parts[::-1] if is_first else parts)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradclip.patch(policy, sinks=[memory]):
        for calls in (True, False):
            for p in trained.parameters():
                p.grad = torch.ones_like(p)
            if calls:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    assert [record.total_norm for record in memory.records] == pytest.approx([math.sqrt(8.0)] * 2)


@pytest.mark.parametrize("policy", [None, FixedNorm(2.0), ZClip(max_norm=20.0, warmup=2)], ids=repr)
def test_who_counts_operations_gets_the_same_records(policy: Policy | None) -> None:
    """In a dispatch mode that looks on, numbers are there, and a call is a clip as ever."""
    found, sizes = [], (3.0, 5.0, 4.0, 9.0)
    for mode in (contextlib.nullcontext(), FlopCounterMode(display=False)):
        memory, p = Memory(), nn.Parameter(torch.zeros(3))
        optimizer = torch.optim.SGD([p], lr=0.1)
        with gradclip.patch(policy, sinks=[memory]), mode:
            for size in sizes:
                p.grad = torch.full((3,), size)
                nn.utils.clip_grad_norm_([p], 1.0)
                optimizer.step()
        found.append(([(x.status, x.total_norm, x.total_norm_after) for x in memory.records], p.tolist()))
    assert found[0] == found[1]
    assert [norm for _, norm, _ in found[0][0]] == pytest.approx(
        [size * math.sqrt(3.0) for size in (3.0, 5.0, 4.0, 9.0)]
    )


@pytest.mark.parametrize("policy", [None, FixedNorm(1.0)], ids=["recorded", "by a policy"])
@pytest.mark.filterwarnings("default")  # compilers warn of much
def test_calls_compile_into_one_graph(policy: FixedNorm | None) -> None:
    """As torch's functions do, whatever else there is in the process that clips."""

    def clipped(by_value: Tensor, by_norm: Tensor) -> Tensor:
        nn.utils.clip_grad_value_([by_value], 0.5)
        return nn.utils.clip_grad_norm_([by_norm], 1.0)

    torch.compiler.reset()
    owners = [torch.zeros(3) for _ in range(2)]
    for owner in owners:
        owner.grad = torch.full((3,), 2.0)
    with gradclip.patch(policy, sinks=[Memory()]):
        norm = torch.compile(clipped, fullgraph=True, backend="aot_eager")(*owners)
    assert norm.item() == pytest.approx(2.0 * math.sqrt(3.0))
    assert [x.grad.norm().item() for x in owners if x.grad is not None] == pytest.approx([0.5 * math.sqrt(3.0), 1.0])


@pytest.mark.parametrize("kind", ["names twice", "no parameter", "plain tensors"])
def test_what_no_clipper_takes_goes_on_by_itself(kind: str) -> None:
    """A script that runs without records runs with them."""
    with gradclip.patch(sinks=[Memory()]):
        if kind == "names twice":
            layers = [nn.Linear(2, 1), nn.Linear(2, 1)]
            optimizer = torch.optim.SGD([{"params": layer.named_parameters()} for layer in layers], lr=0.1)
            (layers[0](torch.ones(1, 2)) + layers[1](torch.ones(1, 2))).sum().backward()
            optimizer.step()
        elif kind == "no parameter":
            torch.optim.SGD([{"params": []}], lr=0.1).step()
        else:
            x = torch.ones(2)
            x.grad = torch.full((2,), 10.0)
            assert nn.utils.clip_grad_norm_([x], 1.0).item() == pytest.approx(10.0 * math.sqrt(2.0))
            assert x.grad.norm().item() == pytest.approx(1.0)


def test_a_hook_that_was_there_before() -> None:
    """Of somebody else's, in a process that has no clipper yet."""
    script = (
        "import torch, gradclip\ngradclip.patch(sinks=[lambda record: print(record.step)])\n"
        "from torch.optim.optimizer import register_optimizer_step_pre_hook\n"
        "register_optimizer_step_pre_hook(lambda *a: None)\n"
        "p = torch.nn.Parameter(torch.ones(2)); p.grad = torch.ones(2); torch.optim.SGD([p], lr=0.1).step()\n"
    )
    assert printed(script) == "1\n"


def test_callers_that_expect_a_dtensor_go_on() -> None:
    """Under FSDP2 torch returns one, and its callers ask for the whole of it."""
    with forked(RankPool(2)) as pool:
        for norm, expected in pool.run(rank_functions.patched_norm):
            assert norm == pytest.approx(expected, rel=1e-6)
