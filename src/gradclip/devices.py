"""What devices lack, numbers at all on the meta device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gradclip.tracing import is_traced

KNOWN = {"cpu": False, "cuda": False, "meta": False, "mps": True}
"""Whether no device of a type has float64, or all have it."""

TRIED: dict[torch.device, bool] = {}
"""Whether others refused it when they were first met."""


def first_with_numbers(tensors: Sequence[Tensor]) -> Tensor:
    """Return the first of tensors that is not on the meta device, as parts of a model may be that nobody trains.

    Where all are, it is the first.
    """
    first = tensors[0]
    return next((x for x in tensors if not x.is_meta), first) if first.is_meta else first


def is_narrow(device: torch.device) -> bool:
    """Whether a device has no float64, as all of Apple's; of Intel's, some have it. An unknown one is tried, once."""
    if (known := KNOWN.get(device.type)) is not None:
        return known
    if device.type == "xpu":
        return not getattr(torch.xpu.get_device_properties(device), "has_fp64", True)
    if device not in TRIED and not is_traced():  # where numbers may be fakes, which no device refuses
        TRIED[device] = _refuses_float64(device)
    return TRIED.get(device, False)


def _refuses_float64(device: torch.device) -> bool:
    try:
        torch.full((), 2.0, dtype=torch.float64, device=device).sqrt()
    except torch.OutOfMemoryError:
        raise
    except (TypeError, RuntimeError):
        return True
    return False
