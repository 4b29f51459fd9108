"""Collect: any accepted input becomes one `GradientSet`, and nothing below it sees a parameter."""

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from gradclip import norms, validation
from gradclip.norms import CPU, LARGEST_PLAIN_ORDER, Scalar, finish
from gradclip.ops import dispatch
from gradclip.parameters import Parameters, flatten

SHOWN = 3
"""How many gradients with non-finite elements a message names."""

FLOAT32_BITS = 32


def collect(
    function: str, parameters: Parameters, norm_type: float | None = None, *, writes: bool = True
) -> "GradientSet":
    """Collect the gradients of parameters: each once, in order, without those that are None.

    Args:
        function: The public function that was called, for messages.
        parameters: Any accepted input.
        norm_type: The order of the norm that will be asked for: it may be measured on the way.
        writes: Whether the gradients will be written.

    Raises:
        TypeError: For anything else than parameters, gradients passed in their place included.
        OverlappingGradientError: If a gradient cannot be written in place.
    """
    given: Any = parameters  # a list is taken at its word until its elements are read
    tensors, names = (given, None) if type(given) is list else flatten(function, parameters)
    if (backend := dispatch.native()) is not None:
        order = norm_type if norm_type is not None and abs(norm_type) <= LARGEST_PLAIN_ORDER else None
        answer = backend.collect(tensors, order)
        if answer is not None:
            gradients, bits, partial = answer
            buckets: list[dispatch.Bucket] = [(backend, gradients, range(len(gradients)))]
            wide = bits > FLOAT32_BITS
            known = order, partial
            return GradientSet("parameters", tensors, names, gradients, CPU, buckets, wide, backend.scalar, known)

    if tensors is parameters:  # a list, of pairs perhaps
        tensors, names = flatten(function, parameters)
    _check_tensors(function, "parameters", tensors)
    gradients = _each_once(owner.grad for owner in tensors)
    if tensors and not gradients and not any(p.requires_grad or isinstance(p, torch.nn.Parameter) for p in tensors):
        validation.refuse_gradients(function)
    found = _of_any_kind("parameters", tensors, names, gradients)
    for position, gradient in enumerate(gradients):
        _check_kind(function, found, position)
        if writes and _overlaps(_values(gradient)):
            validation.refuse_overlap(function, found.names()[position], _values(gradient))
    found.bucket()
    return found


def gather(function: str, tensors: Tensor | Iterable[Tensor]) -> "GradientSet":
    """Collect tensors that are gradients themselves, to read only."""
    listed, names = flatten(function, tensors, argument="tensors")
    _check_tensors(function, "tensors", listed)
    found = _of_any_kind("tensors", listed, names, _each_once(listed))
    for position in range(len(found.gradients)):
        _check_kind(function, found, position)
    found.bucket()
    return found


