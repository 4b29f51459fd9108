"""Whether each element of a tensor can be written for itself."""

from typing import NoReturn

import torch
from torch import Tensor

from gradclip.exceptions import OverlappingGradientError
from gradclip.tracing import is_traced


def overlaps(x: Tensor) -> bool:
    """Whether several elements of a tensor share one place in memory."""
    if x.numel() == 0:
        return False
    steps = [(stride, size) for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1]
    if any(stride == 0 for stride, _ in steps):
        return True
    if is_traced():
        return False
    reach = 0
    for stride, size in sorted(steps):
        if stride <= reach:  # it does not step over all that smaller steps reach
            return _share_places(x)
        reach += stride * (size - 1)
    return False


def _share_places(x: Tensor) -> bool:
    places = torch.zeros(1, dtype=torch.int64, device="cpu")
    for size, stride in zip(x.shape, x.stride(), strict=True):
        places = (places[:, None] + stride * torch.arange(size, device="cpu")).flatten()
    return places.unique().numel() < x.numel()


def refuse_overlap(function: str, name: str, gradient: Tensor) -> NoReturn:
    """Raise for a gradient, such as an expanded one, whose elements share memory."""
    msg = (
        f"`{function}` must be able to write each element for itself, got a gradient with several elements at one "
        f"place in memory (shape {tuple(gradient.shape)}, strides {gradient.stride()}) at {name}. "
        "Assign `p.grad = p.grad.clone()` first."
    )
    raise OverlappingGradientError(msg)
