"""What kinds of gradients there can be."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradclip import validation
from gradclip.distributed.dtensor import is_dtensor
from gradclip.norms import CPU


def check_gradient(function: str, name: Callable[[], str], x: Tensor, *, writes: bool) -> None:
    """Check that a gradient has a norm here and, if it is to be written, that no two of its elements share memory."""
    if not x.is_floating_point() and not x.is_complex():
        validation.refuse_gradient(function, name(), x, "Only these have a norm.")
    if x.layout not in {torch.strided, torch.sparse_coo}:
        validation.refuse_gradient(function, name(), x, "Convert it to a strided or a sparse COO tensor.")
    if is_dtensor(x):
        reason = "Its parameter is a plain tensor, which does not say how other ranks hold it: make it a DTensor too."
        validation.refuse_gradient(function, name(), x, reason)
    if writes and _overlaps(values_of(x)):
        validation.refuse_overlap(function, name(), values_of(x))


def _overlaps(x: Tensor) -> bool:
    return x.numel() > 0 and any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True))


def values_of(x: Tensor) -> Tensor:
    """Return the elements that a tensor stores: those of a sparse one, or itself."""
    return x._values() if x.is_sparse else x


def scalar(number: float, wide: bool) -> Tensor:  # noqa: FBT001 -- the kernels take no keywords
    """Return a number as a 0-dim CPU tensor, of float64 if wide; infinite beyond the range of float32."""
    exact = torch.scalar_tensor(number, dtype=torch.float64, device=CPU)
    return exact if wide else exact.to(torch.float32)
