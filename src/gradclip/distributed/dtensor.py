"""What a DTensor says: which elements of the whole its local part holds, and how many ranks hold the same.

DTensor is looked for among the modules that are imported, and not imported: where nobody has, nobody made one.
"""

import sys
from collections.abc import Iterable
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from gradclip.distributed.torch_private import LOCALIZED, LOCALIZER, local_of_dtensor, spec_of_dtensor, split_by
from gradclip.numbers import CPU
from gradclip.units import Units

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Spec: TypeAlias = Any
"""A `DTensorSpec`: mesh, placements and global shape of a DTensor. A DTensor that changes these gets another one."""


def dtensor_type() -> type | None:
    """Return the class, or None where it was not imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return None if module is None else module.DTensor


def is_dtensor(x: object) -> bool:
    """Whether something is a DTensor."""
    kind = dtensor_type()
    return kind is not None and isinstance(x, kind)


def replicated(x: Tensor, like: Any) -> Tensor:
    """Return a tensor that is the same on all ranks as a DTensor on the mesh of another."""
    module: Any = sys.modules["torch.distributed.tensor"]
    mesh = like.device_mesh
    return module.DTensor.from_local(x, mesh, [module.Replicate()] * mesh.ndim, run_check=False)


def may_be_localized() -> bool:
    """Whether there can be parameters that were DTensors: what makes them is imported."""
    return is_dynamo_compiling() or LOCALIZER in sys.modules  # a graph would hold until the next import of anything


def localized_spec(x: Tensor) -> Spec | None:
    """Return the spec of a plain parameter that DDP has made of the local part of a DTensor, which it keeps with it."""
    return getattr(x, LOCALIZED, None)


def spec_of(x: Tensor) -> Spec | None:
    """Return the spec of a DTensor, or of the local part of one that is a plain parameter now; else None."""
    return spec_of_dtensor(x) if is_dtensor(x) else localized_spec(x) if may_be_localized() else None


def local_of(x: Tensor) -> Tensor:
    """Return the part of a DTensor that this rank holds, or a plain tensor itself."""
    return local_of_dtensor(x) if is_dtensor(x) else x.detach()


def is_unsummed(spec: Spec) -> bool:
    """Whether the elements of the whole are yet to be reduced from those of several ranks."""
    return any(placement.is_partial() for placement in spec.placements)


def can_be_unsummed(spec: Spec) -> bool:
    """Whether a gradient of such a parameter may be: each dimension that copies it may sum its gradient yet."""
    return any(not is_shard(placement) for placement in spec.placements)


def copies_of(spec: Spec) -> int:
    """Return how many ranks hold each element once sums that are due are made."""
    sizes = zip(spec.placements, spec.mesh.shape, strict=True)
    return prod(size for placement, size in sizes if not is_shard(placement))


def is_outside(mesh: "DeviceMesh") -> bool:
    """Whether this rank is none of a mesh: its local parts are empty, and it is in no collective."""
    return mesh.get_coordinate() is None


def local_shape(spec: Spec) -> list[int]:
    """Return the shape of the local part."""
    return [len(_held(spec, dim)) for dim in range(len(spec.shape))]


def local_rows(spec: Spec, units: Units) -> Tensor:
    """Return which units of the whole the local part has, in its order."""
    return _rows_at(spec, units, tuple(spec.mesh.get_coordinate() or ()))


@lru_cache(maxsize=4096)
def _rows_at(spec: Spec, units: Units, coordinate: tuple[int, ...]) -> Tensor:  # noqa: ARG001 -- another in another world
    rows = torch.zeros(1, dtype=torch.int64, device=CPU)
    for dim in units.kept(len(spec.shape)):
        rows = (rows[:, None] * spec.shape[dim] + _held(spec, dim)).flatten()
    return rows


def _held(spec: Spec, dim: int) -> Tensor:
    """Return the indices of a dimension that are held here: split as the elements are, by the placements in order."""
    held = torch.arange(spec.shape[dim], device=CPU)
    shape = [1] * dim + [-1]
    coordinate = spec.mesh.get_coordinate() or [0] * spec.mesh.ndim
    for placement, size, place in zip(spec.placements, spec.mesh.shape, coordinate, strict=True):
        if is_shard(placement) and placement.dim == dim:
            parts = split_by(placement, held.view(shape), size)
            held = parts[place].reshape(-1) if place < len(parts) else held[:0]
    return held


def dims_along(mesh: "DeviceMesh", ranks: Iterable[int]) -> frozenset[int] | None:
    """Return the dimensions of a mesh along which ranks lie, from this one; None if these are not all ranks there."""
    own = mesh.get_coordinate()
    coordinates = [(mesh.mesh == rank).nonzero().flatten().tolist() for rank in ranks]
    if not all(coordinates):  # one is not part of the mesh
        return None
    dims = frozenset(dim for at in coordinates for dim in range(mesh.ndim) if own is not None and at[dim] != own[dim])
    return dims if prod(mesh.size(dim) for dim in dims) == len(coordinates) else None


def is_shard(placement: Any) -> bool:
    """Whether the ranks along a dimension of a mesh hold different elements."""
    return not placement.is_replicate() and not placement.is_partial()
