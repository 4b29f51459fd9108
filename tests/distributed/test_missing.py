"""Gradients that some ranks have and others have not: nobody waits, and what is missing counts as no element."""

import math
import random
import time

import pytest
import torch

import layout_workers
import reference
from gradclip.testing import RankPool
from layout_workers import Held, Job, Missing, Trial
from layouts import Part, summands

FROZEN = 3
PARTS = [
    Part((7, 3), "S0"),
    Part((1, 4), "S0"),
    Part((3, 6), "S1"),
    Part((4, 2), "S0"),  # frozen: no rank ever has a gradient of it
    Part((4, 3), "R"),
    Part((5, 2), "R S0", "dp tp"),
    Part((5, 4), "S0", "tp"),
    Part((4, 3), "R", gradient="P"),
    Part((3, 2)),
]
"""One of each kind, on three meshes."""

SUMS = [*PARTS, Part((5, 2), "R S0", "dp tp", "P S0"), Part((6,), "R", gradient="Pavg"), Part((), "R", gradient="P")]

SECONDS = 30.0
"""Far more than all trials take, and less than a rank waits for another."""

ORDERS = [2.0, math.inf, -math.inf, -1.0, 0.0, 8.0]

on_four = pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)


def missing_at_random(parts: list[Part], held: list[list[Held]], count: int) -> Missing:
    """Choose which gradients are there; copies of the same elements are so together, anything else for itself."""
    chance = random.Random(0)
    ranks = range(len(held))
    trials: Missing = []
    for trial in range(count):
        alone, share = chance.choice(ranks), chance.choice([0.1, 0.5, 0.9])
        there = [[False] * len(parts) for _ in ranks]
        for place, part in enumerate(parts):
            kept: dict[object, bool] = {}
            for rank in ranks:
                number, indices, _ = held[rank][place]
                is_copy = part.axes == "tp" or "R" in part.words or not part.placed
                key = (number, tuple(indices)) if is_copy else rank
                there[rank][place] = kept.setdefault(key, chance.random() < share) and place != FROZEN
                if not is_copy and trial % 5 == 1 and rank == alone:  # this one comes almost without any
                    there[rank][place] = False
        trials.append(there)
    trials[3] = [[False] * len(parts) for _ in ranks]
    trials[4] = [[place != FROZEN for place in range(len(parts))] for _ in ranks]
    return trials


def whole_of(part: Part, own: list[torch.Tensor], held: list[Held], there: tuple[bool, ...]) -> torch.Tensor:
    """The whole gradient of a part, of which some ranks have theirs: what is missing is 0."""
    total = torch.zeros(part.shape, dtype=torch.float64).flatten()
    for number, summand in enumerate(own):
        mine = [x.indices for x, is_there in zip(held, there, strict=True) if is_there and x.number == number]
        present = torch.zeros(total.shape, dtype=torch.bool)
        present[[i for indices in mine for i in indices]] = True
        total += summand.flatten().to(torch.float64) * present
    return total / len(own) if "Pavg" in part.words else total


@on_four
@pytest.mark.parametrize("p", [2.0, math.inf])
@pytest.mark.parametrize(("parts", "trials"), [(PARTS, 200), (SUMS, 20)], ids=["200 trials", "sums"])
def test_missing_gradients(pool: RankPool, parts: list[Part], trials: int, p: float) -> None:
    """Norms are the oracle's, and the same on all ranks; one trial has no gradient at all, one all of them."""
    held = [of_rank for of_rank, _ in pool.run(layout_workers.clip, parts, [Job(torch.float32, [])])]
    missing = missing_at_random(parts, held, trials)
    own = [summands(part, seed, pool.size, torch.float32) for seed, part in enumerate(parts)]
    start = time.monotonic()
    answers = pool.run(layout_workers.clip_with_missing, parts, missing, p, more_every=10)
    assert time.monotonic() - start < SECONDS
    for number, of_ranks in enumerate(missing):
        wholes = {
            f"part {place}": whole_of(parts[place], own[place], [x[place] for x in held], there)
            for place, there in enumerate(zip(*of_ranks, strict=True))
            if any(there)
        }
        check([of_rank[number] for of_rank in answers], wholes, p)


def check(seen: list[Trial], wholes: dict[str, torch.Tensor], p: float) -> None:
    """The total is right and the same on all ranks, and so is each norm that a rank can know."""
    expected = reference.norm(list(wholes.values()), p)
    assert {x.total.item() for x in seen} == {seen[0].total.item()}
    assert {x.by_clipper for x in seen} == {seen[0].by_clipper}
    assert reference.float32_ulps(seen[0].total.item(), expected) <= 2.0
    if seen[0].by_clipper is not None:
        norm, status = seen[0].by_clipper
        assert (norm, status) == (pytest.approx(expected, rel=1e-12), "ok")
    for norms in [x.each for x in seen if x.each is not None]:
        assert norms == seen[0].each
        assert norms.keys() == wholes.keys()
        for name, norm in norms.items():
            assert reference.float32_ulps(norm.item(), reference.norm([wholes[name]], p)) <= 2.0


@pytest.mark.parametrize("pool", [1, 2, 4], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("p", ORDERS)
def test_no_gradient_anywhere(pool: RankPool, p: float) -> None:
    """The norm of nothing is 0, of whatever order, and a clipper finds nothing to do."""
    nothing: Missing = [[[False] * len(PARTS)] * pool.size] * 2
    for of_rank in pool.run(layout_workers.clip_with_missing, PARTS, nothing, p):
        assert of_rank == [Trial(torch.tensor(0.0), {}, (0.0, "ok") if p > 0.0 else None)] * 2


@on_four
@pytest.mark.parametrize("p", ORDERS)
def test_gradients_on_one_rank(pool: RankPool, p: float) -> None:
    """One rank holds all elements of the first, one alone has a gradient of the second, then of nothing else."""
    parts = [Part((1, 4), "S0"), Part((8, 2), "S0")]
    both, one = ([[first, rank == 2] for rank in range(pool.size)] for first in (True, False))
    all_of_it, half = (summands(part, seed, pool.size, torch.float32)[0] for seed, part in enumerate(parts))
    expected = [{"part 0": all_of_it, "part 1": half[4:6]}, {"part 1": half[4:6]}]
    answers = pool.run(layout_workers.clip_with_missing, parts, [both, one], p)
    for number, wholes in enumerate(expected):
        check([of_rank[number] for of_rank in answers], wholes, p)


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("first", [False, True])
def test_parameters_without_numbers(pool: RankPool, first: bool) -> None:
    """What is left on the meta device, and not trained, is passed over wherever it stands."""
    assert pool.run(layout_workers.without_numbers, first=first) == [(2.0, 2.0)] * 2
