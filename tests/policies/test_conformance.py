"""One contract for every policy of the table, through a clipper with real gradients and by norms alone."""

import io
import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import gradclip
import gradclip.policies
import reference
from conftest import is_slow, named
from gradclip.ops import registry
from gradclip.ops.backend import Backend
from gradclip.policies import Policy
from policies.cases import (
    CASES,
    LEARNING,
    SHAPES,
    Case,
    Gradients,
    Named,
    clip,
    clipper_of,
    gradients,
    model,
    series,
)

SHUFFLED = ("gain", "head.weight", "body.bias", "head.empty", "conv.weight", "body.weight")

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_the_table_is_complete() -> None:
    """Every class that is exported is in the table, and every learning one has a free form."""
    shown = {type(part) for case in CASES.values() for part in (case.policy, *_parts(case.policy))}
    exported = {getattr(gradclip.policies, name) for name in gradclip.policies.__all__}
    classes = {x for x in exported if isinstance(x, type) and issubclass(x, Policy) and x is not Policy}
    assert classes <= shown
    learn = {type(case.policy) for case in CASES.values() if hasattr(case.policy, "patience")}
    assert learn <= {type(policy) for policy in LEARNING.values()}


def _parts(policy: Policy) -> tuple[Policy, ...]:
    return getattr(policy, "links", None) or getattr(policy, "members", ())


# Gradients.


def warmed_up(backend: Backend, case: Case, parameters: Named, dtype: torch.dtype) -> gradclip.GradClipper:
    """A clipper after the steps that its policy learns from; they go by plain torch where kernels are interpreted."""
    clipper = clipper_of(case.policy, parameters)
    with registry.forced("reference" if is_slow(backend) else backend.name):
        for step in range(case.history):
            clip(clipper, parameters, gradients(step, 1.0, dtype))
    return clipper


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_below_the_bound_no_byte_changes(backend: Backend, case: Case, dtype: torch.dtype) -> None:
    """A small gradient after louder ones stays as it is; rules that touch every step say so."""
    parameters = model(dtype=dtype)
    small = gradients(case.history, 1e-4, dtype)
    small["body.bias"][:2] = torch.tensor([-0.0, 1e-39])
    before = {name: x.clone() for name, x in small.items()}
    clipper = warmed_up(backend, case, parameters, dtype)
    with registry.forced(backend.name):
        result, left = clip(clipper, parameters, small)
    changed = [name for name in SHAPES if not torch.equal(bits(left[name]), bits(before[name]))]
    if case.idle:
        assert changed == []
        assert result.status == "ok"
        assert result.coefficient == 1.0 or len(case.policy.stages) > 1  # norms of two orders have no ratio
    else:
        assert result.coefficient != 1.0


def bits(x: Tensor) -> Tensor:
    return x.view(torch.int16 if x.dtype == torch.bfloat16 else torch.int32)


@every
def test_what_is_clipped_together_keeps_its_direction(backend: Backend, case: Case) -> None:
    """One factor for the scope of the policy, and not for anything wider."""
    parameters, given = model(), gradients(case.history, 1000.0)
    clipper = warmed_up(backend, case, parameters, torch.float64)
    with registry.forced(backend.name):
        result, left = clip(clipper, parameters, given)
    assert result.status == "clipped"
    factors = {name: left[name] / given[name] for name in SHAPES}
    whole = torch.cat([x.flatten() for x in factors.values()])
    assert bool((whole > 0.0).all()) and float(whole.max()) < 1.0
    own = [x.flatten() for x in factors.values() if x.numel()]
    rows = [row.flatten() for x in factors.values() for row in (x if x.ndim > 1 else x[None])]
    same = [is_one(parts) for parts in ([whole], own, rows)]
    assert (
        same
        == {
            "total": [True, True, True],
            "parameter": [False, True, True],
            "unit": [False, False, True],
            "element": [False, False, False],
        }[case.scope]
    )
    if case.scope == "total":
        assert float(whole[0]) == pytest.approx(result.coefficient, rel=1e-15)
    norm = reference.norm(list(left.values()), order_of(case.policy))
    assert result.total_norm_after == pytest.approx(norm, rel=1e-12)


def order_of(policy: Policy) -> float:
    """The order of the norms that are known at the end."""
    order = policy.stages[-1].norm_type
    return math.inf if order is None else order


def is_one(parts: list[Tensor]) -> bool:
    """Whether the numbers of every part are the same, to the rounding of one product."""
    return all(float(part.max() / part.min()) < 1.0 + 1e-15 for part in parts)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.bound is not None])
@pytest.mark.parametrize("spread", [0.1, 2.0])
def test_no_norm_exceeds_the_bound(name: str, spread: float) -> None:
    """The norm that is left, summed anew, and the one that is reported."""
    case, parameters = CASES[name], model()
    clipper = clipper_of(case.policy, parameters)
    clipped = 0
    for step, scale in enumerate(series(100, spread=spread, spikes=(50, 70, 71, 72))):
        result, left = clip(clipper, parameters, gradients(step, scale / 3.0))
        clipped += result.clipped
        if result.skipped is None:
            norm = reference.norm(list(left.values()), order_of(case.policy))
            assert norm <= case.bound * (1.0 + 1e-6)
            assert result.total_norm_after == pytest.approx(norm, rel=1e-12)
    assert clipped >= 10