@final
class GradientSet:
    """The gradients of one clip: each counted once, with a name, in buckets that one backend takes in one call.

    A sparse gradient stands for its values. Where it is not coalesced, what has a norm is the sum of its duplicates: a
    coalesced copy is measured, and scaling the values of the original scales that sum.

    Attributes:
        gradients: The gradients as they were found.
        device: That of their norm: the device of the first gradient.
        wide: Whether their norm is float64 instead of float32: where any gradient has this precision.
    """

    __slots__ = (
        "_argument",
        "_known",
        "_measured",
        "_names",
        "_owners",
        "_scalar",
        "_uncoalesced",
        "_written",
        "device",
        "gradients",
        "wide",
    )

    def __init__(
        self,
        argument: str,
        owners: list[Tensor],
        names: list[str] | None,
        gradients: list[Tensor],
        device: torch.device,
        buckets: list[dispatch.Bucket],
        wide: bool,  # noqa: FBT001 -- made in one place for each kind of input
        scalar: Callable[[float, bool], Tensor],
        known: tuple[float | None, Scalar],
    ) -> None:
        """Take gradients, who owns them, the buckets they are in, and a partial that is known already, by its order.

        `scalar` makes a 0-dim CPU tensor of a number: (number, whether as float64) -> tensor.
        """
        self._argument = argument
        self._owners = owners
        self._scalar = scalar
        self._names = names
        self._measured = self._written = buckets
        self._known = known
        self._uncoalesced: list[tuple[Tensor, Tensor]] | None = None
        self.gradients = gradients
        self.device = device
        self.wide = wide

    def bucket(self) -> None:
        """Put the gradients in buckets, sparse ones by their values."""
        self._uncoalesced = [(x, x.coalesce()) for x in self.gradients if x.is_sparse and not x.is_coalesced()]
        self._measured = self._written = dispatch.bucket([_values(x) for x in self.gradients])
        if self._uncoalesced:
            summed = {id(original): coalesced for original, coalesced in self._uncoalesced}
            self._measured = dispatch.bucket([_values(summed.get(id(x), x)) for x in self.gradients])

    def names(self) -> list[str]:
        """Return the name of each gradient: that of the first tensor that owns it, or a place like `parameters[3]`."""
        found: dict[int, str] = {}
        for place, owner in enumerate(self._owners):
            gradient = owner if self._argument == "tensors" else owner.grad
            found.setdefault(id(gradient), self._names[place] if self._names else f"{self._argument}[{place}]")
        return [found[id(gradient)] for gradient in self.gradients]

    @property
    def dtype(self) -> torch.dtype:
        """That of the norm."""
        return torch.float64 if self.wide else torch.float32

    def as_tensor(self, norm: Scalar) -> Tensor:
        """Return a norm as torch does: 0-dim, on the device of the first gradient, rounded to `dtype` once."""
        if isinstance(norm, Tensor):
            return norm.to(self.device, self.dtype)
        number = self._scalar(norm, self.wide)
        return number if self.device is CPU else number.to(self.device)

    def total_norm(self, norm_type: float, *, in_units: bool = False) -> Scalar:
        """Return the p-norm of all elements as one vector, in float64; 0 where there is no element.

        In units of its extremum, the norm of float64 elements cannot overflow either; that takes a second pass.
        """
        if norm_type < 0.0 and all(x.numel() == 0 for _, tensors, _ in self._measured for x in tensors):
            return 0.0
        if in_units or abs(norm_type) > LARGEST_PLAIN_ORDER:
            return _norm_in_units(self._measured, norm_type)
        order, partial = self._known
        return finish(partial if order == norm_type else _partial(self._measured, norm_type), norm_type)

    def norms(self, norm_type: float) -> list[Tensor]:
        """Return the p-norm of each gradient in order: 0-dim, of `dtype`, on the gradient's device."""
        each: dict[int, Tensor] = {}
        for backend, tensors, positions in self._measured:
            if abs(norm_type) > LARGEST_PLAIN_ORDER:
                own = [_norm_in_units([(backend, [x], [0])], norm_type) for x in tensors]
                values = torch.stack([norms.as_float64(norm, x.device) for norm, x in zip(own, tensors, strict=True)])
            else:
                values = norms.finish_each(backend.measure_each(tensors, norm_type), norm_type)
            each.update(zip(positions, values.to(self.dtype).unbind(), strict=True))
        # The norm of no element is 0, of whatever order.
        ordered = [(each[position], _values(x).numel()) for position, x in enumerate(self.gradients)]
        return [norm if numel else torch.zeros_like(norm) for norm, numel in ordered]

    def scale_(self, coef: Scalar) -> None:
        """Multiply every gradient by one coefficient; 1 changes no byte."""
        if not isinstance(coef, Tensor) and coef == 1.0:
            return
        self._known = None, 0.0
        for backend, tensors, _ in self._written:
            backend.scale_(tensors, coef)

    def clamp_(self, bound: float) -> None:
        """Limit every element, or real and imaginary part, to [-bound, bound]."""
        for backend, tensors, _ in self._measured:
            backend.clamp_(tensors, bound)
        self._settle()

    def zero_nonfinite_(self) -> None:
        """Set every NaN or infinite element to 0."""
        with torch.no_grad():
            for _, tensors, _ in self._measured:
                for x in tensors:
                    x.masked_fill_(~x.isfinite(), 0.0)
        self._settle()

    def _settle(self) -> None:
        """Write what was done to coalesced copies back; the gradients are coalesced from then on."""
        self._known = None, 0.0
        if self._uncoalesced:
            with torch.no_grad():
                for original, coalesced in self._uncoalesced:
                    original.copy_(coalesced)
            self.bucket()

    def describe_nonfinite(self) -> str:
        """Say which gradients hold NaN or infinite elements, the first by name and with their counts."""
        found: dict[int, Tensor] = {}
        for backend, tensors, positions in self._measured:
            largest = backend.measure_each(tensors, math.inf).tolist()
            found |= {p: x for p, x, most in zip(positions, tensors, largest, strict=True) if not math.isfinite(most)}
        if not found:
            return "No element is NaN or infinite: the sum of powers overflows float64."
        names = self.names()
        shown = [
            f"{names[p]} ({int(x.isnan().sum())} NaN, {int(x.isinf().sum())} Inf of {x.numel()} elements)"
            for p, x in sorted(found.items())[:SHOWN]
        ]
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"Found in {', '.join(shown)}{more}."


def _partial(buckets: list[dispatch.Bucket], norm_type: float, factor: Scalar = 1.0) -> Scalar:
    partials = [backend.measure(tensors, norm_type, factor) for backend, tensors, _ in buckets]
    return norms.combine(partials, norm_type) if partials else norms.identity(norm_type)


def _norm_in_units(buckets: list[dispatch.Bucket], norm_type: float) -> Scalar:
    if not norms.is_power(norm_type):
        return _partial(buckets, norm_type)
    unit = norms.unit(_partial(buckets, math.copysign(math.inf, norm_type)))
    return unit * finish(_partial(buckets, norm_type, 1.0 / unit), norm_type)


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


def _values(x: Tensor) -> Tensor:
    return x._values() if x.is_sparse else x
