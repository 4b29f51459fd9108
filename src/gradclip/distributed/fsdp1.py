"""The parameters of `FullyShardedDataParallel` (FSDP1): plain tensors that hold pieces, and do not say of what."""

import gc
import sys
import weakref
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor
from torch.compiler import is_dynamo_compiling

from gradclip.distributed.ownership import Groups, Ownership, declared, listed
from gradclip.distributed.span import Group, ranks_of
from gradclip.distributed.torch_private import FLAT, FSDP1, GATHERED, flat_handle, padding_of


class Unit(NamedTuple):
    """What FSDP1 gathers together: a flat parameter, and the identities of the parameters that are views of it."""

    flat: weakref.ref[Tensor]
    pieces: frozenset[int]


_units: list[Unit] = []

_known: dict[int, Ownership] = {}
"""What was found out, by the identity of the parameter, as long as it lives."""


def may_be_flat() -> bool:
    """Whether there can be such parameters: their module is imported."""
    return is_dynamo_compiling() or FSDP1 in sys.modules  # a graph would hold until the next import of anything


def is_flat(parameter: Tensor) -> bool:
    """Whether a parameter is sharded by FSDP1; it is marked then, whether or not it is the flat one itself."""
    return getattr(parameter, FLAT, False)


def ownership_of_flat(parameter: Tensor, whole: frozenset[int] = frozenset()) -> Ownership:
    """Return who holds a parameter that FSDP1 shards, by what it says itself and what was declared beyond that.

    Only the handle of FSDP1 knows, and parameters do not lead to it: it is looked for among all objects, once for all.

    Args:
        parameter: The parameter.
        whole: What `gathered` returns.

    Raises:
        ValueError: If FSDP1 has made plain tensors of the local parts of DTensors, which leave no trace of the rest.
    """
    if id(parameter) not in _known:
        _find_out(parameter)
    said, beyond = _known.get(id(parameter), Ownership()), declared(parameter)
    if id(parameter) in whole:
        said = replace(said, sharded=(), replicated=said.sharded)
    if beyond is None:
        return said
    sharded, replicated = _together(said.sharded, beyond.sharded), _together(said.replicated, beyond.replicated)
    return replace(beyond, sharded=sharded, replicated=replicated, numel=beyond.numel or said.numel)


def _together(some: Groups, others: Groups) -> tuple[Group, ...]:
    """Return groups, each once by whatever it is named."""
    return tuple({ranks_of(group): group for group in (*listed(others), *listed(some))}.values())


def _find_out(parameter: Tensor) -> None:
    handles = [known for x in gc.get_objects() if (known := flat_handle(x)) is not None]
    _units[:] = [Unit(weakref.ref(x.flat), frozenset(id(piece) for piece, _ in x.pieces)) for x in handles]
    for handle in handles:
        own = [(handle.flat, handle.numel), *handle.pieces]
        if handle.is_of_dtensors:  # of another model perhaps, which may be gone but for the collector
            if any(tensor is parameter for tensor, _ in own):
                raise ValueError(
                    "`parameters` must not be sharded by FSDP1 (`FullyShardedDataParallel`) over tensor parallelism, "
                    "got DTensors that it has flattened. Shard with `fully_shard` instead."
                )
            continue
        sharded, replicated = (handle.group, ()) if handle.is_sharded else ((), handle.group)
        for tensor, numel in own:
            if id(tensor) not in _known:
                _known[id(tensor)] = Ownership(sharded=sharded, replicated=replicated, numel=numel)
                weakref.finalize(tensor, _known.pop, id(tensor), None)


def gathered() -> frozenset[int]:
    """Return the parameters of which each rank has the whole now: inside `summon_full_params(with_grads=True)`."""
    return frozenset[int]().union(*(x.pieces for x in _units if hasattr(x.flat(), GATHERED)))


def without_padding(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient of a flat parameter without the zeros at the end that make all shards of one size."""
    padding = padding_of(parameter)
    return gradient[: gradient.numel() - padding] if padding else gradient
