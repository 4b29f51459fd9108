"""Memory for numbers that are used up within one operation: kept, since new memory takes longer than a launch."""

import threading
from typing import final

import torch
from torch import Tensor


@final
class _Kept(threading.local):
    """What a thread has on each stream of a device: two threads on one stream may take turns between two launches."""

    def __init__(self) -> None:
        self.memory: dict[tuple[torch.device, int], Tensor] = {}


_KEPT = _Kept()


def workspace(count: int, device: torch.device) -> Tensor:
    """Return float64 memory for so many numbers or more, until the next call on this stream.

    Inside a graph that is being captured it is new: replays may run beside other work.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.empty(count, dtype=torch.float64, device=device)
    key = device, torch.cuda.current_stream(device).cuda_stream
    kept = _KEPT.memory.get(key)
    if kept is None or len(kept) < count:
        _KEPT.memory[key] = kept = torch.empty(count, dtype=torch.float64, device=device)
    return kept
