"""The operations in C++, for dense CPU tensors: `csrc/` says how."""

from typing import final

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from gradclip.numbers import Scalar
from gradclip.ops import _native
from gradclip.ops.backend import Backend
from gradclip.ops.reference import REFERENCE

ISA: str = _native.ISA
"""The instruction set of the kernels on this CPU: avx512, avx2 or baseline; `GRADCLIP_ISA` asks for another."""


@final
class Native(Backend):
    """One pass over memory an operation, on the threads that `torch.set_num_threads` allows."""

    name = "native"

    collect = staticmethod(_native.collect)
    """(tensors, order of a norm or None, class of sharded ones or None, whether others may be there, attributes that
    mark tensors which are not for it, or None) -> (their gradients, bits of the widest, partial of that norm, specs,
    places).

    Each gradient comes once, a sharded one as its local part. Where there is any of these, the spec of each tensor and
    the places of those that have a gradient come too. None stands for no gradient at all, one that the kernels do not
    take or whose owner they do not, or one that is placed otherwise than its owner.
    """

    scalar = staticmethod(_native.scalar)
    """(number, whether as float64) -> 0-dim CPU tensor, float64 or float32."""

    def takes(self, tensors: list[Tensor]) -> bool:
        """Whether the kernels take all of them: dense, on the CPU, of a dtype that they know."""
        return _native.widest(tensors) > 0

    measure = staticmethod(_native.measure)

    def measure_each(self, tensors: list[Tensor], norm_type: float) -> Tensor:
        out = torch.empty(len(tensors), dtype=torch.float64, device="cpu")
        _native.measure_each(tensors, norm_type, out)
        return out

    def unit_square_sums(self, tensors: list[Tensor]) -> Tensor:
        units = _native.units(tensors)
        out = torch.empty(sum(units), dtype=torch.float64, device="cpu")
        if scattered := _native.unit_square_sums(tensors, out):
            own = out.split(units)
            for i in scattered:
                _native.unit_square_sums([tensors[i].detach().contiguous()], own[i])
        return out

    def scale_(self, tensors: list[Tensor], coef: Scalar) -> None:
        if isinstance(coef, Tensor):
            coef = coef.to("cpu") if coef.ndim else coef.item()
        _native.scale_(tensors, coef)
        increment_version(self._written(tensors, coef))

    @staticmethod
    def _written(tensors: list[Tensor], coef: Scalar) -> list[Tensor]:
        """Return those whose coefficient is not 1."""
        if not isinstance(coef, Tensor):
            return [] if coef == 1.0 else tensors
        return [x for x, own in zip(tensors, coef.tolist(), strict=True) if own != 1.0]

    def scale_units_(self, tensors: list[Tensor], coefs: Tensor) -> None:
        if scattered := _native.scale_units_(tensors, coefs):
            own = coefs.split(_native.units(tensors))
            for i in scattered:
                REFERENCE.scale_units_([tensors[i]], own[i])
        changed = coefs != 1.0
        if bool(changed.any()):
            counts = torch.tensor(_native.units(tensors))
            owners = torch.arange(len(tensors)).repeat_interleave(counts)[changed].unique()
            increment_version([tensors[i] for i in owners.tolist()])

    def clamp_(self, tensors: list[Tensor], bound: float) -> None:
        increment_version(tensors)
        _native.clamp_(tensors, bound)

    read = staticmethod(_native.read)
    """(list of tensors) -> None: reads every byte, which is the floor that a benchmark of `measure` compares with."""


NATIVE = Native()
