"""Gradients whose elements are yet to be reduced from those of several ranks: DTensors with `Partial` placements.

No norm of them follows from norms of their parts, so the elements have to travel. Which gradients these are, every rank
of a mesh must know, a rank that has none of them this time as well: `agreement` says how they find out.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gradclip.distributed.agreement import Placed, Placements
from gradclip.distributed.dtensor import local_shape
from gradclip.distributed.span import Span
from gradclip.numbers import CPU
from gradclip.sending import moved

REDUCTIONS: dict[str, tuple[str, float]] = {
    "sum": ("SUM", 0.0),
    "avg": ("SUM", 0.0),
    "max": ("MAX", -math.inf),
    "min": ("MIN", math.inf),
}
"""How elements are reduced, by the names of `ReduceOp`, which some builds of torch lack, and what stands for those of a
rank without a gradient. All go well with scaling."""


def summed(
    mesh: Span, due: Mapping[int, Placed], gradients: Mapping[int, Tensor], owners: list[Tensor]
) -> dict[int, Tensor]:
    """Return the local parts of the unsummed gradients of a mesh as they are once reduced; the originals stay.

    Args:
        mesh: The mesh; all its ranks have to call this.
        due: How those gradients are placed which are to be summed, by the place of the parameter, in order.
        gradients: The local parts, by the place of the parameter: of those that this rank has.
        owners: The parameters.
    """
    together: dict[tuple[Any, ...], list[int]] = {}
    for place, spec in due.items():
        key = owners[place].dtype, owners[place].device, spec.mesh, _due(spec.placements)
        together.setdefault(key, []).append(place)
    found: dict[int, Tensor] = {}
    for (dtype, device, device_mesh, steps), places in together.items():
        identity, served = REDUCTIONS[steps[0][1]][1], mesh.serves(device)
        shapes = [local_shape(due[place]) for place in places]
        pieces = [
            gradients[place].reshape(-1).to(served, dtype)
            if place in gradients
            else torch.full((math.prod(shape),), identity, dtype=dtype, device=served)
            for place, shape in zip(places, shapes, strict=True)
        ]
        has = [place in gradients for place in places]
        is_there = torch.tensor([1.0 if there else identity for there in has], dtype=dtype, device=CPU)
        flat = torch.cat([*pieces, moved(is_there, served)])
        for dim, word in steps:
            if device_mesh.size(dim) > 1:
                dist.all_reduce(flat, getattr(dist.ReduceOp, REDUCTIONS[word][0]), group=device_mesh.get_group(dim))
            if word == "avg":
                flat /= device_mesh.size(dim)
        *parts, is_anywhere = flat.to(device).split([*map(math.prod, shapes), len(places)])
        found_anywhere = has if all(has) else [mark != identity for mark in is_anywhere.tolist()]
        for place, x, shape, is_found in zip(places, parts, shapes, found_anywhere, strict=True):
            if is_found:
                found[place] = x.view(shape)
    return found


def is_reducible(placements: Placements) -> bool:
    """Whether all reductions that are due can be made, in any order, before or after scaling."""
    words = {word for _, word in _due(placements)}
    return words <= REDUCTIONS.keys() and (len(words) == 1 or words == {"sum", "avg"})


def _due(placements: Placements) -> tuple[tuple[int, str], ...]:
    return tuple((dim, placement.reduce_op) for dim, placement in enumerate(placements) if placement.is_partial())
