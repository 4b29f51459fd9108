"""What tensors cannot say and is declared: pieces, other parameters, copies, and what of it is counted.

The models are data: what each of 4 ranks holds. Tensors of one seed are copies of each other. The axes of the mesh of
2 x 2 ranks, `dp` and `tp`, stand for whatever a model is parted along.
"""

import gc
import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import gradclip
import ownership_workers
import reference
from gradclip.distributed import Ownership, declare, declare_megatron, forget
from gradclip.testing import RankPool
from ownership_workers import Models, Piece, Rule, Seen, elements

RANKS = range(4)
STAGES = [0, 0, 1, 1]  # along `dp`
PLACES = [0, 1, 0, 1]  # along `tp`

ORDERS = [2.0, math.inf, 0.5, 8.0]

on_four = pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)


def stage_of(rank: int) -> list[Piece]:
    """A pipeline stage of one rank: parameters that no other rank has, more of them on later ranks."""
    rule = Rule(disjoint="all")
    return [Piece(f"layers.{rank}.{i}", 10 * rank + i, (rank + 1, 3), rule) for i in range(rank + 1)]


DENSE = Piece("dense", 100, (4, 3), Rule(replicated="all"))
TIED = Rule(disjoint="all", counted=False)

MODELS: dict[str, tuple[Models, int]] = {
    "copies": ([[DENSE]] * 4, 0),
    "pipeline": ([stage_of(rank) for rank in RANKS], 1),
    "experts": ([[DENSE, Piece("expert", 110 + rank, (3, 2), Rule(disjoint="all"))] for rank in RANKS], 1),
    "tensor parallel": (
        [[DENSE, Piece("column", 120 + rank, (2, rank + 1), Rule(sharded="all"))] for rank in RANKS],
        1,
    ),
    "tied": (
        [[*stage_of(rank), Piece("embedding", 130, (5, 2), TIED if rank else Rule(disjoint="all"))] for rank in RANKS],
        1,
    ),
    "tensor parallel in stages": (
        [
            [
                Piece(f"{STAGES[rank]}.column", 140 + rank, (3, 2), Rule(sharded="tp", disjoint="dp")),
                Piece(f"{STAGES[rank]}.norm", 150 + STAGES[rank], (4,), Rule(replicated="tp", disjoint="dp")),
            ]
            for rank in RANKS
        ],
        2,
    ),
    "FSDP in stages": (
        [
            [Piece(f"{stage}.{i}", 160 + 2 * i + stage, (5, 2), Rule(disjoint="dp"), "tp") for i in (0, 1)]
            for stage in STAGES
        ],
        2,
    ),
    "FSDP beside experts": (
        [
            [Piece("dense", 170, (7, 2), None, "all"), Piece("expert", 180 + r, (3,), Rule(disjoint="all"))]
            for r in RANKS
        ],
        1,
    ),
}
"""Each with the number of collectives that it takes where no group of the whole model is given."""


def counted(models: Models) -> dict[int, Piece]:
    """The pieces that make up the model, each tensor once."""
    pieces = [piece for of_rank in models for piece in of_rank]
    return {x.seed: x for x in pieces if (x.rule is None or x.rule.counted) and "shared" not in x.attributes}


def norm_of(models: Models, p: float) -> float:
    return reference.norm([elements(x.seed, x.shape) for x in counted(models).values()], p)


def bound_of(models: Models, p: float) -> float:
    return 0.37 * norm_of(models, p)


def check(models: Models, p: float, seen: list[Seen]) -> None:
    """All ranks know the norm of the whole model, and scale all they hold by the same coefficient."""
    expected = norm_of(models, p)
    coef = reference.coefficient(expected, bound_of(models, p))
    assert {x.norm.item() for x in seen} == {seen[0].norm.item()}
    assert reference.float32_ulps(seen[0].norm.item(), expected) <= 2.0
    assert {x.by_clipper for x in seen} == {seen[0].by_clipper}
    assert seen[0].by_clipper == (pytest.approx(expected, rel=1e-12), 1.0)
    for rank, own in enumerate(seen):
        assert own.left.keys() == {piece.name for piece in models[rank]}
        for piece in models[rank]:
            scaled = reference.scaled(held(piece, rank), coef)
            assert own.left[piece.name].flatten().tolist() == scaled


