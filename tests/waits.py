"""A stand-in for a device: tensors of the CPU, whose numbers nobody may read."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from conftest import take_elsewhere

READS = {
    getattr(Tensor, name)
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "numpy", "nonzero", "equal")
} | {torch.equal, torch.nonzero, torch.allclose}


class NoReads(TorchFunctionMode):
    """Fail where a number of gradients is read: those are floating, or come of comparing such; tables are not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            func in READS
            and isinstance(args[0], Tensor)
            and (args[0].is_floating_point() or args[0].dtype == torch.bool)
        ):
            raise AssertionError(f"a number is read back: {func}")
        return func(*args, **(kwargs or {}))


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Take every number of a tensor to be on another device, where Triton's kernels answer."""
    take_elsewhere(patch)
    patch.setattr("gradclip.ops.triton.backend.is_host", lambda _: False)
    patch.setattr("gradclip.ops.reference.is_host", lambda _: False)
