"""Layouts as data: how the parameters of a model and their gradients lie on ranks, and how to place them there.

Placements are words, one for each axis of the mesh: `S0` a shard of dimension 0, `X0` one that a later axis has
sharded first (`_StridedShard`, as FSDP2 makes of tensor parallel parameters), `R` a copy, `P` a part of a sum, `Pavg`
of a mean, `Pmax` of a maximum. Nothing here comes from the library: these are the wholes that it must find.
"""

import math
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Part(NamedTuple):
    """One parameter: its shape and placements, none for a plain tensor, those of its gradient where they are others."""

    shape: tuple[int, ...]
    placed: str = ""
    axes: str = "all"
    gradient: str = ""
    dtype: torch.dtype | None = None

    @property
    def words(self) -> list[str]:
        """The placements of the gradient."""
        return (self.gradient or self.placed).split()


def _each(shapes: list[tuple[int, ...]], *args: str, **kwargs: str) -> list[Part]:
    return [Part(shape, *args, **kwargs) for shape in shapes]


class TorchLacksError(RuntimeError):
    """This torch cannot do what a test is about, which is skipped."""


def need_fsdp2() -> None:
    """Skip where `fully_shard` does not run on the CPU."""
    if not hasattr(torch.cpu.Stream, "record_event"):
        raise TorchLacksError("FSDP2 does not run on the CPU in this torch")


EVEN: list[tuple[int, ...]] = [(8, 3), (4,), (4, 2, 2)]
UNEVEN: list[tuple[int, ...]] = [(7, 3), (5,), (3, 2, 2), (9, 2)]

LAYOUTS: dict[str, list[Part]] = {
    "shards, even": _each(EVEN, "S0"),
    "shards, uneven": _each(UNEVEN, "S0"),
    "shards, some empty": _each([(1, 3), (2,), (1, 1), (5, 2)], "S0"),
    "shards, all on the first rank": _each([(1, 4), (1,)], "S0"),
    "shards of columns": _each([(3, 8), (2, 7), (2, 1), (4, 3, 2)], "S1"),
    "copies": _each([(4, 3), (5,)], "R"),
    "numbers": [*_each([()], "R"), *_each([()], "R", gradient="P"), Part(()), Part((3, 2), "S0")],
    "no elements": [*_each([(0, 3), (3, 0)], "S0"), Part((3, 2), "S0"), Part((0,))],
    "plain": _each([(4, 3), (5,), ()]),
    "plain beside shards": [*_each([(4, 3), ()]), *_each(UNEVEN, "S0")],
    "HSDP": _each(UNEVEN, "R S0", "dp tp"),
    "FSDP x TP": [*_each([(7, 5), (8, 4)], "S0 S1", "dp tp"), Part((5,), "S0 R", "dp tp"), Part((3,), "R S0", "dp tp")],
    "FSDP x TP of the same dimension": _each([(8, 3), (7, 2), (3,)], "S0 S0", "dp tp"),
    "strided shards": [*_each([(8, 3), (4,)], "X0 S0", "dp tp"), Part((6, 4), "S0 S1", "dp tp")],
    "strided shards, uneven": _each([(7, 3), (3,), (1, 2)], "X0 S0", "dp tp"),
    "TP under DDP": [Part((5, 4), "S0", "tp"), Part((3, 6), "S1", "tp"), Part((4,), "R", "tp"), Part((2, 3))],
    "meshes of single axes": [Part((5, 4), "S0", "tp"), Part((7, 2), "S0", "dp"), Part((2, 2), "S0 R", "dp tp")],
    "several meshes": [*_each(UNEVEN, "S0"), Part((3, 5), "R S1", "dp tp"), Part((5, 2), "S0", "tp"), Part((2,))],
    "sums": _each([(4, 3), (5,), ()], "R", gradient="P"),
    "means": _each([(4, 3), (5,)], "R", gradient="Pavg"),
    "maxima": _each([(4, 3), (5,)], "R", gradient="Pmax"),
    "sums beside shards": [
        *_each([(3, 3), (5,)], "R", gradient="P"),
        *_each(UNEVEN, "S0"),
        Part((2,), "R"),
        Part((3,)),
    ],
    "sums over one axis": [
        *_each([(7, 3), (1, 2)], "R S0", "dp tp", "P S0"),
        *_each([(5, 3)], "S1 R", "dp tp", "S1 P"),
        *_each([(5, 2)], "R S0", "dp tp"),
    ],
    "sums over both axes": [*_each([(4, 3)], "R R", "dp tp", "P P"), *_each([(3,)], "R R", "dp tp", "R P")],
    "sums of means": _each([(4, 3), (2,)], "R R", "dp tp", "P Pavg"),
    "sums on two meshes": [Part((4, 2), "R", "tp", "P"), Part((3, 2), "R", "all", "P"), Part((5,), "S0", "dp")],
    "gradients placed otherwise": [
        *_each([(7, 3), (5,)], "R", gradient="S0"),
        *_each([(6, 2)], "S0", gradient="R"),
        *_each([(6, 5)], "S0", gradient="S1"),
        *_each([(5, 4)], "R S0", "dp tp", "S0 S1"),
        Part((4,), "S0"),
    ],
    "several dtypes": [
        Part((7, 3), "S0", dtype=torch.bfloat16),
        Part((5, 2), "S0", dtype=torch.float32),
        Part((3,), "R", gradient="P", dtype=torch.float16),
        Part((2, 2), dtype=torch.bfloat16),
    ],
}
"""Each on any number of ranks; the axes `dp` and `tp` are of 1 x 1, 2 x 1 and 2 x 2 ranks."""


