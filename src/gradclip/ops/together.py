"""What torch does to tensors of a device in few launches, with as little traffic as there can be."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gradclip.numbers import identity, is_extremum
from gradclip.ops.rounding import scaled
from gradclip.sending import indices
from gradclip.torch_private import copy_each_, norms_in_float64, transform

PIECE = 2**22
"""Elements that are worked on at a time: each piece costs a launch for each operation, and scratch."""

MEASURED_ORDERS = {1.0, 2.0, math.inf}
MEASURED_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
"""What torch measures in float64 on a device."""

SCALED_DTYPES = {torch.float32, torch.float64}
"""What torch multiplies by a float64 number and rounds once, in one launch: others would go through float32."""

BITS = {1: torch.int8, 2: torch.int16}
"""Whole numbers with the bits of smaller dtypes, by their bytes."""


def has_fused_norms(tensors: list[Tensor], order: float) -> bool:
    """Whether torch measures tensors in float64 in a few launches."""
    return order in MEASURED_ORDERS and len(tensors) > 0 and all(x.dtype in MEASURED_DTYPES for x in tensors)


def fused_partials(tensors: list[Tensor], order: float) -> Tensor:
    """Return the partial of each tensor."""
    each = torch.full((len(tensors),), identity(order), dtype=torch.float64, device=tensors[0].device)
    for dtype in dict.fromkeys(x.dtype for x in tensors):
        places = [i for i, x in enumerate(tensors) if x.dtype == dtype and x.numel()]
        if places:
            norms = torch.stack(norms_in_float64([tensors[i] for i in places], order))
            partials = norms if is_extremum(order) else norms.pow(order)
            each = (
                partials if len(places) == len(tensors) else each.index_copy(0, indices(places, each.device), partials)
            )
    return each


def multiply_(x: Tensor, factor: Tensor) -> None:
    """Multiply a tensor of one of `SCALED_DTYPES` in place, and round once; no byte changes where the factor is 1.

    Args:
        x: The tensor.
        factor: float64 numbers that broadcast over it.
    """
    if not factor.ndim:
        factor = factor.view([1] * x.ndim)  # a 0-dim number would be rounded to the dtype of the tensor
    if x.ndim:
        torch.where(factor == 1.0, x, torch.mul(x, factor, out=torch.empty_like(x)), out=x)
    else:
        multiply_(x.view(1), factor.view(1))


def multiply_all_(tensors: list[Tensor], factor: Tensor) -> None:
    """Multiply real tensors by one float64 number, as `multiply_` does: small ones together."""
    by = {dtype: _multiplier(dtype, factor) for dtype in dict.fromkeys(x.dtype for x in tensors)}
    small: dict[torch.dtype, list[Tensor]] = {}
    for x in tensors:
        if not x.is_contiguous():
            by[x.dtype](x)
        elif x.numel() > PIECE:
            for piece in x.view(-1).split(PIECE):
                by[x.dtype](piece)
        else:
            small.setdefault(x.dtype, []).append(x.view(-1))
    for dtype, group in small.items():
        for own in _piecewise(group):
            if len(own) == 1:
                by[dtype](own[0])
                continue
            together = joined(own)
            by[dtype](together)
            copy_each_(own, list(together.split([len(x) for x in own])))


def _multiplier(dtype: torch.dtype, factor: Tensor) -> Callable[[Tensor], None]:
    """Return what multiplies tensors of one dtype in place.

    There are few numbers of 8 or 16 bits, so what becomes of each is looked up: to compute it is a dozen operations.
    """
    if dtype in SCALED_DTYPES:
        return partial(multiply_, factor=factor)
    bits = BITS[dtype.itemsize]
    numbers = torch.arange(256**dtype.itemsize, dtype=torch.int32, device=factor.device).to(bits).view(dtype)
    mask = torch.full((1,), len(numbers) - 1, dtype=torch.int32, device=factor.device)
    return partial(_look_up_, products=scaled(numbers, factor).view(bits), mask=mask)


def _look_up_(x: Tensor, products: Tensor, mask: Tensor) -> None:
    """Put in the place of each number what stands at the place that its bits count, less their sign by a mask."""
    bits = x.view(products.dtype)
    places = torch.bitwise_and(bits, mask)
    if bits.is_contiguous():
        torch.index_select(products, 0, places.view(-1), out=bits.view(-1))
    else:
        bits.copy_(products.index_select(0, places.reshape(-1)).view(bits.shape))


def joined(vectors: list[Tensor]) -> Tensor:
    """Return vectors of one dtype as one of that dtype: `torch.autocast` has another, or an error, but for an `out`."""
    if transform() is not None:  # which knows no `out`
        return torch.cat(vectors)
    return torch.cat(vectors, out=vectors[0].new_empty(sum(x.numel() for x in vectors)))


def _piecewise(vectors: list[Tensor]) -> list[list[Tensor]]:
    """Return vectors in groups of no more elements than a piece has, or of one."""
    groups: list[list[Tensor]] = [[]]
    elements = 0
    for x in vectors:
        elements += len(x)
        if groups[-1] and elements > PIECE:
            groups.append([])
            elements = len(x)
        groups[-1].append(x)
    return groups
