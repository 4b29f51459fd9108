"""Every combination of what a DTensor says and what is declared of its ranks: honoured, or refused.

The ranks are 2 x 2, along `dp` and `tp`. Of each of the two axes it is known what the ranks along it hold of a
parameter: copies, pieces of it, or other parameters; or nothing is said. From this follows which elements there are.
"""

import itertools
import math
from typing import Literal, NamedTuple

import pytest

import reference
from gradclip.testing import RankPool
from ownership_workers import Rule, Said, all_norms_of, declared_over_its_mesh, elements

Along = Literal["copies", "pieces", "others", "unsaid"]

AXES = ("dp", "tp")
COORDINATES = [(0, 0), (0, 1), (1, 0), (1, 1)]  # of each rank
COVERED = {"": (), "dp": ("dp",), "tp": ("tp",), "all": AXES}
MESHES = {"": [""], "tp": ["R", "S0"], "all": ["R", "S0"], "dp tp": ["R R", "R S0", "S0 R", "S0 S1"]}
KINDS: dict[str, Along] = {"sharded": "pieces", "disjoint": "others", "replicated": "copies"}

CASES = [
    Said(mesh, placements, Rule(sharded, disjoint, replicated))
    for mesh, words in MESHES.items()
    for placements in words
    for sharded, disjoint, replicated in itertools.product(COVERED, repeat=3)
]


class Meaning(NamedTuple):
    """What the ranks along each axis hold."""

    dp: Along
    tp: Along


def meaning_of(said: Said) -> Meaning | None:
    """What all that is said of the two axes comes to; None where it contradicts itself."""
    axes_of_mesh = AXES if said.mesh == "all" else tuple(said.mesh.split())
    words = said.placements.split() * (len(axes_of_mesh) if said.mesh == "all" else 1)
    mesh = dict(zip(axes_of_mesh, words, strict=True))
    groups = [(kind, COVERED[group]) for kind, group in zip(KINDS, said.rule[:3], strict=True) if group]
    found: list[Along] = []
    for axis in AXES:
        declared = [kind for kind, axes in groups if axis in axes]
        if len(declared) > 1:
            return None
        along: Along = KINDS[declared[0]] if declared else "unsaid"
        if axis in mesh:
            shards = mesh[axis] != "R"
            if shards and along in {"others", "copies"}:
                return None
            along = "pieces" if shards else along if declared else "copies"
        found.append(along)
    for _, axes in groups:  # in the mesh, or apart from it: and a mesh of one dimension is not parted
        inside = [axis in mesh for axis in axes]
        if any(inside) and (not all(inside) or (said.mesh == "all" and len(axes) == 1)):
            return None
    return Meaning(*found)


def seeds_of(meaning: Meaning) -> list[int]:
    """One seed for each rank: ranks with copies have the same."""
    same = [along == "copies" for along in meaning]
    return [sum(0 if copies else (axis + 1) * at[axis] for axis, copies in enumerate(same)) for at in COORDINATES]


def norm_of(meaning: Meaning, rank: int, seeds: list[int], summed: set[Along]) -> float:
    """The norm of all that is together with what a rank has, along the axes where this is said."""
    own = COORDINATES[rank]
    together = {
        seed
        for at, seed in zip(COORDINATES, seeds, strict=True)
        if all(x == y or along in summed for x, y, along in zip(at, own, meaning, strict=True))
    }
    return reference.norm([elements(seed, (2, 3)) for seed in together], 2.0)


@pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)
def test_every_combination_of_spans(pool: RankPool) -> None:
    """Each has the norm that follows from what is said, with a group and without; or is refused as it is declared."""
    meanings = [meaning_of(said) for said in CASES]
    seeds = [[0, 1, 2, 3] if meaning is None else seeds_of(meaning) for meaning in meanings]
    answers = pool.run(all_norms_of, list(zip(CASES, seeds, strict=True)))
    honoured = 0
    for case, (said, meaning) in enumerate(zip(CASES, meanings, strict=True)):
        for rank, answer in enumerate(of_rank[case] for of_rank in answers):
            if meaning is None:
                assert isinstance(answer, str), (said, answer)
                assert "must say one thing of every two ranks" in answer
                assert "at weight" in answer
                continue
            expected = (
                norm_of(meaning, rank, seeds[case], {"copies", "pieces", "others"}),
                norm_of(meaning, rank, seeds[case], {"copies", "pieces"}),
                -1.0 if "unsaid" in meaning else norm_of(meaning, rank, seeds[case], {"copies", "pieces", "others"}),
            )
            assert answer == pytest.approx(expected, rel=1e-6), (said, meaning)
            honoured += 1
    assert honoured == 4 * sum(meaning is not None for meaning in meanings) > 0


@pytest.mark.parametrize("pool", [4], indirect=True, ids="{}ranks".format)
@pytest.mark.parametrize("kind", ["sharded", "disjoint"])
def test_the_reported_fault(pool: RankPool, kind: str) -> None:
    """Copies on a mesh of four that are declared to be something else on each: `[3, 4] * (rank + 1)`."""
    right = pytest.approx(5.0 * math.sqrt(30.0))
    assert pool.run(declared_over_its_mesh, kind) == [(right, right)] * 4
