"""What goes over the wire: one small collective for each set of ranks, whatever they hold; and plans, made once."""

import math

import pytest
import torch

import reference
import traffic_workers
from gradclip.testing import RankPool
from layouts import LAYOUTS, Part, summands, whole_of
from traffic_workers import Sample, Traffic

MOST = 16
"""How many numbers a collective for a total norm may carry."""

SPANS = {
    "plain": 0,
    "shards, uneven": 1,
    "shards, all on the first rank": 1,
    "copies": 1,
    "plain beside shards": 1,
    "HSDP": 1,
    "FSDP x TP": 1,
    "strided shards": 1,
    "TP under DDP": 1,
    "several meshes": 2,  # of the three, two have the same ranks
    "meshes of single axes": 3,
}
"""On how many sets of ranks a layout lies."""

SUMMED = [name for name, parts in LAYOUTS.items() if any("P" in part.gradient for part in parts)]
NOT_SUMMED = [name for name in LAYOUTS if name not in SUMMED]

on_two = pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
on_four = pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)


def norm_of(parts: list[Part], ranks: int) -> float:
    own = [summands(part, seed, ranks, torch.float32) for seed, part in enumerate(parts)]
    return reference.norm([whole_of(part, x, ranks) for part, x in zip(parts, own, strict=True)], 2.0)


def small(traffic: Traffic) -> bool:
    return all(numel <= MOST for numel, _ in traffic.reduced)


# Collectives.


@on_two
def test_the_counter_counts(pool: RankPool) -> None:
    """A reduction, a gathered DTensor, gathered objects (their sizes come first) and a new group are all seen."""
    for reduction, gathering, objects, group in pool.run(traffic_workers.known_traffic):
        assert reduction == Traffic(1, [(3, 2)], 0)
        assert gathering == Traffic(1, [], 0)
        assert objects == Traffic(2, [], 0)
        assert group.groups == 1


@on_four
@pytest.mark.parametrize("name", SPANS)
def test_one_collective_for_each_set_of_ranks(pool: RankPool, name: str) -> None:
    """Not for each axis of a mesh, nor for each parameter; none for plain tensors; the first call is like the next."""
    for calls in pool.run(traffic_workers.clips, LAYOUTS[name]):
        for traffic, _ in calls:
            assert traffic.collectives == len(traffic.reduced) == SPANS[name]
            assert traffic.groups == 0
            assert small(traffic)


@on_four
@pytest.mark.parametrize("why", ["bound", "mpi"])
def test_a_mesh_by_its_axes(pool: RankPool, why: str) -> None:
    """No group is made where all ranks of the program would have to come for it: its axes have theirs already."""
    for sent, groups, total, largest, each in pool.run(traffic_workers.by_axes, why):
        assert sent == Traffic(2, [(3, 2), (3, 1)], 0)
        assert (groups, total, largest, each) == (2, 15.0, 8.0, [0, 1, 2, 3])


@on_four
@pytest.mark.parametrize("name", NOT_SUMMED)
def test_one_collective_for_the_whole_model(pool: RankPool, name: str) -> None:
    """With a group of everything, whatever the layout; and the norm is the same."""
    expected = norm_of(LAYOUTS[name], pool.size)
    for calls in pool.run(traffic_workers.clips, LAYOUTS[name], spanning=True):
        for traffic, norm in calls:
            assert traffic.collectives == 1
            assert [ranks for _, ranks in traffic.reduced] == [4]
            assert small(traffic)
            assert reference.float32_ulps(norm, expected) <= 2.0


@on_four
@pytest.mark.parametrize("name", SUMMED)
def test_a_group_changes_no_norm_of_sums(pool: RankPool, name: str) -> None:
    """Gradients that are partial have to be summed all the same."""
    expected = norm_of(LAYOUTS[name], pool.size)
    for calls in pool.run(traffic_workers.clips, LAYOUTS[name], spanning=True):
        assert [reference.float32_ulps(norm, expected) <= 2.0 for _, norm in calls] == [True, True]


@on_two
def test_payload(pool: RankPool) -> None:
    """As many numbers for many parameters, and for large ones, as for few and small ones."""
    few, many, large = [Part((4, 3), "S0")] * 3, [Part((4, 3), "S0")] * 300, [Part((4000, 3), "S0")] * 3
    (small_model, _), (many_parameters, _), (large_parameters, _) = (
        pool.run(traffic_workers.clips, parts)[0][0] for parts in (few, many, large)
    )
    assert small_model == many_parameters == large_parameters
    assert small(small_model)


@on_two
def test_two_collectives_for_high_orders(pool: RankPool) -> None:
    """The powers are taken in units of the largest element, which all have to know first."""
    for calls in pool.run(traffic_workers.clips, LAYOUTS["shards, uneven"], 8.0):
        assert [traffic.collectives for traffic, _ in calls] == [2, 2]