def held(piece: Piece, rank: int) -> torch.Tensor:
    """The elements of a piece on a rank."""
    size, at = {"": (1, 0), "tp": (2, PLACES[rank]), "all": (4, rank)}[piece.axes]
    return elements(piece.seed, piece.shape).chunk(size)[at]


@on_four
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("name", MODELS)
def test_one_collective_for_each_group(pool: RankPool, name: str, p: float) -> None:
    """The norm goes from group to group; for high orders twice, since all have to know the largest element first."""
    models, collectives = MODELS[name]
    seen = pool.run(ownership_workers.clip, models, p, bound_of(models, p))
    check(models, p, seen)
    assert {x.collectives for x in seen} == {collectives * (2 if p == 8.0 else 1)}


@on_four
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("name", MODELS)
def test_one_collective_for_everything(pool: RankPool, name: str, p: float) -> None:
    """The same norm with a group of the whole model."""
    models, _ = MODELS[name]
    seen = pool.run(ownership_workers.clip, models, p, bound_of(models, p), spanning="all")
    check(models, p, seen)
    assert {x.collectives for x in seen} == {2 if p == 8.0 else 1}


@on_four
@pytest.mark.parametrize("p", ORDERS)
def test_a_rank_without_any_parameter(pool: RankPool, p: float) -> None:
    """It learns the norm all the same, where it is told of which ranks the model is."""
    models = [stage_of(rank) if rank != 2 else [] for rank in RANKS]
    seen = pool.run(ownership_workers.clip, models, p, bound_of(models, p), spanning="all")
    check(models, p, seen)
    assert {x.collectives for x in seen} == {2 if p == 8.0 else 1}


@on_four
@pytest.mark.parametrize("p", [2.0, math.inf, 8.0])
@pytest.mark.parametrize("name", MODELS)
def test_norms_of_single_parameters(pool: RankPool, name: str, p: float) -> None:
    """Of one in pieces, the norm of all pieces; of a tensor that only one rank has, its own."""
    models, _ = MODELS[name]
    for pieces, seen in zip(models, pool.run(ownership_workers.clip, models, p, 1e9), strict=True):
        for piece in pieces:
            together = {piece.seed: piece}
            if piece.rule is not None and piece.rule.sharded:
                together = {x.seed: x for of_rank in models for x in of_rank if x.name == piece.name}
            expected = reference.norm([elements(x.seed, x.shape) for x in together.values()], p)
            assert reference.float32_ulps(seen.each[piece.name].item(), expected) <= 2.0, piece


@on_four
def test_patterns(pool: RankPool) -> None:
    """Names of a module say who holds what; the same may be said twice."""
    rules = {"up.*": Rule(sharded="all"), "*.bias": Rule(counted=False), "*": Rule(disjoint="tp")}
    squares = 4 * (6 + 2) + 0 + 2 * 6
    assert pool.run(ownership_workers.by_patterns, rules) == [pytest.approx(math.sqrt(squares))] * 4


@on_four
def test_gradients_by_themselves(pool: RankPool) -> None:
    """Those of declared parameters, or declared themselves, count as their parameters do; others for what is there."""
    right = pytest.approx(math.sqrt(25.0 * (1 + 4 + 9 + 16) + 1.0))
    for rank, found in enumerate(pool.run(ownership_workers.norms_of_gradients)):
        refusal = found.pop("loose, group")
        assert isinstance(refusal, str) and "'tensors[0]' speaks of 1. Declare the rest" in refusal
        assert found.pop("loose") == pytest.approx(math.sqrt(25.0 * (rank + 1) ** 2 + 1.0))
        ways = ["grad", "grad, group", "main_grad", "main_grad, group", "declared", "declared, group"]
        assert found == dict.fromkeys(ways, right)


# The attributes of Megatron.

TENSOR = ("tensor_model_parallel",)