@every
def test_ever_larger_gradients_end_as_one(case: Case) -> None:
    """Far above the bound, twice the gradient makes no difference."""
    parameters, ends = model(), []
    for scale in (2.0**20, 2.0**30):
        clipper = clipper_of(case.policy, parameters)
        for step in range(case.history):
            clip(clipper, parameters, gradients(step, 4.0))
        ends.append(clip(clipper, parameters, gradients(case.history, scale))[1])
    for name in SHAPES:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-5, atol=0.0)


@every
def test_the_order_of_parameters_changes_nothing(case: Case) -> None:
    """By name, the same gradients come out: bit for bit but for totals, which add up in another order."""
    runs = [run(case.policy, 45, names) for names in (tuple(SHAPES), SHUFFLED)]
    assert_same(runs[0], runs[1], rtol=1e-14)


@every
def test_a_parameter_without_a_gradient_has_no_say(case: Case) -> None:
    """All others are clipped as if it were not there."""
    names = tuple(name for name in SHAPES if name != "conv.weight")
    whole, some = model(), model(names)
    one, other = clipper_of(case.policy, whole), clipper_of(case.policy, some)
    for step in range(45):
        given = {name: x for name, x in gradients(step, 50.0 if step % 9 == 8 else 1.0).items() if name in names}
        (result, left), (expected, same) = clip(one, whole, given), clip(other, some, given)
        assert whole["conv.weight"].grad is None
        assert all(torch.equal(left[name], same[name]) for name in names)
        assert (result.total_norm_after, result.clipped) == (expected.total_norm_after, expected.clipped)


@every
def test_runs_repeat(case: Case) -> None:
    """The same gradients, the same decisions."""
    assert_same(run(case.policy, 45), run(case.policy, 45), rtol=0.0)


def run(policy: Policy, steps: int, names: Sequence[str] = tuple(SHAPES)) -> list[Gradients]:
    """What is left of the gradients of so many steps, some of them spikes."""
    parameters = model(names)
    return go_on(clipper_of(policy, parameters), parameters, range(steps))


def go_on(clipper: gradclip.GradClipper, parameters: Named, steps: range) -> list[Gradients]:
    return [clip(clipper, parameters, gradients(t, 50.0 if t % 9 == 8 else 1.0))[1] for t in steps]


def assert_same(run: list[Gradients], other: list[Gradients], rtol: float) -> None:
    assert len(run) == len(other)
    for one, two in zip(run, other, strict=True):
        for name in SHAPES:
            torch.testing.assert_close(one[name], two[name], rtol=rtol, atol=0.0)


# States.


def through_torch(state: dict[str, Any]) -> dict[str, Any]:
    """Save and load as checkpoints are."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("policy", [*(case.policy for case in CASES.values()), *LEARNING.values()], ids=named)
@pytest.mark.parametrize("stop", [7, 40])
def test_a_resumed_run_goes_on(policy: Policy, stop: int) -> None:
    """Bit for bit with the parameters in the same order, and to the rounding of a sum in another."""
    parameters = model()
    clipper = clipper_of(policy, parameters)
    go_on(clipper, parameters, range(stop))
    state = clipper.state_dict()
    saved = through_torch(state), through_json(state)
    expected = go_on(clipper, parameters, range(stop, stop + 15))
    for form, names, rtol in zip(saved, (tuple(SHAPES), SHUFFLED), (0.0, 1e-14), strict=True):
        parameters = model(names)
        fresh = clipper_of(policy, parameters)
        fresh.load_state_dict(form)
        assert_same(go_on(fresh, parameters, range(stop, stop + 15)), expected, rtol)
        assert fresh.state_dict()["step"] == stop + 15


@every
def test_a_skipped_step_teaches_nothing(case: Case) -> None:
    """With a bad element in one gradient nothing is decided, and later steps are what they would have been."""
    policy = case.policy if case.free is None else case.free
    parameters, expected = model(), run(policy, 45)
    clipper = clipper_of(policy, parameters)
    left: list[Gradients] = []
    for step in range(45):
        if bad := {3: math.nan, 36: math.inf, 37: -math.inf}.get(step):
            poisoned = gradients(step)
            poisoned["conv.weight"][0, 0, 1, 1] = bad
            result, kept = clip(clipper, parameters, poisoned)
            assert result.status == "skipped_nonfinite"
            assert all(torch.equal(kept[name].nan_to_num(7.0), poisoned[name].nan_to_num(7.0)) for name in SHAPES)
        left += go_on(clipper, parameters, range(step, step + 1))
    assert_same(left, expected, rtol=0.0)
