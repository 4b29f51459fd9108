"""What torch does to many tensors of a device in a few launches."""

import math

import torch
from torch import Tensor

from gradclip.numbers import Scalar, as_float64, identity, is_extremum
from gradclip.ops.places import indices
from gradclip.torch_private import multiply_, norms_in_float64

FUSED_ORDERS = {1.0, 2.0, math.inf}
FUSED_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
"""What torch measures in float64 on a device."""

TOGETHER = (torch.float32, torch.float64)
"""What is scaled in a few launches on a device: float32 by a coefficient of its own precision, which is a rounding more
than on the CPU. A half type never is, whose precision is too small for that."""


def has_fused_norms(tensors: list[Tensor], norm_type: float) -> bool:
    """Whether torch measures tensors in float64 in a few launches: where a device has the order and the dtypes."""
    return norm_type in FUSED_ORDERS and len(tensors) > 0 and all(x.dtype in FUSED_DTYPES for x in tensors)


def fused_partials(tensors: list[Tensor], norm_type: float) -> Tensor:
    """Return the partial of each tensor."""
    each = torch.full((len(tensors),), identity(norm_type), dtype=torch.float64, device=tensors[0].device)
    for dtype in dict.fromkeys(x.dtype for x in tensors):
        places = [i for i, x in enumerate(tensors) if x.dtype == dtype and x.numel()]
        if places:
            norms = torch.stack(norms_in_float64([tensors[i] for i in places], norm_type))
            partials = norms if is_extremum(norm_type) else norms.pow(norm_type)
            each = (
                partials if len(places) == len(tensors) else each.index_copy(0, indices(places, each.device), partials)
            )
    return each


def scale_together_(pairs: list[tuple[Tensor, Scalar]]) -> list[tuple[Tensor, Scalar]]:
    """Multiply tensors of a device by one number, in a few launches; return those of other dtypes."""
    for dtype in TOGETHER:
        parts = [parts_of(x) for x, _ in pairs if x.dtype.to_real() == dtype]
        if parts and (isinstance(coef := pairs[0][1], Tensor) or coef != 1.0):
            multiply_(parts, as_float64(coef, parts[0].device).to(dtype))
    return [pair for pair in pairs if pair[0].dtype.to_real() not in TOGETHER]


def parts_of(x: Tensor) -> Tensor:
    """Return the real numbers that a tensor is made of; a conjugate that is lazy differs by signs alone."""
    if not x.is_complex():
        return x
    return torch.view_as_real(x.conj() if x.is_conj() else x)