MEGATRON: dict[str, tuple[Models, dict[str, str]]] = {
    "tensor parallel in stages": (
        [
            [
                Piece("embedding", 200 + PLACES[r], (5, 2), attributes=(*TENSOR, *(["shared"] if STAGES[r] else []))),
                Piece("column", 210 + r, (3, 2), attributes=TENSOR),
                Piece("row", 220 + r, (2, 3), attributes=(*TENSOR, "allreduce", "not shared")),
                Piece("norm", 230 + STAGES[r], (4,)),
                Piece("bias", 240 + STAGES[r], (4,), attributes=("not tensor_model_parallel",)),
            ]
            for r in RANKS
        ],
        {"tensor_parallel": "tp", "pipeline_parallel": "dp"},
    ),
    "experts in stages": (
        [
            [Piece("expert", 250 + r, (3, 2), attributes=("not allreduce",)), Piece("norm", 260 + STAGES[r], (4,))]
            for r in RANKS
        ],
        {"pipeline_parallel": "dp", "expert_parallel": "tp"},
    ),
    "experts in pieces": (
        [
            [
                Piece("expert", 270 + r, (3, 2), attributes=("not allreduce", *TENSOR)),
                Piece("router", 280 + STAGES[r], (2, 2), attributes=("not allreduce",)),
                Piece("column", 290, (3, 2), attributes=()),
            ]
            for r in RANKS
        ],
        {"tensor_parallel": "", "expert_parallel": "dp", "expert_tensor_parallel": "tp"},
    ),
}


@on_four
@pytest.mark.parametrize("p", [2.0, math.inf])
@pytest.mark.parametrize("name", MEGATRON)
def test_megatron(pool: RankPool, name: str, p: float) -> None:
    """Pieces, copies, experts and the second copy of tied weights are known by their attributes."""
    models, groups = MEGATRON[name]
    check(models, p, pool.run(ownership_workers.clip_megatron, models, groups, p, bound_of(models, p)))


@on_four
def test_megatron_in_one_collective(pool: RankPool) -> None:
    """Where all groups are known, one collective does."""
    models, groups = MEGATRON["tensor parallel in stages"]
    bound = bound_of(models, 2.0)
    seen = pool.run(ownership_workers.clip_megatron, models, groups, 2.0, bound, spanning="all")
    check(models, 2.0, seen)
    assert {x.collectives for x in seen} == {1}


# What is refused.


@on_four
def test_groups_that_are_none(pool: RankPool) -> None:
    """Every rank says the same, and nothing was sent: the ranks go on."""
    first, *others = pool.run(ownership_workers.refusals)
    assert first == {
        "not a group": "TypeError: `Ownership(sharded=...)` must be a torch.distributed process group or a DeviceMesh, "
        "got 3 (int).",
        "a name": "TypeError: `Ownership(disjoint=...)` must be a torch.distributed process group or a DeviceMesh, got "
        "'d' (str).",
        "no group of this rank": "ValueError: `Ownership(replicated=...)` must be a group of this rank, got one without"
        " it. Pass its own.",
        "no process group of this rank": "ValueError: `Ownership(replicated=...)` must be a group of this rank, got one"
        " without it. Pass its own.",
        "clip_grad_norm_": "TypeError: `clip_grad_norm_(group=...)` must be a torch.distributed process group or a "
        "DeviceMesh, got 'all' (str).",
        "get_total_norm": "ValueError: `get_total_norm(group=...)` must be a group of this rank, got one without it. "
        "Pass its own.",
        "GradClipper": "TypeError: `GradClipper(group=...)` must be a torch.distributed process group or a DeviceMesh, "
        "got 4 (int).",
        "open": open_about("parameters[0]", 1),
        "open shards": open_about("blocks.0", 2),
        "open in part": open_about("bias", 2),
    }
    assert others == [first] * 3


def open_about(name: str, known: int) -> str:
    return (
        f"ValueError: `group=...` must consist of ranks of which it is known what they hold, got 4 ranks, and {name!r} "
        f"speaks of {known}. Declare the rest with `gradclip.distributed.declare`: as `replicated` where they hold "
        "copies of it, as `disjoint` where they hold other parameters, as `sharded` where they hold pieces. For plain "
        "data parallelism, that is `declare(model, Ownership(replicated=group))`."
    )


@pytest.fixture
def layer() -> Iterator[nn.Linear]:
    layer = nn.Linear(3, 2)
    layer.weight.grad, layer.bias.grad = torch.ones(2, 3), torch.ones(2)
    yield layer
    forget(layer)


def norm(layer: nn.Linear) -> float:
    return gradclip.clip_grad_norm_(layer, math.inf).item()


def test_contradiction(layer: nn.Linear) -> None:
    """What was said holds until it is taken back; of a list with one contradiction, nothing is taken."""
    declare([layer.bias], Ownership(counted=False))
    declare([layer.bias], Ownership(counted=False))
    assert norm(layer) == pytest.approx(math.sqrt(6.0))
    with pytest.raises(ValueError, match="`declare.*must not contradict .* at 'bias', which is .*counted=False"):
        declare(layer, Ownership())
    declare([layer.weight], Ownership(counted=False))
    assert norm(layer) == 0.0
    forget(layer)
    assert norm(layer) == pytest.approx(math.sqrt(8.0))
    declare(layer, Ownership())
    with pytest.raises(ValueError, match="`declare.*must not contradict .* at 'parameters\\[0\\]'"):
        declare([layer.weight], Ownership(counted=False))


