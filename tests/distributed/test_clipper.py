"""A clipper on several ranks decides what one with all the gradients decides, and the same on each."""

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

import clipper_workers as workers
import loop_workers
from clipper_workers import ABSENT, LOSS_SPIKE, POLICIES, SHAPES, SPIKE, STEPS, Seen, Trace
from gradclip.clipper import misuse
from gradclip.policies import AGC, BlockRMS, FixedNorm, by_name, chain
from gradclip.testing import RankPool

PoolOf = Callable[[int], RankPool]

LAYOUTS = [("in rows", 2), ("in blocks", 4), ("FSDP2", 4), ("FSDP2 over tensor parallel", 4)]

TWICE = ("chain", "chain that learns", "AdaGC", "AdaGC, low ceiling", "AGC by layer", "AGC of all")
"""The policies that need the norm of all parameters after each was bounded, or of all their weights."""

APART = [policy for policy in POLICIES if policy not in TWICE and not policy.startswith("by_")]
"""The policies for ranks with parameters of their own: the others ask for norms that no rank knows there."""

NORMS = ("FixedNorm p=9", "FixedNorm each p=inf", "FixedValue", "BlockRMS", "AGC", "AGC of columns", "AGC of pixels",
         "AGC p=inf", "AGC p=3 by parameter", "AGC by layer", "AGC of all", "AutoClip each", "AdaGC, low ceiling",
         "SpikeSkip", "chain", "chain of three norms", "chain that learns", "by_name that learns",
         "by_group that learns")  # fmt: skip
"""The policies that differ in the norms that they ask for: others make something else of the same numbers."""

LEARN = ("AutoClip", "MedianClip", "ZClip", "AdaGC", "SpikeSkip", "warmup", "schedule", "chain", "by_")
"""How the names of policies begin that have a state, or are made of such."""

SPIKES = "SpikeSkip"

every_layout = pytest.mark.parametrize(("layout", "size"), LAYOUTS)


@cache
def alone(policy: str, **arguments: Any) -> Trace:
    """What one process does that has all the gradients."""
    return workers.train("whole", policy, **arguments)


def facts(trace: Trace) -> list[str]:
    """All that a clipper says, to the last bit, NaN included."""
    return [repr((step.numbers, step.status, step.norms, step.worst)) for step in trace.steps]


def check_same_on_all_ranks(traces: list[Trace], policy: str) -> None:
    for trace in traces:
        assert facts(trace) == facts(traces[0]), policy
        assert json.dumps(trace.state) == json.dumps(traces[0].state), policy
    assert json.loads(json.dumps(traces[0].state)) == traces[0].state, policy


def check_like(found: Trace, expected: Trace, policy: str) -> None:
    """The same decisions, up to the order in which float64 numbers are added; the same gradients to float32."""
    assert len(found.steps) == len(expected.steps)
    for step, other in zip(found.steps, expected.steps, strict=True):
        assert step.status == other.status, (policy, step.numbers)
        check_numbers(step, other, policy)
        check_tensors(step.clipped, other.clipped, policy)
    check_tensors(found.weights, expected.weights, policy)


def check_numbers(step: Seen, other: Seen, policy: str) -> None:
    approximately = {
        key: None if x is None else pytest.approx(x, rel=1e-11, nan_ok=True) for key, x in other.numbers.items()
    }
    assert step.numbers == approximately, policy
    assert step.norms == pytest.approx(other.norms, rel=1e-11, nan_ok=True), policy
    assert dict(step.worst) == pytest.approx(dict(other.worst), rel=1e-11, nan_ok=True), policy


def check_tensors(found: workers.Named, expected: workers.Named, policy: str) -> None:
    assert found.keys() == expected.keys(), policy
    for name, x in expected.items():
        torch.testing.assert_close(
            found[name], x, rtol=1e-6, atol=1e-9, msg=lambda m, name=name: f"{policy}, {name}: {m}"
        )


# Every policy.


