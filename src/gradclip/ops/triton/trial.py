"""Whether kernels are right here: two numbers are clipped, before anybody's gradients are.

Cards, drivers and versions of Triton come that nobody here has seen. Where one does something else with a kernel, or
with its arguments, a wrong gradient would look like any other.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from gradclip import callers
from gradclip.numbers import as_float64
from gradclip.ops.backend import Batch
from gradclip.ops.triton import driver
from gradclip.ops.triton.lane import lane_of
from gradclip.sending import Transfer

NUMBERS = (3.0, 4.0)

RIGHT = [5.0, *torch.tensor(NUMBERS, device="cpu").mul(0.2).tolist()]
"""The norm, and what is left where that becomes 1."""


def try_out(opened: Callable[[list[Tensor]], Batch | None], device: str) -> None:
    """Clip two numbers twice: Triton compiles kernels, those of most clips, and the driver launches them, if it can.

    Where that is wrong, the driver is left out: Triton launches from then on.

    Args:
        opened: The backend.
        device: The type of device.

    Raises:
        RuntimeError: If what Triton launches is wrong.
    """
    found: list[list[float]] = []
    with torch.inference_mode(mode=False), torch.no_grad():
        tensors = [torch.full((1,), x, dtype=torch.float32, device=device) for x in NUMBERS]
        try:
            found = [_clipped(opened, tensors) for _ in range(2)]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            if driver.found() is None:
                raise
    if found == [RIGHT] * 2:
        return
    if driver.found() is None:
        raise RuntimeError(f"of gradients of 3 and 4, clipped to 1, norm and gradients are {found[-1]}, not {RIGHT}")
    driver.leave_out()
    if (lane := lane_of(tensors[0].device)) is not None:
        lane.plans.clear()
    try_out(opened, device)
    callers.warn("Kernels that the driver launches are wrong here, so Triton launches them, which takes longer.")


def _clipped(opened: Callable[[list[Tensor]], Batch | None], tensors: list[Tensor]) -> list[float]:
    """Return the norm of tensors, and their numbers once that is clipped to 1; their own are as they were."""
    gradients = [x.clone() for x in tensors]
    if (batch := opened(gradients)) is None:
        raise RuntimeError("dense gradients of float32 are not taken")
    norm, coef = batch.norm_and_coefficient(1.0, 0.0)
    batch.scale_(coef)
    numbers = Transfer(torch.cat([as_float64(norm, tensors[0].device).view(1), *gradients]))
    numbers.wait()
    return numbers.host.tolist()
