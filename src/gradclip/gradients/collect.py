"""Collect: any accepted input becomes one `GradientSet`, and nothing below it sees a parameter."""

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from gradclip import validation
from gradclip.gradients.gradient_set import GradientSet, values_of
from gradclip.norms import CPU, LARGEST_PLAIN_ORDER
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
) -> GradientSet:
    """Collect the gradients of parameters: each once, in order, without those that are None.

    Args:
        function: The public function that was called, for messages.
        parameters: Any accepted input.
        norm_type: The order of the norm that will be asked for: it may be measured on the way.
        names: The names of a list of parameters.
        writes: Whether the gradients will be written.

    Raises:
        TypeError: For anything else than parameters, gradients passed in their place included.
        OverlappingGradientError: If a gradient cannot be written in place.
    """
    given: Any = parameters  # a list is taken at its word until its elements are read
    tensors, names = (given, names) if type(given) is list else flatten(function, parameters)
    if (backend := dispatch.native()) is not None:
        order = norm_type if norm_type is not None and abs(norm_type) <= LARGEST_PLAIN_ORDER else None
        answer = backend.collect(tensors, order)
        if answer is not None:
            gradients, bits, partial = answer
            buckets: list[dispatch.Bucket] = [(backend, gradients, range(len(gradients)))]
            wide = bits > FLOAT32_BITS
            known = order, partial
            return GradientSet("parameters", tensors, names, gradients, CPU, buckets, wide, backend.scalar, known)

    if tensors is parameters and names is None:  # a list, of pairs perhaps
        tensors, names = flatten(function, parameters)
    _check_tensors(function, "parameters", tensors)
    gradients = _each_once(owner.grad for owner in tensors)
    if tensors and not gradients and not any(p.requires_grad or isinstance(p, torch.nn.Parameter) for p in tensors):
        validation.refuse_gradients(function)
    found = _of_any_kind("parameters", tensors, names, gradients)
    for position, gradient in enumerate(gradients):
        _check_kind(function, found, position)
        if writes and _overlaps(values_of(gradient)):
            validation.refuse_overlap(function, found.names()[position], values_of(gradient))
    found.bucket()
    return found


def gather(function: str, tensors: Tensor | Iterable[Tensor]) -> GradientSet:
    """Collect tensors that are gradients themselves, to read only."""
    listed, names = flatten(function, tensors, argument="tensors")
    _check_tensors(function, "tensors", listed)
    found = _of_any_kind("tensors", listed, names, _each_once(listed))
    for position in range(len(found.gradients)):
        _check_kind(function, found, position)
    found.bucket()
    return found


def _of_any_kind(argument: str, owners: list[Tensor], names: list[str] | None, gradients: list[Tensor]) -> GradientSet:
    wide = any(x.dtype in {torch.float64, torch.complex128} for x in gradients)
    device = gradients[0].device if gradients else CPU
    device = CPU if device == CPU else device
    return GradientSet(argument, owners, names, gradients, device, [], wide, _scalar, (None, 0.0))


def _each_once(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    if not is_dynamo_compiling():
        return list({id(x): x for x in tensors if x is not None}.values())
    once: list[Tensor] = []  # a compiler would compile again for every new id
    for x in tensors:
        if x is not None and not any(x is y for y in once):
            once.append(x)
    return once


def _check_tensors(function: str, argument: str, tensors: list[Tensor]) -> None:
    for place, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            validation.refuse_element(function, argument, f"{argument}[{place}]", x)


def _check_kind(function: str, found: GradientSet, position: int) -> None:
    x = found.gradients[position]
    if not x.is_floating_point() and not x.is_complex():
        reason = "Only these have a norm."
    elif x.layout not in {torch.strided, torch.sparse_coo}:
        reason = "Convert it to a strided or a sparse COO tensor."
    elif _is_distributed(x):
        reason = "A sharded gradient needs a reduction over its mesh: call `torch.nn.utils` for it."
    else:
        return
    validation.refuse_gradient(function, found.names()[position], x, reason)


def _is_distributed(x: Tensor) -> bool:
    module = sys.modules.get("torch.distributed.tensor")  # where nobody imported it, nobody made a DTensor
    return module is not None and isinstance(x, module.DTensor)


def _scalar(number: float, wide: bool) -> Tensor:  # noqa: FBT001 -- the kernels take no keywords
    exact = torch.scalar_tensor(number, dtype=torch.float64, device=CPU)
    return exact if wide else exact.to(torch.float32)  # infinite beyond its range


def _overlaps(x: Tensor) -> bool:
    return x.numel() > 0 and any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True))