def test_the_policies_have_something_to_decide() -> None:
    """Each clips or skips on some step, also at the spike; half of the clips measure each parameter."""
    for policy in POLICIES:
        steps = alone(policy).steps
        assert steps[SPIKE].status == (
            "skipped_spike" if policy == SPIKES else "clipped" if policy != "warmup" else "ok"
        )
        assert {step.status for step in steps} & {"clipped", "skipped_spike"}
        assert all(len(step.norms) == len(SHAPES) - 2 * (i == ABSENT) for i, step in enumerate(steps) if i % 2)
    assert alone(SPIKES).steps[LOSS_SPIKE].status == "skipped_spike"


@every_layout
def test_every_policy_decides_as_on_one_process(pool_of: PoolOf, layout: str, size: int) -> None:
    """Norms, coefficient, status and clipped gradients; the losses of the ranks differ, and their mean decides."""
    policies = list(POLICIES if layout == "in rows" else NORMS)
    found = pool_of(size).run(workers.train_each, layout, policies)
    for policy in policies:
        check_same_on_all_ranks([traces[policy] for traces in found], policy)
        check_like(found[0][policy], alone(policy), policy)


def test_a_state_goes_on_with_another_number_of_ranks(pool_of: PoolOf) -> None:
    """From one process to two, and on to four: the numbers are those of a run without interruption."""
    policies = [policy for policy in POLICIES if policy.startswith(LEARN)]
    turns = [("whole", 1, 0, 3), ("FSDP2", 2, 3, 6), ("in blocks", 4, 6, STEPS)]
    traces: dict[str, Trace] | None = None
    for layout, size, first, last in turns:
        if traces is not None:
            traces = {name: x._replace(state=json.loads(json.dumps(x.state))) for name, x in traces.items()}
        arguments: Any = (layout, policies, traces)
        if size == 1:
            traces = workers.train_each(*arguments, first=first, last=last)
        else:
            traces = pool_of(size).run(workers.train_each, *arguments, first=first, last=last)[0]
        for policy, trace in traces.items():
            for step, other in zip(trace.steps, alone(policy).steps[first:last], strict=True):
                assert step.status == other.status, policy
                assert {k: x for k, x in step.numbers.items() if x is not None} == pytest.approx(
                    {k: x for k, x in other.numbers.items() if x is not None}, rel=1e-6, nan_ok=True
                ), policy


@every_layout
def test_one_rank_alone_knows_the_loss(pool_of: PoolOf, layout: str, size: int) -> None:
    """As the last stage of a pipeline does: all ranks go by it."""
    traces = pool_of(size).run(workers.train, layout, SPIKES, knows_loss=[size - 1])
    assert [trace.steps[LOSS_SPIKE].status for trace in traces] == ["skipped_spike"] * size
    check_same_on_all_ranks(traces, SPIKES)
    check_like(traces[0], alone(SPIKES), SPIKES)


@every_layout
def test_the_mean_loss_is_that_of_all_ranks(pool_of: PoolOf, layout: str, size: int) -> None:
    """Each counts once, on however many meshes it is."""
    traces = pool_of(size).run(workers.train, layout, SPIKES)
    expected = alone(SPIKES).state["stages"][0]["state"]["losses"]
    for trace in traces:
        assert trace.state["stages"][0]["state"]["losses"][0] == pytest.approx(expected[0], rel=1e-12)


@every_layout
def test_parameters_that_are_only_counted_or_left_alone(pool_of: PoolOf, layout: str, size: int) -> None:
    """By name, as on one process."""
    some = {"counted_only": ("body.*",), "ignored": ("head.bias", "conv.*")}
    for policy in ("FixedNorm", "AGC", "ZClip"):
        expected = alone(policy, **some)
        traces = pool_of(size).run(workers.train, layout, policy, **some)
        check_same_on_all_ranks(traces, policy)
        check_like(traces[0], expected, policy)
        assert expected.steps[SPIKE].clipped["body.weight"].equal(workers.gradients(SPIKE)["body.weight"])
        assert expected.steps[SPIKE].norms.keys() == SHAPES.keys() - {"head.bias", "conv.weight"}