def test_contradiction_of_attributes(layer: nn.Linear) -> None:
    """The rule for Megatron does not overrule what was said before."""
    declare([layer.weight], Ownership(counted=False))
    with pytest.raises(ValueError, match="`declare_megatron.*must not contradict .* at 'weight'"):
        declare_megatron(layer)
    layer.weight.shared = True
    declare_megatron(layer)
    assert norm(layer) == pytest.approx(math.sqrt(2.0))


def test_a_parameter_that_no_pattern_matches(layer: nn.Linear) -> None:
    """It is named, with the patterns; and the others are not declared either."""
    with pytest.raises(ValueError, match="must have a pattern for every parameter, got none for 'bias' among 'weight'"):
        declare(layer, {"weight": Ownership(counted=False)})
    assert norm(layer) == pytest.approx(math.sqrt(8.0))


@pytest.mark.parametrize("patterns", [["weigth", "*"], ["*", "weight"]])
def test_a_pattern_that_matches_nothing(layer: nn.Linear, patterns: list[str]) -> None:
    """A wrong name, or a name that an earlier pattern takes."""
    wrong = next(pattern for pattern in patterns if pattern != "*")
    with pytest.raises(ValueError, match=f"got {wrong!r}, which matches none .* The names are weight, bias"):
        declare(layer, {pattern: Ownership(counted=False) for pattern in patterns})
    assert norm(layer) == pytest.approx(math.sqrt(8.0))


@pytest.mark.parametrize("ownership", ["sharded", None, {"*": "sharded"}, [Ownership()]])
def test_what_is_no_ownership(layer: nn.Linear, ownership: object) -> None:
    """Neither words nor lists."""
    with pytest.raises(TypeError, match="`declare.ownership=.*must be an `Ownership`, or a mapping of patterns"):
        declare(layer, ownership)


def test_what_is_no_parameter() -> None:
    """A list of nothing, and something else in a list."""
    with pytest.raises(ValueError, match="`declare.parameters=.*must hold at least one parameter"):
        declare([], Ownership())
    with pytest.raises(TypeError, match="`declare.parameters=.*must hold Tensors, got int at parameters.1"):
        declare([nn.Parameter(torch.ones(1)), 3], Ownership())
    with pytest.raises(ValueError, match="`declare_megatron.parameters=.*must hold at least one parameter"):
        declare_megatron([])
    forget([])


def test_declarations_end_with_the_parameter() -> None:
    """A new parameter at the address of one that is gone has nothing of it."""
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(1000)]
    declare(parameters, Ownership(counted=False))
    gone = set(map(id, parameters))
    del parameters
    gc.collect()
    kept: list[nn.Parameter] = []
    again: list[nn.Parameter] = []
    while not again and len(kept) < 500_000:  # what other tests have freed is taken first
        kept += [nn.Parameter(torch.ones(1)) for _ in range(2000)]
        again = [parameter for parameter in kept[-2000:] if id(parameter) in gone]
    assert again
    for parameter in again:
        parameter.grad = torch.ones(1)
        assert gradclip.clip_grad_norm_([parameter], math.inf).item() == 1.0


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("order", [20.0, 9.0, 2.0])
def test_zeros_beside_tiny_numbers(pool: RankPool, order: float) -> None:
    """Each norm is taken in units of its own, and the total in units of the largest: no power leaves the range."""
    norm = 1e-20 * 4.0 ** (1.0 / order)  # of two numbers on each of two ranks
    for status, total, each in pool.run(ownership_workers.zero_beside_tiny, order):
        assert status == "ok"
        assert total == pytest.approx(norm, rel=1e-6)
        assert each == pytest.approx([0.0, 1e-20 * 2.0 ** (1.0 / order)], rel=1e-6)


@pytest.mark.parametrize("pool", [2], indirect=True, ids="{}ranks".format)
def test_a_dtensor_of_a_class_of_its_own(pool: RankPool) -> None:
    """It says as much as a plain one."""
    assert pool.run(ownership_workers.a_class_of_its_own) == [(6.0, pytest.approx(72.0**0.5))] * 2
