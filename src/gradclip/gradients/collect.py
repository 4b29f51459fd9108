"""Collect: any accepted input becomes one `GradientSet`, and nothing below it sees a parameter."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from gradclip import validation
from gradclip.distributed.dtensor import dtensor_type, is_dtensor
from gradclip.distributed.ownership import anything_declared
from gradclip.distributed.plan import Plan, marks, plan_of, tokens_of
from gradclip.distributed.span import Span
from gradclip.gradients.gradient_set import GradientSet
from gradclip.gradients.kinds import check_gradient, scalar
from gradclip.gradients.sharded import collect_sharded, take_local_parts, told
from gradclip.numbers import CPU, LARGEST_PLAIN_ORDER, Scalar
from gradclip.ops import dispatch
from gradclip.parameters import Parameters, flatten

FLOAT32_BITS = 32


def collect(
    function: str,
    parameters: Parameters,
    norm_type: float | None = None,
    *,
    names: list[str] | None = None,
    writes: bool = True,
    group: Span | None = None,
    loss: Scalar | None = None,
    alone: bool = False,
) -> GradientSet:
    """Collect the gradients of parameters: each once, in order, without those that are None.

    Args:
        function: The public function that was called, for messages.
        parameters: Any accepted input.
        norm_type: The order of the norm that will be asked for: it may be measured on the way.
        names: The names of a list of parameters.
        writes: Whether the gradients will be written.
        group: The ranks that hold the whole model together, where one collective is to do.
        loss: The loss of this rank, to be averaged over all.
        alone: Whether no other rank will be asked about these gradients.

    Raises:
        TypeError: For anything else than parameters, gradients passed in their place included.
        OverlappingGradientError: If a gradient cannot be written in place.
    """
    return told(
        group,
        lambda: _collect(function, parameters, norm_type, names, writes=writes, group=group, loss=loss, alone=alone),
    )


def _collect(
    function: str,
    parameters: Parameters,
    norm_type: float | None,
    names: list[str] | None,
    *,
    writes: bool,
    group: Span | None,
    loss: Scalar | None,
    alone: bool,
) -> GradientSet:
    given: Any = parameters
    is_list = type(given) is list  # which is taken at its word until its elements are read
    tensors, names = (given, names) if is_list else flatten(function, parameters)
    says_all = group is None and not anything_declared()  # of a plain tensor: that no other rank holds more of it
    if (found := _collect_native(tensors, names, norm_type, group, loss, plain=says_all)) is not None:
        return found
    if is_list and names is None:  # of pairs perhaps
        tensors, names = flatten(function, parameters)
    _check_tensors(function, "parameters", tensors)
    if (plan := _plan_of(tensors, names, group)) is not None:
        return collect_sharded(function, "parameters", tensors, names, plan, loss=loss, writes=writes, alone=alone)
    if not says_all and (found := _collect_native(tensors, names, norm_type, group, loss, plain=True)) is not None:
        return found
    gradients = _each_once(owner.grad for owner in tensors)
    if tensors and not gradients and not any(p.requires_grad or isinstance(p, torch.nn.Parameter) for p in tensors):
        validation.refuse_gradients(function)
    found = _of_any_kind("parameters", tensors, names, gradients)
    for position, gradient in enumerate(gradients):
        check_gradient(function, partial(_name_in, found, position), gradient, writes=writes)
    found.bucket()
    return found


def _collect_native(
    tensors: list[Tensor],
    names: list[str] | None,
    norm_type: float | None,
    group: Span | None,
    loss: Scalar | None,
    *,
    plain: bool,
) -> GradientSet | None:
    """Collect dense gradients on the CPU, and measure them on the way; None where there are others.

    Those of plain tensors only if `plain`; of DTensors, the local parts, if these say all about who holds them.
    """
    if (backend := dispatch.native()) is None:
        return None
    order = norm_type if norm_type is not None and abs(norm_type) <= LARGEST_PLAIN_ORDER else None
    sharded = None if anything_declared() else dtensor_type()
    if (not plain and sharded is None) or (answer := backend.collect(tensors, order, sharded, plain, marks())) is None:
        return None
    gradients, bits, power_sum, specs, places = answer
    known = order, power_sum
    if specs is not None:
        return take_local_parts(tensors, names, specs, places, gradients, known, backend, group, loss)
    buckets: list[dispatch.Bucket] = [(backend, gradients, range(len(gradients)))]
    wide = bits > FLOAT32_BITS
    return GradientSet("parameters", tensors, names, gradients, CPU, buckets, wide, backend.scalar, known)


def gather(function: str, tensors: Tensor | Iterable[Tensor], *, group: Span | None = None) -> GradientSet:
    """Collect tensors that are gradients themselves, to read only."""
    return told(group, lambda: _gather(function, tensors, group))


def _gather(function: str, tensors: Tensor | Iterable[Tensor], group: Span | None) -> GradientSet:
    listed, names = flatten(function, tensors, argument="tensors")
    _check_tensors(function, "tensors", listed)
    if (plan := _plan_of(listed, names, group, are_gradients=True)) is not None:
        return collect_sharded(function, "tensors", listed, names, plan, loss=None, writes=False, alone=False)
    found = _of_any_kind("tensors", listed, names, _each_once(listed))
    for position, x in enumerate(found.gradients):
        check_gradient(function, partial(_name_in, found, position), x, writes=False)
    found.bucket()
    return found


def _of_any_kind(argument: str, owners: list[Tensor], names: list[str] | None, gradients: list[Tensor]) -> GradientSet:
    wide = any(x.dtype in {torch.float64, torch.complex128} for x in gradients)
    device = gradients[0].device if gradients else CPU
    device = CPU if device == CPU else device
    return GradientSet(argument, owners, names, gradients, device, [], wide, scalar)


def _each_once(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    if not is_dynamo_compiling():
        return list({id(x): x for x in tensors if x is not None}.values())
    once: list[Tensor] = []  # a compiler would compile again for every new id
    for x in tensors:
        if x is not None and not any(x is y for y in once):
            once.append(x)
    return once


def _plan_of(
    tensors: list[Tensor], names: list[str] | None, group: Span | None, *, are_gradients: bool = False
) -> Plan | None:
    if is_dynamo_compiling():
        if group is not None or anything_declared() or any(is_dtensor(x) for x in tensors):
            validation.refuse_compiled()
        return None
    tokens = tokens_of(tensors, are_gradients=are_gradients)
    if tokens is None and group is None:
        return None
    argument = "tensors" if are_gradients else "parameters"
    return plan_of(tensors, names, tokens or [None] * (2 * len(tensors)), group, argument)


def _name_in(found: GradientSet, position: int) -> str:
    return found.names()[position]


def _check_tensors(function: str, argument: str, tensors: list[Tensor]) -> None:
    for place, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            validation.refuse_element(function, argument, f"{argument}[{place}]", x)
