"""Every layout against the float64 norm of the gathered gradients, for every order and dtype, on 1, 2 and 4 ranks."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import layout_workers
import reference
from gradclip.testing import RankPool
from layout_workers import Held, Job, Seen
from layouts import LAYOUTS, summands, whole_of

ORDERS = [0.5, 1.0, 2.0, 3.0, 8.0, math.inf, -math.inf, -1.0]
PARTIAL = [name for name, parts in LAYOUTS.items() if any(word[0] == "P" for part in parts for word in part.words)]

on_ranks = pytest.mark.parametrize("pool", [1, 2, 4], indirect=True, ids="{}ranks".format)


class Truth(NamedTuple):
    """The gradients of a layout: the summands of each, and what they amount to."""

    parts: list[list[Tensor]]
    wholes: list[Tensor]

    @staticmethod
    def of(name: str, ranks: int, job: Job) -> "Truth":
        parts = [
            summands(part, seed, ranks, job.dtype, zeros=job.zeros, scale=job.scale)
            for seed, part in enumerate(LAYOUTS[name])
        ]
        wholes = [whole_of(part, own, ranks) for part, own in zip(LAYOUTS[name], parts, strict=True)]
        return Truth(parts, wholes)

    def norm(self, p: float) -> float:
        return reference.norm(self.wholes, p)


def clipping(name: str, ranks: int, job: Job, orders: list[float], *, unclipped: list[float]) -> Job:
    """Add a bound below the norm for each of some orders, and one above it for others."""
    truth = Truth.of(name, ranks, job)
    below = [(p, 0.37 * truth.norm(p)) for p in orders]
    return job._replace(cases=below + [(p, 1.5 * truth.norm(p) + 1.0) for p in unclipped])


def run(pool: RankPool, name: str, jobs: list[Job]) -> None:
    """Clip on all ranks, and check all that comes of it."""
    answers = pool.run(layout_workers.clip, LAYOUTS[name], jobs)
    held = [of_rank for of_rank, _ in answers]
    check_gathered(name, pool.size, jobs[0], held)
    for number, job in enumerate(jobs):
        truth = Truth.of(name, pool.size, job)
        for place, (p, max_norm) in enumerate(job.cases):
            seen = [seen[number][place] for _, seen in answers]
            check_norm(truth, p, seen)
            check_left(truth, reference.coefficient(truth.norm(p), max_norm), held, seen)


def check_gathered(name: str, ranks: int, job: Job, held: list[list[Held]]) -> None:
    """What torch gathers is what the oracle takes for the whole, on every rank."""
    wholes = Truth.of(name, ranks, job).wholes
    for of_rank in held:
        for own, whole in zip(of_rank, wholes, strict=True):
            assert torch.equal(own.gathered.to(torch.float64), whole)


def check_norm(truth: Truth, p: float, seen: list[Seen]) -> None:
    """The norm is right, plain, and has the same bits on every rank."""
    wide = any(own[0].dtype == torch.float64 for own in truth.parts)
    first, expected = seen[0].norm, truth.norm(p)
    assert {x.kind for x in seen} == {"Tensor"}
    assert first.dtype == (torch.float64 if wide else torch.float32)
    assert first.shape == ()
    assert {x.norm.item() for x in seen} == {first.item()}
    if wide:
        assert first.item() == pytest.approx(expected, rel=1e-14)
    else:
        assert reference.float32_ulps(first.item(), expected) <= 2.0


def check_left(truth: Truth, coef: float, held: list[list[Held]], seen: list[Seen]) -> None:
    """What is left on each rank are its elements of the clipped whole, each rounded once; or the same bytes."""
    for place, parts in enumerate(truth.parts):
        scaled = [x.flatten().tolist() if coef == 1.0 else reference.scaled(x, coef) for x in parts]
        for of_rank, own in zip(held, seen, strict=True):
            number, indices, _ = of_rank[place]
            left, expected = own.local[place].flatten(), [scaled[number][i] for i in indices]
            if left.dtype == torch.float64:  # of which a sum of powers knows all but the last bits
                assert left.tolist() == pytest.approx(expected, rel=1e-14)
            else:
                assert left.tolist() == expected
            if coef == 1.0:
                before = parts[number].flatten()[indices]
                assert torch.equal(left.view(torch.uint8), before.view(torch.uint8))


@on_ranks
@pytest.mark.parametrize("name", LAYOUTS)
def test_norm_and_clip(pool: RankPool, name: str) -> None:
    """The matrix: each layout with each order, in float32 and bfloat16, clipped and not; on fewer ranks, with some."""
    jobs = []
    orders, dtypes = (ORDERS, [torch.float32, torch.bfloat16]) if pool.size == 4 else ([2.0, -1.0], [torch.float32])
    for dtype in dtypes:
        jobs.append(clipping(name, pool.size, Job(dtype, []), orders, unclipped=[2.0, math.inf]))
        jobs.append(clipping(name, pool.size, Job(dtype, [], zeros=True), [0.0], unclipped=[0.5]))
    run(pool, name, jobs)


@on_ranks
@pytest.mark.parametrize("name", ["shards, uneven", "plain beside shards", "sums over one axis"])
def test_other_dtypes(pool: RankPool, name: str) -> None:
    """Half precision, whose sums of powers it cannot hold; double precision, which the norm then has too."""
    jobs = [
        clipping(name, pool.size, Job(dtype, []), [0.5, 2.0, 8.0, math.inf], unclipped=[1.0])
        for dtype in (torch.float16, torch.float64)
    ]
    run(pool, name, jobs)


@on_ranks
@pytest.mark.parametrize("name", ["shards, some empty", "HSDP", "sums"])
def test_extreme_gradients(pool: RankPool, name: str) -> None:
    """Squares that float32 cannot hold, and for the eighth powers of its largest and smallest, nor can float64."""
    jobs = [
        clipping(name, pool.size, Job(dtype, [], scale=2.0**power), [0.5, 2.0, 8.0, -8.0], unclipped=[])
        for dtype in (torch.float32, torch.bfloat16)
        for power in (110, -110)
    ]
    jobs.append(clipping(name, pool.size, Job(torch.float64, [], scale=2.0**120), [8.0], unclipped=[]))
    run(pool, name, jobs)


@pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("name", LAYOUTS)
def test_other_functions(pool: RankPool, name: str) -> None:
    """Norms of gradients alone and of each parameter; scaling by a norm known already; limits to each element."""
    truth = Truth.of(name, pool.size, Job(torch.float32, []))
    norm, limit = truth.norm(2.0), 0.75
    orders = [2.0, 0.5, 3.0, math.inf, -1.0]
    answers = pool.run(layout_workers.other_functions, LAYOUTS[name], orders, 0.5 * norm, norm, limit)
    held = [of_rank for of_rank, _ in pool.run(layout_workers.clip, LAYOUTS[name], [Job(torch.float32, [])])]
    for p in orders:
        check_norm(truth, p, [Seen(type(x.totals[p]).__name__, x.totals[p], []) for x in answers])
        for place, (own, whole) in enumerate(zip(truth.parts, truth.wholes, strict=True)):
            each = [x.each[p][f"part {place}"] for x in answers]
            check_norm(Truth([own], [whole]), p, [Seen(type(x).__name__, x, []) for x in each])
    for p, bits in answers[0].by_clipper.items():  # float64, so that copies stay copies when they are scaled
        assert {x.by_clipper[p] for x in answers} == {bits}
    coef = reference.coefficient(norm, 0.5 * norm)
    check_left(truth, coef, held, [Seen("", torch.tensor(0.0), x.scaled) for x in answers])
    limited = truth._replace(parts=[[x.clamp(-limit, limit) for x in own] for own in truth.parts])
    if name in PARTIAL:
        assert all("must be given gradients that are summed, got a Partial DTensor" in x.refused for x in answers)
        limited = truth
    check_left(limited, 1.0, held, [Seen("", torch.tensor(0.0), x.limited) for x in answers])


# Rarer gradients.


@pytest.mark.parametrize("pool", [2, 4], indirect=True, ids="{}ranks".format)
def test_gradients_on_their_way(pool: RankPool) -> None:
    """A gradient that torch is still summing is waited for."""
    for kind, norm, left in pool.run(layout_workers.still_on_their_way):
        assert kind == "AsyncCollectiveTensor"
        assert norm == pytest.approx(pool.size * math.sqrt(8.0))
        assert left == pytest.approx([1.0 / math.sqrt(8.0)] * 8)


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize(("words", "sums"), [("S0", 1), ("R", 1), ("P", 2)])
def test_complex_gradients(pool: RankPool, words: str, sums: int) -> None:
    """They count by their moduli, those of sums where they are partial."""
    for norm, left in pool.run(layout_workers.complex_numbers, words):
        assert norm == pytest.approx(sums * 5.0 * math.sqrt(8.0))
        assert left == pytest.approx([(3.0 + 4.0j) / norm] * len(left))


@pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)
def test_parameters_of_other_ranks(pool: RankPool) -> None:
    """A DTensor on a mesh that this rank is none of adds nothing here; that it is of the model can be declared."""
    for alone, together, in_one in pool.run(layout_workers.on_other_ranks):
        assert alone == pytest.approx(math.sqrt(10.0))
        assert together == in_one == pytest.approx(math.sqrt(20.0))
