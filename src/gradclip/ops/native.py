"""The operations in C++, for dense CPU tensors: `csrc/` says how."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, final

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gradclip.numbers import CPU, Scalar, on_host
from gradclip.ops import _native
from gradclip.ops.backend import Backend, Batch
from gradclip.ops.reference import ReferenceBatch, count_bad, norm_tensor, sanitize_
from gradclip.ops.triton.table import SIZES

ISA: str = _native.ISA
"""The instruction set of the kernels on this CPU: avx512, avx2 or baseline; `GRADCLIP_ISA` asks for another."""

HAS_EXCHANGE = bool(_native.HAS_EXCHANGE)
"""Whether torch publishes the DLPack exchange API, by which a tensor is read in one call: torch 2.10 and newer. Else
its methods are called, which takes half a microsecond a tensor; `GRADCLIP_EXCHANGE=0` asks for that."""

FLOAT64_BITS = 64

_scalar = _native.scalar if HAS_EXCHANGE else norm_tensor


Walked: TypeAlias = tuple[Batch, Sequence[int] | None, list[Any] | None, Sequence[int]]
"""What a walk over owners found: a batch of those gradients that kernels take, each once, in order, of sharded ones the
local parts; the places of their owners, None where all owners have one of these; of each owner how it is sharded, None
where none is; and the places of owners whose gradient is left, in order."""


class OnGPU(Protocol):
    """Whoever has the backend for GPUs, once it was tried."""

    @property
    def found(self) -> Any: ...


def walker(
    opened: Callable[[list[Tensor], Any], Batch], gpu: OnGPU, *, tabled: bool = False
) -> Callable[..., Walked | None]:
    """Return what collects gradients, and measures or tables them on the way, as a first look costs more than the rest.

    It takes the owners; the order of the norm, if one is known to be asked for; the class whose gradients are taken by
    their local parts, or None; the attributes that mark plain owners which are to be left, or None; and `max_norm` and
    `eps`, where a coefficient will be asked for. What kernels do not take is left, owner by owner: gradients of other
    kinds or placed otherwise than their owner, those of owners of other classes, and those on another device than the
    first. An element that is no tensor gives None.

    Args:
        opened: Opens gradients with their table of chunks: those of a GPU.
        gpu: Has the backend for GPUs, or None.
        tabled: Whether those of the CPU are opened so too.
    """

    # Closed over, and by position: each call of a small model feels a keyword.
    def walk(
        owners: list[Tensor],
        order: float | None,
        sharded: type | None,
        marks: tuple[str, ...] | None,
        bounds: tuple[Scalar, float] | None,
    ) -> Walked | None:
        kernels = gpu.found
        ahead = None if kernels is None else kernels.ahead(order, bounds)
        found = measured = None
        try:
            given = None if ahead is None else ahead.arguments
            found = _native.walk(owners, order, sharded, marks, SIZES, tabled, given)
        finally:
            if ahead is not None:
                measured = ahead.over(is_started=found is not None and found[-1])
        if found is None:
            return None
        gradients, places, bits, partial, specs, left, chunks, _ = found
        if chunks is None:
            batch: Batch = NativeBatch(gradients, bits, order, partial)
        elif kernels is None or measured is None:
            batch = opened(gradients, chunks)
        else:
            batch = kernels.open(gradients, chunks, measured)
        return batch, places, specs, left

    return walk


@final
class NativeBatch(Batch):
    """One pass over memory an operation, on the threads that `torch.set_num_threads` allows."""

    __slots__ = ("_bits", "_known", "_partial", "tensors")

    def __init__(self, tensors: list[Tensor], bits: int, known: float | None = None, partial: float = 0.0) -> None:
        """Take tensors, the bits of their widest real dtype, and a partial that is known, by its order."""
        self.tensors = tensors
        self._bits = bits
        self._known = known
        self._partial = partial

    @property
    def is_wide(self) -> bool:
        return self._bits == FLOAT64_BITS

    def partial(self, order: float, factor: Scalar = 1.0) -> Scalar:
        if order == self._known and factor == 1.0:
            return self._partial
        return _native.measure(self.tensors, order, factor)

    def partials(self, order: float, factors: Tensor | None = None) -> Tensor:
        if factors is not None:
            pairs = zip(self.tensors, factors.tolist(), strict=True)
            return torch.tensor([_native.measure([x], order, own) for x, own in pairs], dtype=torch.float64, device=CPU)
        out = torch.empty(len(self.tensors), dtype=torch.float64, device=CPU)
        _native.measure_each(self.tensors, order, out)
        return out

    def unit_counts(self) -> list[int]:
        return _native.units(self.tensors)

    def unit_partials(self, order: float = 2.0) -> Tensor:
        if order != 2.0:  # noqa: PLR2004
            return ReferenceBatch(self.tensors).unit_partials(order)
        units = self.unit_counts()
        out = torch.empty(sum(units), dtype=torch.float64, device=CPU)
        if scattered := _native.unit_square_sums(self.tensors, out):
            own = out.split(units)
            for i in scattered:
                _native.unit_square_sums([self.tensors[i].detach().contiguous()], own[i])
        return out

    def scale_(self, coef: Scalar) -> None:
        if not isinstance(coef, Tensor) or coef.ndim == 0:
            if (number := on_host(coef)) != 1.0:
                self._known = None
                _native.scale_(self.tensors, number)
                increment_version(self.tensors)
            return
        self._known = None
        coef = coef.to(CPU)
        _native.scale_(self.tensors, coef)
        increment_version([x for x, own in zip(self.tensors, coef.tolist(), strict=True) if own != 1.0])

    def scale_units_(self, coefs: Tensor) -> None:
        self._known = None
        coefs = coefs.to(CPU)
        if scattered := _native.scale_units_(self.tensors, coefs):
            own = coefs.split(self.unit_counts())
            for i in scattered:
                ReferenceBatch([self.tensors[i]]).scale_units_(own[i])
        changed = coefs != 1.0
        if bool(changed.any()):
            counts = torch.tensor(self.unit_counts(), device=CPU)
            owners = torch.arange(len(self.tensors), device=CPU).repeat_interleave(counts)[changed].unique()
            increment_version([self.tensors[i] for i in owners.tolist()])

    def clamp_(self, bound: Scalar) -> None:
        self._known = None
        if not isinstance(bound, Tensor) or bound.ndim == 0:
            self._clamp_(self.tensors, on_host(bound))
            return
        bounds = bound.tolist()
        for own in dict.fromkeys(bounds):
            self._clamp_([x for x, limit in zip(self.tensors, bounds, strict=True) if limit == own], own)

    @staticmethod
    def _clamp_(tensors: list[Tensor], bound: float) -> None:
        if bound < math.inf:
            increment_version(tensors)
            _native.clamp_(tensors, bound)

    def forget(self) -> None:
        self._known = None

    def count_nonfinite(self, unless_finite: Scalar = math.nan) -> Tensor:
        counts = torch.zeros((2, len(self.tensors)), dtype=torch.int64, device=CPU)
        for i in () if math.isfinite(on_host(unless_finite)) else self._bad():
            counts[:, i] = count_bad(self.tensors[i])
        return counts

    def sanitize_(self) -> None:
        for i in self._bad():
            sanitize_(self.tensors[i].detach())
        self._known = None

    def _bad(self) -> list[int]:
        """Return which tensors have elements that are not finite."""
        return (~self.partials(math.inf).isfinite()).nonzero().flatten().tolist()

    def as_tensor(self, number: Scalar, *, wide: bool | None = None) -> Tensor:
        return _scalar(float(number), self._bits == FLOAT64_BITS if wide is None else wide)


@final
class Native(Backend):
    """The kernels."""

    name = "native"

    def takes(self, tensors: list[Tensor]) -> bool:
        return _native.widest(tensors) > 0

    def open(self, tensors: list[Tensor], chunks: None = None) -> NativeBatch | None:  # noqa: ARG002 -- of a GPU
        return NativeBatch(tensors, bits) if (bits := _native.widest(tensors)) else None


NATIVE = Native()
