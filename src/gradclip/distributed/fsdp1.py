"""The parameters of `FullyShardedDataParallel` (FSDP1): plain tensors that hold pieces, and do not say of what."""

import gc
import sys
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from gradclip.distributed.ownership import Ownership, declare, declared
from gradclip.torch_private import FLAT, FSDP1, GATHERED, flat_handle, padding_of


class Unit(NamedTuple):
    """What FSDP1 gathers together: a flat parameter, and the identities of the parameters that are views of it."""

    flat: weakref.ref[Tensor]
    pieces: frozenset[int]


_units: list[Unit] = []


def may_be_flat() -> bool:
    """Whether there can be such parameters: their module is imported."""
    return FSDP1 in sys.modules


def is_flat(parameter: Tensor) -> bool:
    """Whether a parameter is sharded by FSDP1; it is marked then, whether or not it is the flat one itself."""
    return getattr(parameter, FLAT, False)


def declare_flat(parameter: Tensor) -> Ownership:
    """Find out and remember who holds a parameter that FSDP1 shards, and all others that it does.

    Only the handle of FSDP1 knows, and parameters do not lead to it: it is looked for among all objects, once.

    Raises:
        ValueError: If FSDP1 has made plain tensors of the local parts of DTensors, which leave no trace of the rest.
    """
    handles = [known for x in gc.get_objects() if (known := flat_handle(x)) is not None]
    _units[:] = [Unit(weakref.ref(x.flat), frozenset(id(piece) for piece, _ in x.pieces)) for x in handles]
    for handle in handles:
        if handle.is_of_dtensors:
            raise ValueError(
                "`parameters` must not be sharded by FSDP1 (`FullyShardedDataParallel`) over tensor parallelism, got "
                "DTensors that it has flattened. Shard with `fully_shard` instead."
            )
        sizes = {id(x): (x, numel) for x, numel in [(handle.flat, handle.numel), *handle.pieces]}
        sharded, replicated = (handle.group, ()) if handle.is_sharded else ((), handle.group)
        for tensor, numel in sizes.values():
            if declared(tensor) is None:
                declare([tensor], Ownership(sharded=sharded, replicated=replicated, numel=numel))
    return declared(parameter) or Ownership()


def as_gathered(owners: list[Tensor], known: Sequence[Ownership | None]) -> list[Ownership | None]:
    """Return who holds parameters now: all ranks the whole, inside `summon_full_params(with_grads=True)`."""
    whole = frozenset[int]().union(*(x.pieces for x in _units if hasattr(x.flat(), GATHERED)))
    if not whole:
        return list(known)
    return [
        replace(of, sharded=(), replicated=of.sharded) if of is not None and of.sharded and id(x) in whole else of
        for x, of in zip(owners, known, strict=True)
    ]


def without_padding(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of a flat parameter without the zeros at the end that make all shards of one size."""
    padding = padding_of(parameter)
    return gradient[: gradient.numel() - padding] if padding else gradient
