"""Places among tensors, as what a device picks numbers by."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from gradclip.numbers import CPU
from gradclip.tracing import is_traced


def indices(places: Sequence[int], device: torch.device) -> Tensor:
    """Return places as an int64 vector on a device, without a wait: for the same places, the same vector again."""
    make = _indices.__wrapped__ if is_traced() else _indices
    return make(tuple(places), device)


@lru_cache(maxsize=64)
def _indices(places: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(places, dtype=torch.int64, device=CPU).to(device, non_blocking=True)
