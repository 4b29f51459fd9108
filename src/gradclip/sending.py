"""Numbers on their way between the host and devices, without a wait."""

import functools
from array import array
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from gradclip.numbers import CPU, Scalar, as_float64, home, is_host, is_known, is_narrow
from gradclip.tracing import is_captured

TAKES_PINNED = torch.__version__ >= "2.11"
"""Whether a graph that is captured copies from pinned memory alone, and memory can be pinned then; before, from any."""

P = ParamSpec("P")
T = TypeVar("T")

_replayed: list[Tensor] = []
"""What captured graphs copy at every replay: it has to outlive them, and nobody tells when they are gone."""


def for_replays(x: Tensor) -> Tensor:
    """Return numbers of the host in memory that a graph which is captured may copy from, at every replay."""
    kept = x.pin_memory() if TAKES_PINNED else x
    _replayed.append(kept)
    return kept


def sent(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return numbers of the host, or rows of such, where those of a device are."""
    return moved(torch.tensor(numbers, dtype=dtype, device=CPU), home(device))


def moved(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device, which copies it whenever it comes to that."""
    return (for_replays(x) if is_captured(device) else x).to(device, non_blocking=True)


def indices(places: Sequence[int], device: torch.device) -> Tensor:
    """Return places as what numbers of a device are picked by."""
    return sent(list(places), device, torch.int64)


def on_the_host(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function make its tensors on the host, whatever the default device is."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with CPU:
            return function(*args, **kwargs)

    return call


def placed(x: Tensor, device: torch.device) -> Tensor:
    """Return numbers on a device, rounded to float32 if it has no more."""
    return (x.to(torch.float32) if is_narrow(device) else x).to(device)


def vector_of(numbers: Sequence[Scalar], place: Callable[[torch.device], torch.device]) -> Tensor:
    """Return numbers, and vectors of such, as one float64 vector, where `place` wants those of their device to be."""
    device = next((x.device for x in numbers if not is_known(x)), None)
    if device is not None:
        where = place(device)
        made = {x: as_float64(x, where).reshape(-1) for x in {*filter(is_known, numbers)}}  # equal ones in one launch
        return torch.cat([made[x] if is_known(x) else as_float64(x, where).reshape(-1) for x in numbers])
    # Half the cost of reading a list.
    vector = torch.frombuffer(array("d", cast("Sequence[float]", numbers)), dtype=torch.float64)
    return moved(vector, place(CPU))


def scalars_of(vector: Tensor, like: Sequence[Scalar] = ()) -> list[Scalar]:
    """Return the numbers of a vector: where `like` are tensors on a device, there, without a wait; else as floats."""
    device = next((x.device for x in like if not is_known(x)), None)
    if device is not None:
        return list(vector.to(device).unbind())
    return vector.tolist() if like or is_host(vector) else list(vector.unbind())
