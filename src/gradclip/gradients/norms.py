"""Norms of what a batch holds: of everything, of each tensor, of each unit."""

import math

import torch
from torch import Tensor

from gradclip.numbers import LARGEST_PLAIN_ORDER, Scalar, as_float64, finish, finish_each, is_power, unit
from gradclip.ops.backend import Batch
from gradclip.ops.registry import open_
from gradclip.sending import sent
from gradclip.units import Units


def needs_units(order: float) -> bool:
    """Whether sums of powers of an order leave the range of float64, but for numbers in units of their extremum."""
    return abs(order) > LARGEST_PLAIN_ORDER and is_power(order)


def extremum(order: float) -> float:
    """Return the order of the extremum that powers of an order are taken in units of."""
    return math.copysign(math.inf, order)


def norm_of(batch: Batch, order: float, *, in_units: bool = False) -> Scalar:
    """Return the p-norm of all elements; 0 where there is none.

    In units of its extremum, the norm of float64 elements cannot overflow either; that takes a second pass.
    """
    if order == 2.0 and not in_units:  # noqa: PLR2004 -- as a rule
        return batch.norm()
    if order < 0.0 and not any(batch.numels()):
        return 0.0
    if needs_units(order) or (in_units and is_power(order)):
        scale = unit(batch.partial(extremum(order)))
        return scale * finish(batch.partial(order, 1.0 / scale), order)
    return finish(batch.partial(order), order)


def norms_of(batch: Batch, order: float) -> Tensor:
    """Return the p-norm of each tensor: a vector; 0 where it has no element."""
    if needs_units(order):
        scales = as_float64(unit(batch.partials(extremum(order))))
        norms = scales * finish_each(batch.partials(order, 1.0 / scales), order)
    else:
        norms = finish_each(batch.partials(order), order)
    if order < 0.0:
        empty = sent([numel == 0 for numel in batch.numels()], norms.device, torch.bool)
        norms = norms.masked_fill(empty, 0.0)
    return norms


def unit_partials_of(batch: Batch, units: Units) -> Tensor:
    """Return the partial of each unit of each tensor: a vector."""
    if units.axis is None:
        return batch.unit_partials(units.order)
    return open_([units.rows(x) for x in batch.tensors]).unit_partials(units.order)


def scale_units_(batch: Batch, coefs: Tensor, units: Units) -> None:
    """Multiply each unit of each tensor by its own coefficient."""
    if units.axis is None:
        batch.scale_units_(coefs)
        return
    rows = [units.rows(x) for x in batch.tensors]
    open_(rows).scale_units_(coefs)
    for x, own in zip(batch.tensors, rows, strict=True):
        units.write_back(own, x)
    batch.forget()
