"""What goes wrong on one rank is known to all: they decide the same, and what they say names parameter and rank."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import failure_workers
import reference
from failure_workers import Break, Said
from gradclip.policies import AGC, AdaGC, FixedNorm, Policy
from gradclip.testing import RankError, RankPool
from layout_workers import Held
from layouts import Part, summands
from processes import forks

NAN, INF = math.nan, math.inf

PARTS = [
    Part((7, 3), "S0"),
    Part((4, 3), "R", gradient="P"),
    Part((6, 2), "R S0", "dp tp"),
    Part((3,), "S0"),
    Part((2, 2)),
]

BREAKS = {
    "NaN": [Break(1, 0, NAN)],
    "Inf": [Break(3, 2, -INF), Break(1, 2, -INF)],  # both copies
    "NaN in a sum": [Break(2, 1, NAN)],
    "NaN and Inf": [Break(0, 0, INF), Break(2, 3, NAN), Break(3, 0, INF)],
}
"""Values of the first element that some ranks hold of some parts."""

on_four = pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)
every_break = pytest.mark.parametrize("name", BREAKS)


@pytest.fixture(scope="module")
def lonely() -> Iterator[RankPool]:
    """Two ranks that nobody shares, and that do not wait for long."""
    with forks(), RankPool(2, timeout=8.0) as pool:
        yield pool


def broken(held: list[list[Held]], breaks: list[Break], *, sanitized: bool = False) -> list[list[torch.Tensor]]:
    """The local gradients of each rank, flat, as they are before the call, or without what is not finite."""
    own = [summands(part, seed, len(held), torch.float32) for seed, part in enumerate(PARTS)]
    local = [[own[place][x.number].flatten()[x.indices] for place, x in enumerate(of_rank)] for of_rank in held]
    for rank, place, value in breaks:
        local[rank][place][0] = 0.0 if sanitized else value
    return local


def norm_of(held: list[list[Held]], local: list[list[torch.Tensor]], p: float) -> float:
    """The norm of what all ranks hold together."""
    wholes: list[torch.Tensor] = []
    for place, part in enumerate(PARTS):
        whole = torch.zeros(part.shape, dtype=torch.float64).flatten()
        for of_rank, own in zip(held, local, strict=True):
            values = own[place].to(torch.float64)
            whole[of_rank[place].indices] = values + (whole[of_rank[place].indices] if "P" in part.words else 0.0)
        wholes.append(whole)
    return reference.norm(wholes, p)


def left_alike(said: list[Said], expected: list[list[torch.Tensor]]) -> bool:
    """Whether all gradients are as expected, bit for bit (where NaN is NaN)."""
    return all(
        torch.equal(left.flatten().nan_to_num(nan=12345.0), own.nan_to_num(nan=12345.0))
        and torch.equal(left.flatten().isnan(), own.isnan())
        for of_rank, owns in zip(said, expected, strict=True)
        for left, own in zip(of_rank.left, owns, strict=True)
    )


def scaled(local: list[list[torch.Tensor]], coef: float) -> list[list[torch.Tensor]]:
    return [[torch.tensor(reference.scaled(x, coef)) for x in of_rank] for of_rank in local]


def found_in(held: list[list[Held]], breaks: list[Break]) -> str:
    """What a message says about all that is broken."""
    by_rank: dict[int, list[str]] = {}
    for rank, place, value in sorted(breaks):
        nan, inf = int(math.isnan(value)), int(math.isinf(value))
        size = len(held[rank][place].indices)
        by_rank.setdefault(rank, []).append(f"part {place} ({nan} NaN, {inf} Inf of {size} elements)")
    return " ".join(f"Rank {rank}: Found in {', '.join(names)}." for rank, names in by_rank.items())


# Decisions.


@on_four
@pytest.mark.parametrize("p", [2.0, INF, 0.5, 8.0])
@every_break
def test_raise(pool: RankPool, name: str, p: float) -> None:
    """Every rank names parameter and rank, with counts, and no byte is changed on any."""
    held = pool.run(failure_workers.held, PARTS)
    said = pool.run(failure_workers.clip, PARTS, BREAKS[name], "raise", p, 1.0)
    assert len({x.error for x in said}) == 1
    assert said[0].error.startswith(f"NonFiniteGradientError: The total norm of order {p} for gradients")
    assert said[0].error.endswith(found_in(held, BREAKS[name]))
    assert left_alike(said, broken(held, BREAKS[name]))


@on_four
@pytest.mark.parametrize("p", [2.0, INF])
@every_break
def test_keep(pool: RankPool, name: str, p: float) -> None:
    """Every rank returns the same norm, NaN or infinite, and no byte is changed on any."""
    held = pool.run(failure_workers.held, PARTS)
    said = pool.run(failure_workers.clip, PARTS, BREAKS[name], "keep", p, 1.0)
    expected = INF if name == "Inf" else NAN
    assert {str(x.norm) for x in said} == {str(expected)}
    assert left_alike(said, broken(held, BREAKS[name]))


@on_four
@pytest.mark.parametrize("p", [2.0, INF])
@every_break
def test_sanitize(pool: RankPool, name: str, p: float) -> None:
    """What is not finite becomes 0 on every rank, and the rest is clipped to its norm."""
    held = pool.run(failure_workers.held, PARTS)
    local = broken(held, BREAKS[name], sanitized=True)
    expected = norm_of(held, local, p)
    said = pool.run(failure_workers.clip, PARTS, BREAKS[name], "sanitize", p, 0.37 * expected)
    assert len({x.norm for x in said}) == 1
    assert reference.float32_ulps(said[0].norm or 0.0, expected) <= 2.0
    assert left_alike(said, scaled(local, reference.coefficient(expected, 0.37 * expected)))


@on_four
@pytest.mark.parametrize("p", [2.0, INF])
@every_break
def test_propagate(pool: RankPool, name: str, p: float) -> None:
    """The arithmetic of torch, on every rank: NaN everywhere, or zeros, and NaN where infinity was."""
    held = pool.run(failure_workers.held, PARTS)
    said = pool.run(failure_workers.clip, PARTS, BREAKS[name], "propagate", p, 1.0)
    coef = 0.0 if name == "Inf" else NAN
    assert {str(x.norm) for x in said} == {"inf" if name == "Inf" else "nan"}
    assert left_alike(said, [[x * coef for x in of_rank] for of_rank in broken(held, BREAKS[name])])


@on_four
@pytest.mark.parametrize("p", [2.0, INF])
@every_break
def test_skip(pool: RankPool, name: str, p: float) -> None:
    """No rank takes the step, and all give up together when there were too many."""
    held = pool.run(failure_workers.held, PARTS)
    said = pool.run(failure_workers.step, PARTS, BREAKS[name], "skip", p, 1.0)
    assert {str(x.norm) for x in said} == {"inf" if name == "Inf" else "nan"}
    assert len({x.more for x in said}) == 1
    assert said[0].more.startswith("skipped_nonfinite, as before, ConsecutiveSkipsError: 2 steps in a row were skipped")
    assert found_in(held, BREAKS[name]) in said[0].more
    assert left_alike(said, broken(held, BREAKS[name]))


@on_four
def test_giving_up_where_a_sink_fails(pool: RankPool) -> None:
    """Which is an error of one rank, where warnings are errors: the others wait for nothing that it has to say."""
    failed, *others = pool.run(failure_workers.give_up_where_a_sink_fails)
    assert "no space left" in failed
    assert all("Rank 0: Found in weight" in said for said in others)


@on_four
@every_break
def test_other_steps(pool: RankPool, name: str) -> None:
    """A clipper that raises does so on every rank; one that sanitizes or propagates steps on every rank."""
    held = pool.run(failure_workers.held, PARTS)
    said = pool.run(failure_workers.step, PARTS, BREAKS[name], "raise", 2.0, 1.0)
    assert len({x.error for x in said}) == 1
    assert said[0].error.startswith("NonFiniteGradientError: The total norm of order 2 is not finite")
    assert said[0].error.endswith(found_in(held, BREAKS[name]))
    assert {x.more.split(", ")[1] for x in said} == {"as before"}
    assert left_alike(said, broken(held, BREAKS[name]))
    local = broken(held, BREAKS[name], sanitized=True)
    expected = norm_of(held, local, 2.0)
    said = pool.run(failure_workers.step, PARTS, BREAKS[name], "sanitize", 2.0, 0.37 * expected)
    assert len({x.norm for x in said}) == 1
    assert said[0].norm == pytest.approx(expected, rel=1e-12)
    assert {x.more for x in said} == {"clipped, moved, "}
    said = pool.run(failure_workers.step, PARTS, BREAKS[name], "propagate", 2.0, 1.0)
    coef = 0.0 if name == "Inf" else NAN
    assert {str(x.norm) for x in said} == {"inf" if name == "Inf" else "nan"}
    assert left_alike(said, [[x * coef for x in of_rank] for of_rank in broken(held, BREAKS[name])])


# Errors of one rank.

BAD = {
    "overlapping": "OverlappingGradientError: `{}` must be able to write each element for itself, got a gradient with "
    "several elements at one place in memory",
    "of integers": "TypeError: `{}` must be given real or complex floating-point gradients, got Tensor of torch.int64",
    "on another mesh": "TypeError: `{}` must be given real or complex floating-point gradients, got DTensor",
    "a sum of a shard": "TypeError: `{}` must be given real or complex floating-point gradients, got DTensor",
    "a product": "TypeError: `{}` must be given real or complex floating-point gradients, got DTensor",
}
"""What the rank itself raises, by what is wrong with its gradient, of a parameter called `last`."""

CALLS = {
    "clip_grad_norm_": "clip_grad_norm_",
    "in one collective": "clip_grad_norm_",
    "GradClipper": "GradClipper.clip",
}


def check_failures(said: list[dict[str, Said]], kinds: dict[int, str]) -> None:
    """Ranks with a bad gradient raise what is wrong with it, the others all of it; and nothing was written."""
    for call, function in CALLS.items():
        raised = {rank: said[rank][call].error for rank in kinds}
        for rank, kind in kinds.items():
            assert raised[rank].startswith(BAD[kind].format(function)), call
            assert " at last. " in raised[rank], call
        told = "RemoteError: " + " ".join(f"Rank {rank}: {error}" for rank, error in sorted(raised.items()))
        assert [x[call].error for rank, x in enumerate(said) if rank not in kinds] == [told] * (4 - len(kinds)), call
        for of_rank in said:
            pairs = zip(of_rank[call].left, of_rank["good"].left, strict=True)
            assert all(torch.equal(left, untouched) for left, untouched in pairs), call
    assert {x["good"].error for x in said} == {""}
    assert len({x["good"].norm for x in said}) == 1


@on_four
@pytest.mark.parametrize("kind", BAD)
def test_a_gradient_that_one_rank_cannot_collect(pool: RankPool, kind: str) -> None:
    """It raises what is wrong with it, the others that it does, and the next clip is like any other."""
    parts = PARTS[:1] if kind == "a sum of a shard" else PARTS  # beside copies, it would be summed
    check_failures(pool.run(failure_workers.collect_what_is_bad, parts, {1: kind}), {1: kind})


@on_four
def test_gradients_that_two_ranks_cannot_collect(pool: RankPool) -> None:
    """Each raises its own, and the others both."""
    kinds = {0: "of integers", 2: "overlapping"}
    check_failures(pool.run(failure_workers.collect_what_is_bad, PARTS, kinds), kinds)


@on_four
def test_norms_that_one_rank_cannot_measure(pool: RankPool) -> None:
    """The same of the norms of single parameters."""
    errors = pool.run(failure_workers.norms_of_what_is_bad, "of integers", 2)
    assert errors[2].startswith(BAD["of integers"].format("get_norms"))
    assert [errors[rank] for rank in (0, 1, 3)] == [f"RemoteError: Rank 2: {errors[2]}"] * 3


@on_four
@pytest.mark.parametrize("bad", range(4))
def test_a_failure_on_meshes_that_overlap_in_part(pool: RankPool, bad: int) -> None:
    """It goes along one axis, then along the other, and so reaches all ranks."""
    said = pool.run(failure_workers.clip_on_two_axes, bad, 1.0, overlapping=True)
    kinds = [x.error.partition(":")[0] for x in said]
    assert kinds == ["OverlappingGradientError" if rank == bad else "RemoteError" for rank in range(4)]
    assert all(torch.equal(left, torch.ones_like(left)) for x in said for left in x.left[:2])


@on_four
@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bad", range(4))
def test_nonfinite_on_meshes_that_overlap_in_part(pool: RankPool, bad: int, axis: int, value: float) -> None:
    """So do NaN and infinity, on whichever of the axes, even if only one of two copies has them."""
    said = pool.run(failure_workers.clip_on_two_axes, bad, value, axis=axis)
    assert [x.error.partition(":")[0] for x in said] == ["NonFiniteGradientError"] * 4


def check_told(other: str, own: str) -> None:
    """The second rank raises an error of its own, and the first one says which."""
    assert other.startswith("RemoteError: Rank 1: "), other
    kind, _, message = own.partition(": ")
    assert kind not in {"RemoteError", "none"}
    assert f"Rank 1: {kind}: {message}" in other


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("what", failure_workers.WRONG)
def test_what_one_rank_passes_wrongly(pool: RankPool, what: str) -> None:
    """With a group, whatever is raised before the collective reaches all ranks, and they go on together."""
    other, own = pool.run(failure_workers.clip_with_a_group, what)
    check_told(other, own)


UNKNOWN = {"a word", "a broken iterator"}
"""What says nothing of a mesh, so that the others cannot be told."""


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("what", [what for what in failure_workers.WRONG if what not in UNKNOWN])
def test_what_one_rank_passes_wrongly_beside_a_mesh(pool: RankPool, what: str) -> None:
    """DTensors among what was passed say who waits, without a group."""
    other, own = pool.run(failure_workers.clip_shards, what)
    check_told(other, own)


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("compares", [0, 1])
@pytest.mark.parametrize("policy", [FixedNorm(100.0), AdaGC(100.0), AGC(100.0)], ids=repr)
def test_a_loss_that_one_rank_tells_wrongly(pool: RankPool, policy: Policy, compares: int) -> None:
    """A clipper tells the others too, whatever norms they are measuring."""
    other, own = pool.run(failure_workers.clip_shards_with_a_loss, policy, compares)
    assert own.startswith("TypeError: `GradClipper.clip(loss=...)` must be a number, got 'large'")
    assert other == f"RemoteError: Rank 1: {own}"


def test_a_declaration_that_one_rank_lacks(lonely: RankPool) -> None:
    """The others do not wait for it."""
    lacking, other = lonely.run(failure_workers.open_on, 0)
    assert lacking.startswith("ValueError: `group=...` must consist of ranks of which it is known what they hold")
    assert other == f"RemoteError: Rank 0: {lacking}"


def test_a_rank_that_dies(lonely: RankPool) -> None:
    """The others fail with the error of torch, and do not return a wrong norm."""
    with pytest.raises(RankError) as caught:
        lonely.run(failure_workers.die, 1)
    said = str(caught.value)
    assert "rank 1 died with exit code 3" in said
    assert "rank 0 raised:" in said
    assert "RuntimeError: [" in said and "gloo" in said


TOLD: dict[str, tuple[Any, str]] = {
    "a generator": (failure_workers.clip_a_generator, "OverlappingGradientError: `clip_grad_norm_` must be able"),
    "gradients": (
        failure_workers.measure_what_is_declared,
        "TypeError: `get_total_norm` must be given real or",
    ),
    "an order": (failure_workers.an_order_that_is_none, "ValueError: `get_norms(norm_type=...)` must be a number"),
    "a loss": (failure_workers.step_with_a_complex_loss, "ValueError: `GradClipper.observe_loss(loss=...)` must hold"),
}


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("what", TOLD)
def test_the_others_are_told(pool: RankPool, what: str) -> None:
    """Whatever it was that one rank could not do, and however it was passed."""
    work, words = TOLD[what]
    other, own = pool.run(work)
    assert own.startswith(words)
    assert other.startswith(f"RemoteError: Rank 1: {words}"), other


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
def test_a_copied_clipper_agrees_anew(pool: RankPool) -> None:
    """Which gradients are yet to be summed, it finds out by itself."""
    assert pool.run(failure_workers.copies_of_a_clipper) == [[pytest.approx(2.0 * 3.0**0.5)] * 3] * 2


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("every", [0, 1])
def test_nan_that_one_rank_has_alone(pool: RankPool, every: int) -> None:
    """All decide alike, whether norms of single parameters are measured or not, and all know whose it is."""
    found = pool.run(failure_workers.nan_beside_shards, every)
    assert {status for status, _ in found} == {"skipped_nonfinite"}
    assert all("Rank 0: Found in plain (2 NaN, 0 Inf of 2 elements)." in said for _, said in found)


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
def test_records_of_what_is_sanitized(pool: RankPool) -> None:
    """Those of every rank say that there was something, be it on another one; and nothing where all is well."""
    assert pool.run(failure_workers.records_of_what_is_sanitized) == [[{}, None], [{"p": (1, 0)}, None]]