@on_four
def test_partial_gradients(pool: RankPool) -> None:
    """All gradients travel together, with one mark each, then the norm; at first, the ranks agree on which they are."""
    elements = sum(math.prod(part.shape) for part in LAYOUTS["sums"])
    for (first, _), (second, _) in pool.run(traffic_workers.clips, LAYOUTS["sums"]):
        assert first.collectives == 5  # a norm that finds out, two for what the ranks say, then as ever
        assert second.collectives == 2
        assert second.reduced[0] == (elements + len(LAYOUTS["sums"]), 4)
        assert second.reduced[1] == first.reduced[0] == first.reduced[-1]
        assert second.reduced[1][0] <= MOST


@on_two
def test_other_functions(pool: RankPool) -> None:
    """Norms take one collective for each mesh, what is local none; norms of single parameters some numbers of each."""
    parts = LAYOUTS["shards, uneven"]
    for sent in pool.run(traffic_workers.others, parts):
        assert {name: traffic.collectives for name, traffic in sent.items()} == {
            "get_total_norm": 1,
            "get_norms": 1,
            "clip_grads_with_norm_": 0,
            "clip_grad_value_": 0,
            "GradClipper": 1,
            "GradClipper of norms": 1,
        }
        assert small(sent["get_total_norm"]) and small(sent["GradClipper"])
        for name in ("get_norms", "GradClipper of norms"):
            assert sent[name].reduced[0][0] <= 2 * len(parts) + MOST


@on_two
def test_other_functions_of_plain_tensors(pool: RankPool) -> None:
    """Nothing is sent for a model of plain tensors, as under DDP."""
    for sent in pool.run(traffic_workers.others, LAYOUTS["plain"]):
        assert {traffic.collectives for traffic in sent.values()} == {0}


# Plans.


@on_four
def test_a_group_is_made_once(pool: RankPool) -> None:
    """A mesh of two axes, of whose ranks torch has no group, gets one; another model or call makes no more."""
    for calls in pool.run(traffic_workers.part_of_a_mesh):
        assert [traffic.groups for traffic, _ in calls] == [1, 0, 0]
        assert [[ranks for _, ranks in traffic.reduced] for traffic, _ in calls] == [[2], [2], [2]]
        assert [norm for _, norm in calls] == pytest.approx([math.sqrt(8.0)] * 3)


PLACED = [
    Sample("all", "S0", "S0"),
    Sample("all", "R", "R"),
    Sample("dp tp", "R S0", "R S0"),
    Sample("dp tp", "S0 R", "S0 R"),
    Sample("tp", "S0", "S0"),
    Sample("dp", "S0", "S0"),
    Sample("dp tp", "R R", "R R"),
    Sample("all", "R", "P"),
    Sample("all", "R", "R"),
    Sample("all", "S0", "S0"),
]


@on_four
def test_another_parameter(pool: RankPool) -> None:
    """A parameter that is placed otherwise, or on another mesh, than the one of the call before."""
    check_samples(pool.run(traffic_workers.one_after_another, PLACED, anew=True), PLACED)


FLIPPED = [Sample("all", "R", words) for words in ("R", "P", "R", "S0", "P", "P", "Pavg", "S0", "R")]


@on_four
def test_another_gradient(pool: RankPool) -> None:
    """Gradients of one parameter that are placed otherwise each time: what was partial once need not be again."""
    check_samples(pool.run(traffic_workers.one_after_another, FLIPPED, anew=False), FLIPPED)


@on_four
@pytest.mark.parametrize("lacking", [False, True])
def test_another_gradient_of_which_a_device_knows(pool: RankPool, lacking: bool) -> None:
    """Who has all gradients knows by them what the others have; who lacks one waits for what they say."""
    answers = pool.run(traffic_workers.one_after_another_elsewhere, FLIPPED, lacking=lacking)
    check_samples(answers, FLIPPED, summed=3 if lacking else 4)


@on_two
def test_limits_after_a_sum(pool: RankPool) -> None:
    """What was partial at the last call is not taken for partial now."""
    assert pool.run(traffic_workers.limited_after_a_sum) == [0.5, 0.5]


def check_samples(answers: list[list[tuple[float, float, float]]], samples: list[Sample], summed: int = 4) -> None:
    for of_rank in answers:
        for (total, own, largest), sample in zip(of_rank, samples, strict=True):
            expected = math.sqrt(8.0) * (summed if sample.gradient == "P" else 1.0)
            assert (total, own) == pytest.approx((expected, expected)), sample
            assert largest == (1.0 if "P" in sample.gradient else 0.5), sample


@on_four
def test_another_declaration(pool: RankPool) -> None:
    """What is said of a parameter holds from the next call on: nothing, a piece, nothing, one of many, not counted."""
    for norms in pool.run(traffic_workers.declared_otherwise):
        assert norms == [(2.0, 2.0), (4.0, 4.0), (2.0, 2.0), (4.0, 2.0), (0.0, 2.0)]
