"""What a rank does in a test of fused steps: train on gradients of which some are NaN, or on shards."""

from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

import gradclip
from gradclip.clipper.withhold import told
from gradclip.exceptions import ConsecutiveSkipsError
from there import There


class Late:
    """A copy to the host that is under way until it is waited for."""

    def __init__(self, vector: Any) -> None:
        self.again(vector)

    def again(self, vector: Any) -> "Late":
        """Be under way once more."""
        self._copy = vector.held.clone()
        return self

    @staticmethod
    def is_waited_for(_: object) -> bool:
        return False

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
        patch.setattr("gradclip.clipper.skips.Transfer", Late)
        for step in range(30):
            gradient = torch.full((3,), float("nan") if step in bad and is_last else 1.0)
            distributed.all_reduce(gradient)
            parameter.grad = There(gradient)
            optimizer.step()
    return step, parameter.detach().held.tolist()


def step_with_shards(name: str) -> tuple[bool, bool]:
    """Return whether a fused step of shards leaves all as it was: where it is withheld, and where it is not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    fully_shard(net, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))
    optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.1, fused=True)

    def numbers() -> list[Tensor]:
        states = [x for state in optimizer.state.values() for x in state.values()]
        return [(x.to_local() if isinstance(x, DTensor) else x).clone() for x in (*net.parameters(), *states)]

    def leaves_all(*, withheld: bool) -> bool:
        optimizer.zero_grad()
        net(torch.randn(4, 8)).square().sum().backward()
        before = numbers()
        told(optimizer, torch.tensor(float(withheld))).step()
        return len(before) == len(numbers()) and all(map(torch.equal, before, numbers()))

    leaves_all(withheld=False)  # which makes the states
    return leaves_all(withheld=True), leaves_all(withheld=False)
