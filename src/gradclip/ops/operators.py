"""The operations as operators of torch: in a graph that `torch.compile` makes, each is one node, whoever answers it.

While a graph is made, its tensors have shapes and no numbers. When it runs, an operator opens its tensors by the best
backend for them, as any other call does.
"""

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from gradclip.numbers import WIDE, Scalar, as_float64, from_device, home
from gradclip.ops.backend import Backend, Batch, count_units
from gradclip.ops.overlap import overlaps, refuse_overlap
from gradclip.ops.reference import norm_tensor

NAMESPACE = "gradclip"

OUTSIDE_OF_GRAPHS = [torch.Tag.cudagraph_unsafe] if hasattr(torch.Tag, "cudagraph_unsafe") else []
"""What keeps operators out of the CUDA graphs that a compiler makes, which older torch cannot be told.

Kernels keep memory for a stream, and in the run before a capture, all that is asked for belongs to the graph.
"""

_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_OPERATORS: Any = getattr(torch.ops, NAMESPACE)


@final
class OperatorBatch(Batch):
    """Tensors of one device in a graph that is made, where all numbers are tensors.

    Args:
        tensors: The tensors, one or more.
    """

    __slots__ = ("_detached", "_device", "_norm", "tensors")

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors
        # Not `no_grad`: an error in a graph would leave it on.
        self._detached = [x.detach() if x.requires_grad else x for x in tensors]
        self._device = tensors[0].device
        self._norm: tuple[Tensor, Tensor] | None = None

    def partial(self, order: float, factor: Scalar = 1.0) -> Tensor:
        by = None if isinstance(factor, float) and factor == 1.0 else self._number(factor)
        return _OPERATORS.partial(self._detached, order, by)

    def partials(self, order: float, factors: Tensor | None = None) -> Tensor:
        return _OPERATORS.partials(self._detached, order, factors)

    def norm_and_coefficient(self, max_norm: Scalar, eps: float) -> tuple[Scalar, Scalar]:
        if isinstance(max_norm, Tensor):
            return super().norm_and_coefficient(max_norm, eps)
        total, coef, norm = _OPERATORS.norm_and_coefficient(self._detached, max_norm, eps)
        self._norm = total, norm
        return total, coef if max_norm < math.inf else 1.0

    def unit_partials(self, order: float = 2.0) -> Tensor:
        return _OPERATORS.unit_partials(self._detached, order)

    def scale_(self, coef: Scalar) -> None:
        if isinstance(coef, Tensor) or coef != 1.0:
            _OPERATORS.scale_(self._detached, self._number(coef))

    def scale_units_(self, coefs: Tensor) -> None:
        _OPERATORS.scale_units_(self._detached, coefs)

    def clamp_(self, bound: Scalar) -> None:
        _OPERATORS.clamp_(self._detached, self._number(bound))

    def count_nonfinite(self, unless_finite: Scalar = math.nan) -> Tensor:
        return _OPERATORS.count_nonfinite(self._detached, self._number(unless_finite))

    def sanitize_(self) -> None:
        _OPERATORS.sanitize_(self._detached)

    def as_tensor(self, number: Scalar, *, wide: bool | None = None) -> Tensor:
        if self._norm is not None and number is self._norm[0] and wide in {None, self.is_wide}:
            return self._norm[1]  # rounded already
        return norm_tensor(number, self.is_wide if wide is None else wide, self._device)

    def _number(self, number: Scalar) -> Tensor:
        return as_float64(number, self._device)


@final
class Operators(Backend):
    """What answers where `torch.compile` makes a graph."""

    name = "operators"

    def takes(self, tensors: list[Tensor]) -> bool:
        return all(x.device == tensors[0].device and _is_taken(x) for x in tensors)

    def open(self, tensors: list[Tensor], chunks: object = None) -> OperatorBatch | None:  # noqa: ARG002 -- of kernels
        return OperatorBatch(tensors) if self.takes(tensors) else None


def _is_taken(x: Tensor) -> bool:
    """Whether a compiler lets an operator write a tensor: not complex ones, whose conjugates are lazy."""
    return x.is_floating_point() and x.layout == torch.strided


