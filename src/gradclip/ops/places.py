"""Places among tensors, as what a device picks numbers by."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradclip.numbers import CPU


def indices(places: Sequence[int], device: torch.device) -> Tensor:
    """Return places as an int64 vector on a device, without a wait."""
    return torch.tensor(list(places), dtype=torch.int64, device=CPU).to(device, non_blocking=True)