# Gradients that are not finite.


@every_layout
def test_all_ranks_skip_a_step_together(pool_of: PoolOf, layout: str, size: int) -> None:
    """A NaN on one rank; parameters, optimizer state and gradients stay, byte for byte, on each."""
    for seen, raised in pool_of(size).run(workers.skip, layout, poisoned=(0, 2, 3)):
        assert [status for status, _ in seen] == [
            "skipped_nonfinite" if step in {0, 2, 3} else "clipped" for step in range(STEPS)
        ]
        assert [untouched for _, untouched in seen] == [step in {0, 2, 3} for step in range(STEPS)]
        assert not raised


@every_layout
def test_all_ranks_raise_together(pool_of: PoolOf, layout: str, size: int) -> None:
    """The error of each names the parameter, the rank that holds the element, and how many there are."""
    outcomes = pool_of(size).run(workers.skip, layout, poisoned=(2,), nonfinite="raise")
    for seen, raised in outcomes:
        assert [status for status, _ in seen] == ["clipped", "clipped"]
        assert raised.startswith("NonFiniteGradientError: The total norm of order 2 is not finite")
        assert "Rank" in raised and "embed.weight (1 NaN, 0 Inf of" in raised
        assert raised == outcomes[0][1]
    outcomes = pool_of(size).run(workers.skip, layout, poisoned=(1, 2, 3), max_consecutive_skips=2)
    for seen, raised in outcomes:
        assert [status for status, _ in seen] == ["clipped", "skipped_nonfinite", "skipped_nonfinite"]
        assert raised.startswith("ConsecutiveSkipsError: 3 steps in a row were skipped")
        assert "embed.weight (1 NaN, 0 Inf of" in raised
        assert raised == outcomes[0][1]


@every_layout
def test_what_is_not_finite_is_set_to_zero_or_passed_on(pool_of: PoolOf, layout: str, size: int) -> None:
    """As on one process."""
    for policy in ("FixedNorm", "AdaGC", "AGC"):
        for nonfinite in ("sanitize", "propagate"):
            arguments: Any = {"poisoned": (SPIKE,), "nonfinite": nonfinite}
            traces = pool_of(size).run(workers.train, layout, policy, **arguments)
            check_same_on_all_ranks(traces, policy)
            expected = alone(policy, **arguments)
            assert math.isnan(expected.steps[SPIKE].numbers["total_norm"] or 0.0) == (nonfinite == "propagate")
            for step, other in zip(traces[0].steps, expected.steps, strict=True):
                assert step.status == other.status
                check_numbers(step, other, policy)


# Parameters that are declared.


@pytest.mark.parametrize(
    ("layout", "size", "grouped"),
    [("apart", 2, False), ("apart", 4, False), ("apart", 4, True), ("apart on two ranks", 4, True)],
)
@pytest.mark.parametrize("of_all", [True, False], ids=["total", "each"])
def test_ranks_with_parameters_of_their_own(
    pool_of: PoolOf, layout: str, size: int, grouped: bool, of_all: bool
) -> None:
    """As pipeline stages, some without any: the total norm is that of all, and each parameter is clipped as it was."""
    of = APART if size == 2 else [policy for policy in APART if policy in NORMS or policy in ("FixedNorm", "ZClip")]
    policies = [policy for policy in of if (POLICIES[policy].scope == "total") == of_all]
    found = pool_of(size).run(workers.train_each, layout, policies, grouped=grouped)
    for policy in policies:
        for rank, traces in enumerate(found):
            check_own_parameters(traces[policy], policy, rank, 2 if "two" in layout else size)


@pytest.mark.parametrize("policy", TWICE)
def test_a_bound_on_the_total_of_what_is_left(pool_of: PoolOf, policy: str) -> None:
    """Where ranks have parameters of their own, it holds, or all ranks refuse it."""
    found = pool_of(2).run(workers.train_or_say, "apart", policy)
    if all(isinstance(said, str) for said in found):
        assert found == [found[0]] * 2
        return
    for rank, trace in enumerate(found):
        assert isinstance(trace, Trace)
        check_own_parameters(trace, policy, rank, 2)