OPERATORS = Operators()


def define_all(
    open_: Callable[[list[Tensor]], Batch], taken_by_kernels: Callable[[list[Tensor]], Batch | None]
) -> None:
    """Define the operators: one for each method of a batch, with its name and arguments.

    Args:
        open_: Opens any tensors as one batch, when a graph runs.
        taken_by_kernels: Opens those that kernels take, each of which is in a place of its own.
    """

    def to_write(name: str, xs: list[Tensor]) -> Batch:
        if (batch := taken_by_kernels(xs)) is not None:
            return batch
        for place, x in enumerate(xs):
            if overlaps(x):
                refuse_overlap(f"{NAMESPACE}::{name}", f"tensors[{place}]", x)
        return open_(xs)

    def partial(xs: list[Tensor], order: float, factor: Tensor | None) -> Tensor:
        found = open_(xs).partial(order, 1.0 if factor is None else from_device(factor))
        return as_float64(found, xs[0].device)

    def partials(xs: list[Tensor], order: float, factors: Tensor | None) -> Tensor:
        return open_(xs).partials(order, factors)

    def unit_partials(xs: list[Tensor], order: float) -> Tensor:
        return open_(xs).unit_partials(order)

    def norm_and_coefficient(xs: list[Tensor], max_norm: float, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        batch, device = open_(xs), xs[0].device
        total, coef = batch.norm_and_coefficient(max_norm, eps)
        norm = batch.as_tensor(total)
        return as_float64(total, device), as_float64(coef, device), norm.clone() if norm is total else norm

    def count_nonfinite(xs: list[Tensor], unless_finite: Tensor) -> Tensor:
        return open_(xs).count_nonfinite(from_device(unless_finite)).contiguous()  # as is promised below

    def scale_(xs: list[Tensor], coef: Tensor) -> None:
        to_write("scale_", xs).scale_(from_device(coef))

    def scale_units_(xs: list[Tensor], coefs: Tensor) -> None:
        to_write("scale_units_", xs).scale_units_(coefs)

    def clamp_(xs: list[Tensor], bound: Tensor) -> None:
        to_write("clamp_", xs).clamp_(from_device(bound))

    def sanitize_(xs: list[Tensor]) -> None:
        to_write("sanitize_", xs).sanitize_()

    def three(xs: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        dtype = torch.float64 if any(x.dtype in WIDE for x in xs) else torch.float32
        return _new(xs), _new(xs), torch.empty((), dtype=dtype, device=xs[0].device)

    _define("(Tensor[] xs, float order, Tensor? factor) -> Tensor", partial, _new)
    _define("(Tensor[] xs, float order, Tensor? factors) -> Tensor", partials, lambda xs: _new(xs, len(xs)))
    _define("(Tensor[] xs, float order) -> Tensor", unit_partials, lambda xs: _new(xs, sum(map(count_units, xs))))
    _define("(Tensor[] xs, float max_norm, float eps) -> (Tensor, Tensor, Tensor)", norm_and_coefficient, three)
    _define(
        "(Tensor[] xs, Tensor unless_finite) -> Tensor",
        count_nonfinite,
        lambda xs: _new(xs, 2, len(xs), dtype=torch.int64),
    )
    _define("(Tensor(a!)[] xs, Tensor coef) -> ()", scale_)
    _define("(Tensor(a!)[] xs, Tensor coefs) -> ()", scale_units_)
    _define("(Tensor(a!)[] xs, Tensor bound) -> ()", clamp_)
    _define("(Tensor(a!)[] xs) -> ()", sanitize_)


def _define(schema: str, run: Callable[..., Any], shaped: Callable[[list[Tensor]], Any] | None = None) -> None:
    """Define an operator by its types, what it does, and what it returns of tensors without numbers, if anything."""
    name = run.__name__

    def fake(xs: list[Tensor], *_: Any) -> Any:
        return None if shaped is None else shaped(xs)

    _LIBRARY.define(name + schema, tags=OUTSIDE_OF_GRAPHS)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)


def _new(xs: list[Tensor], *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=home(xs[0].device))
