"""Gradients whose elements are yet to be reduced from those of several ranks: DTensors with `Partial` placements.

No norm of them follows from norms of their parts, so the elements have to travel. Which gradients these are, every rank
of a mesh must know, a rank that has none of them this time as well: whoever meets one that was not agreed on says so in
the collective that all take part in anyway, and all agree anew.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from gradclip.distributed.dtensor import local_shape
from gradclip.distributed.plan import Plan
from gradclip.distributed.span import Span

Placements: TypeAlias = tuple[Any, ...]

REDUCTIONS: dict[str, tuple[str, float]] = {
    "sum": ("SUM", 0.0),
    "avg": ("SUM", 0.0),
    "max": ("MAX", -math.inf),
    "min": ("MIN", math.inf),
}
"""How elements are reduced, by the names of `ReduceOp`, which some builds of torch lack, and what stands for those of a
rank without a gradient. All go well with scaling."""


class Placed(NamedTuple):
    """The spec of a gradient: that of its parameter, with placements of its own."""

    mesh: Any
    shape: Any
    placements: Placements


def agree(plan: Plan, mesh: Span, met: Mapping[int, Placements]) -> None:
    """Make the ranks of a mesh agree on which gradients are partial there, from what each has met."""
    places = plan.meshes[mesh]
    together: dict[int, Placements] = {}
    for theirs in mesh.gather({number: met[place] for number, place in enumerate(places) if place in met}):
        together |= theirs
    for number, place in enumerate(places):
        plan.agreed.pop(place, None)
        if number in together:
            spec = plan.specs[place]
            plan.agreed[place] = Placed(spec.mesh, spec.shape, together[number])


def reduced(plan: Plan, mesh: Span, gradients: Mapping[int, Tensor], owners: list[Tensor]) -> dict[int, Tensor]:
    """Return the local parts of the agreed gradients of a mesh as they are once reduced; the originals stay.

    Args:
        plan: The plan.
        mesh: The mesh; all its ranks have to call this.
        gradients: The local parts, by the place of the parameter: of those that this rank has.
        owners: The parameters.
    """
    together: dict[tuple[Any, ...], list[int]] = {}
    for place in plan.meshes[mesh]:
        if (spec := plan.agreed.get(place)) is not None:
            key = owners[place].dtype, owners[place].device, spec.mesh, _due(spec.placements)
            together.setdefault(key, []).append(place)
    found: dict[int, Tensor] = {}
    for (dtype, device, device_mesh, due), places in together.items():
        identity = REDUCTIONS[due[0][1]][1]
        shapes = [local_shape(plan.agreed[place]) for place in places]
        pieces = [
            gradients[place].reshape(-1) if place in gradients else torch.full((math.prod(shape),), identity)
            for place, shape in zip(places, shapes, strict=True)
        ]
        is_there = torch.tensor([1.0 if place in gradients else identity for place in places])
        flat = torch.cat([x.to(mesh.device_for(device), dtype) for x in (*pieces, is_there)])
        for dim, word in due:
            if device_mesh.size(dim) > 1:
                dist.all_reduce(flat, getattr(dist.ReduceOp, REDUCTIONS[word][0]), group=device_mesh.get_group(dim))
            if word == "avg":
                flat /= device_mesh.size(dim)
        *parts, is_anywhere = flat.to(device).split([*map(math.prod, shapes), len(places)])
        for place, x, shape, mark in zip(places, parts, shapes, is_anywhere.tolist(), strict=True):
            if mark != identity:
                found[place] = x.view(shape)
    return found


def is_reducible(placements: Placements) -> bool:
    """Whether all reductions that are due can be made, in any order, before or after scaling."""
    words = {word for _, word in _due(placements)}
    return words <= REDUCTIONS.keys() and (len(words) == 1 or words == {"sum", "avg"})


def _due(placements: Placements) -> tuple[tuple[int, str], ...]:
    return tuple((dim, placement.reduce_op) for dim, placement in enumerate(placements) if placement.is_partial())
