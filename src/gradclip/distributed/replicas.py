"""Whether ranks that hold copies of a model have the same gradients: a look now and then, in one small collective.

Plain tensors do not say that gradients were never reduced over ranks, as those of DDP inside `no_sync()` are not: each
rank then clips by a norm of its own, and the copies drift apart.
"""

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
import torch.distributed as dist

from gradclip.distributed.span import Span, span_of
from gradclip.exceptions import RemoteError
from gradclip.numbers import CPU, Scalar, as_float64

CLOSE = 1e-12
"""How far apart equal norms may be, as a share: other numbers of threads add them up in another order."""

SHOWN = 3
"""How many parameters a message names."""

Differing: TypeAlias = dict[str, dict[int, float]]
"""The norms of parameters by rank, where they differ."""


def everyone() -> Span | None:
    """Return all ranks of the program; None where there is one, or no process group."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    world = dist.group.WORLD
    return None if world is None else span_of(world)


def is_same(norm: Scalar | None, span: Span, device: torch.device) -> bool:
    """Whether all ranks of a span have one norm, NaN and infinities being one too; waits for the answer.

    Args:
        norm: That of this rank; None if it could not be measured.
        span: The ranks, all of which have to call this.
        device: Where the parameters are.

    Raises:
        RemoteError: If another rank could not measure its own.
    """
    failed = norm is None
    own = as_float64(0.0 if norm is None else norm, CPU)
    known = torch.where(own.isfinite(), own, math.inf)
    vector = torch.stack([known, -known, as_float64(float(failed), CPU)]).to(span.serves(device))
    span.reduce_(vector, maximum=True)
    largest, negative, failed_anywhere = vector.tolist()
    if failed_anywhere and not failed:
        raise RemoteError("Another rank could not measure its gradients, so this one has not clipped either.")
    return _is_close(-negative, largest)


def differing(own: Mapping[str, float], span: Span) -> Differing:
    """Return the norms that differ among the ranks that know a parameter by its name; all ranks have to call this."""
    known: Differing = {}
    for rank, theirs in zip(span.ranks, span.gather(dict(own)), strict=True):
        for name, norm in theirs.items():
            known.setdefault(name, {})[rank] = norm if math.isfinite(norm) else math.inf
    return {name: norms for name, norms in known.items() if not _is_close(min(norms.values()), max(norms.values()))}


def describe(found: Differing) -> str:
    """Say which parameters differ, and what to do."""
    if not found:
        return (
            "The total norm differs between ranks, and no parameter that several of them have does. Declare what they "
            "hold, such as pipeline stages: `gradclip.distributed.declare`."
        )
    shown = [
        f"{name} ({', '.join(f'{norm:g} on rank {rank}' for rank, norm in list(norms.items())[:SHOWN])})"
        for name, norms in list(found.items())[:SHOWN]
    ]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    what = "1 parameter" if len(found) == 1 else f"{len(found)} parameters"
    return (
        f"The gradients of {what}, of which every rank should have a copy, differ between ranks, by their norms: "
        f"{', '.join(shown)}{more}. Clip once they are reduced: not inside `no_sync()`, and after an all-reduce of "
        "your own. What is no copy has to be declared: `gradclip.distributed.declare`."
    )


def _is_close(smallest: float, largest: float) -> bool:
    return smallest == largest or largest - smallest <= CLOSE * largest < math.inf
