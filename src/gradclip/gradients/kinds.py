"""What kinds of gradients there can be."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradclip import validation
from gradclip.norms import CPU


def check_kind(function: str, name: Callable[[], str], x: Tensor, *, is_dtensor: bool) -> None:
    """Check that a gradient has a norm here."""
    if not x.is_floating_point() and not x.is_complex():
        reason = "Only these have a norm."
    elif x.layout not in {torch.strided, torch.sparse_coo}:
        reason = "Convert it to a strided or a sparse COO tensor."
    elif is_dtensor:
        reason = "Its parameter is a plain tensor, which does not say how other ranks hold it: make it a DTensor too."
    else:
        return
    validation.refuse_gradient(function, name(), x, reason)


def check_writable(function: str, name: Callable[[], str], x: Tensor) -> None:
    """Check that a gradient can be written in place: that no two of its elements share memory."""
    values = values_of(x)
    shared = any(size > 1 and stride == 0 for size, stride in zip(values.shape, values.stride(), strict=True))
    if shared and values.numel() > 0:
        validation.refuse_overlap(function, name(), values)


def values_of(x: Tensor) -> Tensor:
    """Return the elements that a tensor stores: those of a sparse one, or itself."""
    return x._values() if x.is_sparse else x


def scalar(number: float, wide: bool) -> Tensor:  # noqa: FBT001 -- the kernels take no keywords
    """Return a number as a 0-dim CPU tensor, of float64 if wide; infinite beyond the range of float32."""
    exact = torch.scalar_tensor(number, dtype=torch.float64, device=CPU)
    return exact if wide else exact.to(torch.float32)