# What every process knows without asking: the elements.


def sizes_of(axes: str, ranks: int) -> list[int]:
    """The sizes of the axes of a mesh."""
    dp = 2 if ranks > 1 else 1
    known = {"all": ranks, "dp": dp, "tp": ranks // dp}
    return [known[axis] for axis in axes.split()]


def summands(
    part: Part, seed: int, ranks: int, dtype: torch.dtype, *, zeros: bool = False, scale: float = 1.0
) -> list[Tensor]:
    """The whole gradient; of one that is partial, what each place on the axes concerned adds to it.

    Summands of an element have one sign and are small integers, so that no dtype rounds a sum and none is 0.
    """
    random = torch.Generator().manual_seed(seed)
    dtype = part.dtype or dtype
    sign = torch.randint(0, 2, part.shape, generator=random) * 2 - 1
    if zeros:
        sign *= torch.randint(0, 3, part.shape, generator=random) > 0
    if not any(word[0] == "P" for word in part.words):
        size = torch.randn(part.shape, generator=random, dtype=torch.float64).abs() + 0.01
        return [(sign * size * scale).to(dtype)]
    count = math.prod(size for _, size in _partial(part, ranks))
    sizes = [torch.randint(1, 9, part.shape, generator=random) for _ in range(count)]
    return [(sign * size * scale).to(dtype) for size in sizes]


def whole_of(part: Part, parts: list[Tensor], ranks: int) -> Tensor:
    """What summands amount to: float64."""
    stacked = torch.stack([x.to(torch.float64) for x in parts])
    words = {word for word, _ in _partial(part, ranks)}
    if words == {"Pmax"}:
        return stacked.amax(0)
    return stacked.sum(0) / math.prod(size for word, size in _partial(part, ranks) if word == "Pavg")


def _partial(part: Part, ranks: int) -> list[tuple[str, int]]:
    pairs = zip(part.words, sizes_of(part.axes, ranks) if part.words else [], strict=True)
    return [(word, size) for word, size in pairs if word[0] == "P"]


# On a rank.


@cache
def mesh_of(axes: str) -> "DeviceMesh":
    """The mesh of all ranks, or the one of two axes, or the part of it along one."""
    from torch.distributed import get_world_size, init_device_mesh

    if axes in {"all", "dp tp"}:
        sizes = tuple(sizes_of(axes, get_world_size()))
        return init_device_mesh("cpu", sizes, mesh_dim_names=tuple(axes.split()))
    return mesh_of("dp tp")[axes]


def place(wholes: list[Tensor], words: list[str], mesh: "DeviceMesh") -> Tensor:
    """The DTensor of a whole, or of the summands of one that is partial."""
    from torch.distributed.tensor import DTensor

    coordinate = mesh.get_coordinate()
    local = wholes[number_of(words, mesh)]
    shape, stride = local.shape, local.stride()
    steps = list(zip(words, mesh.shape, coordinate or [], strict=True))
    if "X0" in words:  # the axes after it come first
        steps.reverse()
    for word, size, at in steps:
        if word[0] in "SX":
            pieces = local.chunk(size, int(word[1]))
            local = pieces[at] if at < len(pieces) else local.narrow(int(word[1]), 0, 0)
    placements = [_placement(word, mesh) for word in words]
    return DTensor.from_local(local.clone(), mesh, placements, run_check=False, shape=shape, stride=stride)


def split(whole: Tensor, mesh: "DeviceMesh", placements: Any) -> Tensor:
    """The DTensor of a whole that every rank has: torch 2.7 and newer need not send it."""
    from torch.distributed.tensor import distribute_tensor

    has_choice = "src_data_rank" in signature(distribute_tensor).parameters
    return distribute_tensor(whole, mesh, placements, **({"src_data_rank": None} if has_choice else {}))


def number_of(words: list[str], mesh: "DeviceMesh") -> int:
    """Which of the summands this rank has."""
    number = 0
    for word, size, at in zip(words, mesh.shape, mesh.get_coordinate() or [], strict=True):
        if word[0] == "P":
            number = number * size + at
    return number


def _placement(word: str, mesh: "DeviceMesh") -> Any:
    from torch.distributed.tensor import Partial, Replicate, Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    kind, rest = word[0], word[1:]
    if kind == "X":
        return _StridedShard(int(rest), split_factor=mesh.size(1))
    return {"R": Replicate, "S": lambda: Shard(int(rest)), "P": lambda: Partial(rest or "sum")}[kind]()
