"""Copies of a model that should be alike and are not: noticed now and then, at the price of one small collective."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import replica_workers as workers
from gradclip import GradClipper
from gradclip.distributed.replicas import is_same
from gradclip.testing import RankPool, assert_same_gradients
from replica_workers import asserted, clip_and_compare, fail_on_one, names_of_stages, skipped_by_losses, train_ddp

on_two = pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
on_four = pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)


@on_two
def test_gradients_that_were_never_reduced(pool: RankPool) -> None:
    """DDP inside `no_sync()`: ranks clip by different norms, and each is told once, with names and norms of both."""
    answers = pool.run(train_ddp, synced=False, every=1)
    (first, one), (second, other) = answers
    assert one != other
    assert len(first) == len(second) == 1 and first == second
    assert first[0].startswith("The gradients of 4 parameters, of which every rank should have a copy, differ between")
    assert "0.weight (" in first[0] and " on rank 0, " in first[0] and " on rank 1)" in first[0]
    assert " and 1 more. Clip once they are reduced: not inside `no_sync()`" in first[0]


def test_whatever_the_default_device_is() -> None:
    """Norms are compared where the group wants its numbers."""
    span: Any = SimpleNamespace(serves=lambda device: device, reduce_=lambda vector, *, maximum: None)
    with torch.device("meta"):
        assert is_same(2.0, span, torch.device("cpu"))


@on_two
@pytest.mark.parametrize("every", [0, 1, 3])
def test_reduced_gradients(pool: RankPool, every: int) -> None:
    """Nothing is said; and nobody is asked where it is not asked for."""
    for warned, norm in pool.run(train_ddp, synced=True, every=every):
        assert warned == []
        assert math.isfinite(norm)
    assert [x for x, _ in pool.run(train_ddp, synced=False, every=0)] == [[], []]


@on_four
def test_what_is_told_apart(pool: RankPool) -> None:
    """One small collective where all is well; names where it is not, NaN and infinity included."""
    assert pool.run(clip_and_compare, [[1.0, 2.0]] * 4) == [("", 1)] * 4
    assert pool.run(clip_and_compare, [[1.0, 2.0]] * 4, every=0) == [("", 0)] * 4
    assert pool.run(clip_and_compare, [[math.nan, 2.0]] * 4) == [("", 1)] * 4
    for odd in (2.0000005, math.nan, math.inf, 0.0):
        for said, _ in pool.run(clip_and_compare, [[1.0, 2.0], [1.0, 2.0], [1.0, odd], [1.0, 2.0]]):
            assert "The gradients of 1 parameter," in said
            assert "b (2 on rank 0, 2 on rank 1, " in said and "a (" not in said


@on_four
def test_a_rank_without_gradients_comes_too(pool: RankPool) -> None:
    for said, _ in pool.run(clip_and_compare, [[1.0, 2.0], [], [1.0, 2.0], [1.0, 2.0]]):
        assert "by their norms: a (1 on rank 0, 0 on rank 1, 1 on rank 2), " in said


@on_two
def test_a_rank_that_fails_is_heard_of(pool: RankPool) -> None:
    """It raises what is wrong, and the other does not wait."""
    other, own = pool.run(fail_on_one)
    assert other.startswith("RemoteError: Another rank could not measure its gradients")
    assert own.startswith("OverlappingGradientError")


@on_two
def test_stages_that_nobody_has_declared(pool: RankPool) -> None:
    """Their total norms differ, though no parameter does that both have."""
    for said in pool.run(names_of_stages):
        assert said.startswith("The total norm differs between ranks")
        assert "Declare what they hold, such as pipeline stages" in said


@on_two
def test_the_assertion(pool: RankPool) -> None:
    assert pool.run(asserted, [[3.0, 4.0], [3.0, 4.0]]) == ["", ""]
    for said in pool.run(asserted, [[3.0, 4.0], [4.0, 4.0]]):
        assert "a (5 on rank 0, 5.65685 on rank 1)" in said


@on_two
def test_what_is_no_copy_and_what_fails(pool: RankPool) -> None:
    """Declared experts are left out, a rank that fails is heard of, and a warning that is an error loses nothing."""
    first, second = pool.run(workers.assert_with_experts)
    assert first == ["", "TypeError", "AssertionError", "MisuseWarning"]
    assert second == ["", "RemoteError", "AssertionError", "MisuseWarning"]


def test_on_one_rank() -> None:
    """There is nothing to compare."""
    network = workers.network()
    network(workers.torch.ones(4)).sum().backward()
    assert_same_gradients(network)
    assert GradClipper(network, check_replicas_every=1).clip().total_norm > 0.0
    for wrong in (-1, 0.5):
        with pytest.raises(ValueError, match=r"`GradClipper\(check_replicas_every=...\)` must be an integer and >= 0"):
            GradClipper(network, check_replicas_every=wrong)


@on_two
def test_a_gradient_that_one_rank_has_alone(pool: RankPool) -> None:
    """That is a difference like any other, and the parameter is named."""
    for said, warned in pool.run(workers.a_gradient_on_one_rank):
        assert "of 1 parameter, of which every rank" in said
        assert "by their norms: b (1.41421 on rank 0, 0 on rank 1)." in said
        assert warned == [said]


@on_two
def test_stages_that_nobody_declared(pool: RankPool) -> None:
    """Whose parameters no two ranks know by one name: there is none to be named."""
    for warned in pool.run(workers.clip_other_names, "stage"):
        (said,) = warned
        assert "The total norm differs between ranks, and no parameter that several of them have does" in said


@on_four
@pytest.mark.parametrize("layout", ["DDP", "FSDP2", "HSDP", "TP"])
def test_copies_stay_alike_where_each_rank_has_a_loss_of_its_own(pool: RankPool, layout: str) -> None:
    """All skip a step, or none does: by the mean where all hear it, else by no loss; one that is told is taken."""
    answers = pool.run(skipped_by_losses, layout, told=False)
    assert [steps for steps, _ in answers] == [[7] if layout in {"FSDP2", "HSDP"} else []] * 4
    assert max(loss or 0.0 for _, loss in answers) > 99.0  # which is recorded all the same
    assert [steps for steps, _ in pool.run(skipped_by_losses, layout, told=True)] == [[7]] * 4
