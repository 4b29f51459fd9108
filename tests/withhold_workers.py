"""What a rank does in a test of fused steps: train on averaged gradients, of which some are NaN on the last rank."""

from typing import Any

import pytest
import torch
from torch import distributed
from torch.nn import Parameter

import gradclip
from gradclip.exceptions import ConsecutiveSkipsError
from there import There


class Late:
    """A copy to the host that is under way until it is waited for."""

    def __init__(self, vector: Any) -> None:
        self._copy = vector.held.clone()

    def wait(self) -> None:
        """Come to an end."""
        self.host = self._copy


def train(bad: tuple[int, ...], most: int) -> tuple[int, list[float]]:
    """Return the step at which too many had been skipped, and the parameter then."""
    parameter: Any = Parameter(There(torch.ones(3)))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    gradclip.GradClipper([parameter], max_consecutive_skips=most).attach(optimizer)
    is_last = distributed.get_rank() == distributed.get_world_size() - 1
    step = 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ConsecutiveSkipsError):  # noqa: PT012 -- at some step
        patch.setattr("gradclip.clipper.withhold.Transfer", Late)
        for step in range(30):
            gradient = torch.full((3,), float("nan") if step in bad and is_last else 1.0)
            distributed.all_reduce(gradient)
            parameter.grad = There(gradient)
            optimizer.step()
    return step, parameter.detach().held.tolist()