def test_ranks_with_parameters_of_their_own_pass_a_nan_on(pool_of: PoolOf) -> None:
    """Where that is asked for; it is not taken for a norm that no rank knows."""
    arguments: Any = {"poisoned": (SPIKE,), "nonfinite": "propagate"}
    policies = ["FixedNorm", "chain of totals"]
    for traces in pool_of(2).run(workers.train_each, "apart", policies, **arguments):
        for policy in policies:
            step = traces[policy].steps[SPIKE]
            assert math.isnan(step.numbers["total_norm"]), policy
            if policy == "FixedNorm":  # which multiplies by it
                assert step.clipped and all(x.isnan().all() for x in step.clipped.values())


def check_own_parameters(trace: Trace, policy: str, rank: int, size: int) -> None:
    names = [name for i, name in enumerate(SHAPES) if i % size == rank]
    expected = alone(policy)
    for step, other in zip(trace.steps, expected.steps, strict=True):
        if POLICIES[policy].scope == "total" and not POLICIES[policy].clamps:  # else it speaks of this rank alone
            assert step.status == other.status, policy
        assert step.numbers["total_norm"] == pytest.approx(other.numbers["total_norm"], rel=1e-11), policy
        check_tensors(step.clipped, {name: x for name, x in other.clipped.items() if name in names}, policy)
    check_tensors(trace.weights, {name: expected.weights[name] for name in names}, policy)


@pytest.mark.parametrize(("size", "grouped"), [(2, False), (4, True)])
def test_plain_pieces_of_parameters(pool_of: PoolOf, size: int, grouped: bool) -> None:
    """As of tensor parallelism by hand: every policy but those that look at single rows."""
    policies = [policy for policy in POLICIES if POLICIES[policy].scope != "unit" and policy != "chain of three norms"]
    found = pool_of(size).run(workers.train_each, "in pieces", policies, grouped=grouped)
    for policy in policies:
        check_same_on_all_ranks([traces[policy] for traces in found], policy)
        for rank, traces in enumerate(found):
            expected = alone(policy)
            for step, other in zip(traces[policy].steps, expected.steps, strict=True):
                check_numbers(step, other, policy)
                check_tensors(step.clipped, pieces(other.clipped, rank, size), policy)
            check_tensors(traces[policy].weights, pieces(expected.weights, rank, size), policy)


def pieces(values: workers.Named, rank: int, size: int) -> workers.Named:
    return {name: (x if x.ndim else x[None]).tensor_split(size)[rank] for name, x in values.items()}


@pytest.mark.parametrize("size", [2, 4])
def test_what_cannot_be_is_refused_on_all_ranks(pool_of: PoolOf, size: int) -> None:
    """Before any gradient is touched, with what to do instead."""
    parted = [by_name({"*": FixedNorm(1.0)}), by_name({"*.weight": FixedNorm(1.0)}, default=BlockRMS())]
    for said in pool_of(size).run(workers.refused, "apart", parted[:1] if size == 4 else parted):
        for message in said:
            assert message.startswith("`GradClipper(policy=...)` must not ")
            assert "where other ranks hold parameters of their own" in message
            assert "a `GradClipper` for each part." in message
    for said in pool_of(size).run(workers.refused, "in pieces", [AGC(), chain(FixedNorm(1.0), AGC())]):
        for message in said:
            assert "must not look at single units of 'embed.weight': its pieces are plain tensors" in message


# Training loops.


@pytest.fixture(scope="module")
def norms_of_right_loops(pool_of: PoolOf) -> list[dict[str, list[float]]]:
    return pool_of(2).run(loop_workers.take_right_loops)


