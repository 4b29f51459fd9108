"""Columns of numbers as text that a page can hold: small, and exact."""

import base64
import ctypes
import sys
import zlib

import torch
from torch import Tensor

LEVEL = 6
"""How hard zlib tries: more costs seconds and saves one per cent."""


def pack(values: Tensor) -> str:
    """Return numbers as text: the first bytes of all, then the second bytes and so on, deflated, in base64.

    Neighbours are alike in sign and exponent and so compress well when these bytes stand together. The bytes are in
    little-endian order, whatever this machine has.

    Args:
        values: Numbers of any dtype, of shape (n,).
    """
    planes = values.contiguous().view(torch.uint8).reshape(-1, values.element_size()).t()
    if sys.byteorder == "big":
        planes = planes.flip(0)
    return deflated(_bytes(planes))


def deflated(data: bytes) -> str:
    """Return bytes deflated, in base64."""
    return base64.b64encode(zlib.compress(data, LEVEL)).decode("ascii")


def differences(values: Tensor) -> Tensor:
    """Return the first number and the distance of each of the others from the one before: float64, of shape (n,).

    Steps at one distance become one number again and again, of which packing leaves next to nothing.
    """
    numbers = values.to(torch.float64)
    return torch.cat([numbers[:1], numbers.diff()])


def changed(values: Tensor, like: Tensor) -> Tensor:
    """Return the bits in which float32 numbers differ from others: zeros where nothing was clipped."""
    return values.view(torch.int32) ^ like.view(torch.int32)


def _bytes(planes: Tensor) -> bytes:
    flat = planes.contiguous().reshape(-1)
    return ctypes.string_at(flat.data_ptr(), len(flat)) if len(flat) else b""
