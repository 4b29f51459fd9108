"""What kinds of gradients there can be."""

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from gradclip.distributed.dtensor import is_dtensor
from gradclip.ops.overlap import overlaps, refuse_overlap
from gradclip.ops.registry import values_of
from gradclip.torch_private import is_fake, is_lazy_zero
from gradclip.tracing import is_traced

PACKED = {getattr(torch, name) for name in ("float4_e2m1fn_x2",) if hasattr(torch, name)}
"""Dtypes with several numbers in an element."""


def check_gradient(function: str, name: Callable[[], str], x: Tensor, *, writes: bool) -> None:
    """Check that a gradient has a norm here and, if it is to be written, that no two of its elements share memory."""
    if not x.is_floating_point() and not x.is_complex():
        refuse_gradient(function, name(), x, "Only these have a norm.")
    if x.is_nested:
        refuse_gradient(function, name(), x, "Take its parts: `x.unbind()`.")
    if x.layout not in {torch.strided, torch.sparse_coo}:
        refuse_gradient(function, name(), x, "Convert it to a strided or a sparse COO tensor.")
    if is_dtensor(x):
        reason = "Its parameter is a plain tensor, which does not say how other ranks hold it: make it a DTensor too."
        refuse_gradient(function, name(), x, reason)
    if is_fake(x) and not is_traced():
        refuse_gradient(function, name(), x, "It has a shape and no numbers: materialize the model first.")
    if x.dtype in PACKED:
        refuse_gradient(function, name(), x, "Its elements hold several numbers each: unpack them.")
    if writes and not is_traced() and is_lazy_zero(x):
        refuse_gradient(function, name(), x, "It is a lazy zero, without memory: `p.grad = p.grad.clone()`.")
    if writes and overlaps(values_of(x)):
        refuse_overlap(function, name(), values_of(x))


def refuse_gradient(function: str, name: str, gradient: Tensor, reason: str) -> NoReturn:
    """Raise for a gradient of a kind that has no norm here."""
    msg = (
        f"`{function}` must be given real or complex floating-point gradients, got {type(gradient).__name__} of "
        f"{gradient.dtype} ({gradient.layout}) at {name}. {reason}"
    )
    raise TypeError(msg)