def test_right_loops_give_no_warning(norms_of_right_loops: list[dict[str, list[float]]]) -> None:
    """Which would be an error here; loops that do the same clip the same norms, on both ranks."""
    first, second = norms_of_right_loops
    assert first == second
    for name, (kind, _) in loop_workers.RIGHT.items():
        assert len(first[name]) == loop_workers.STEPS
        same = next(x for x, (other, _) in loop_workers.RIGHT.items() if other == kind)
        assert first[name] == pytest.approx(first[same], rel=1e-5), name


WRONG = {
    "after the step": misuse.AFTER_STEP,
    "before backward": misuse.BEFORE_BACKWARD,
    "only once": misuse.NEVER,
    "on every batch": misuse.EVERY_BATCH.format(count=2),
    "before the last batch": misuse.CHANGED.format(name="embed.weight"),
    "scaled afterwards": misuse.CHANGED.format(name="embed.weight"),
    "by hand too": misuse.BY_HAND_TOO,
}


@pytest.fixture(scope="module")
def warnings_of_wrong_loops(pool_of: PoolOf) -> list[dict[tuple[str, bool], list[str]]]:
    return pool_of(2).run(loop_workers.take_wrong_loops)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_loops_give_one_warning(
    warnings_of_wrong_loops: list[dict[tuple[str, bool], list[str]]], name: str, set_to_none: bool
) -> None:
    """On both ranks, the one that names the mistake."""
    assert [said[name, set_to_none] for said in warnings_of_wrong_loops] == [[WRONG[name]]] * 2


@pytest.mark.parametrize("how", ["attached", "by hand", "declared", "patched"])
def test_a_model_of_dtensors_may_be_converted(pool_of: PoolOf, how: str) -> None:
    """Torch swaps its parameters and gradients then, and refuses to where anybody refers to one weakly."""
    for norms, warned in pool_of(2).run(loop_workers.converted, how):
        assert norms == pytest.approx([math.sqrt(8.0)] * 3)
        assert warned == []


def test_two_optimizers_at_their_own_pace(pool_of: PoolOf) -> None:
    """Gradients that were added to since the last clip are clipped again, as on one process."""
    expected = loop_workers.own_pace(sharded=False)
    for seen in pool_of(2).run(loop_workers.own_pace, sharded=True):
        assert [clip for clip, _ in seen] == [clip for clip, _ in expected]
        assert [norm for _, norm in seen] == pytest.approx([norm for _, norm in expected], rel=1e-5)


@pytest.mark.parametrize("attach", [True, False])
def test_a_scaled_loss(pool_of: PoolOf, norms_of_right_loops: list[dict[str, list[float]]], attach: bool) -> None:
    """Gradients are clipped unscaled; where they overflow, all ranks pass over the step."""
    norms = norms_of_right_loops[0]["by hand"]
    for found, statuses, scale in pool_of(2).run(loop_workers.scaled, attach=attach, scale=1024.0):
        assert found == pytest.approx(norms, rel=1e-6)
        assert statuses == ["clipped"] * loop_workers.STEPS and scale == 1024.0
    overflown = pool_of(2).run(loop_workers.scaled, attach=attach, scale=2.0**127)
    assert repr(overflown[0]) == repr(overflown[1])
    _, statuses, scale = overflown[0]
    skipped = "skipped_scaler" if attach else "skipped_nonfinite"  # heard of where the scaler is known
    assert statuses == [skipped] + ["clipped"] * (loop_workers.STEPS - 1)
    assert scale == 2.0**87


def test_copies_of_a_clipper_of_a_group(pool_of: PoolOf) -> None:
    """They clip in the group, as it does; one that is pickled would not have it, and says so."""
    for norms, refused in pool_of(2).run(workers.copied):
        assert norms == pytest.approx([5.0, 5.0])
        assert "Save its `state_dict()`" in refused


def test_what_is_asserted_of_dtensors_beside_plain_tensors(pool_of: PoolOf) -> None:
    for plain, mixed in pool_of(2).run(workers.asserted):
        assert plain is None
        assert "total norm 3.16" in mixed
