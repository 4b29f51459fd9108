"""What ranks do in tests of copies that should be alike."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from gradclip import GradClipper
from gradclip.distributed import Ownership, declare
from gradclip.policies import FixedNorm, SpikeSkip
from gradclip.records import Memory
from gradclip.testing import assert_same_gradients
from layouts import need_fsdp2
from traffic_workers import traffic_of


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def batch(step: int) -> torch.Tensor:
    """Another one on each rank."""
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(10 * step + distributed.get_rank()))


def train_ddp(*, synced: bool, every: int, steps: int = 4) -> tuple[list[str], float]:
    """Train with DDP, inside `no_sync()` or not, and return what was warned of and the last norm."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = GradClipper(model.module, FixedNorm(0.1), check_replicas_every=every).attach(optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(steps):
            optimizer.zero_grad()
            if synced:
                model(batch(step)).square().mean().backward()
            else:
                with model.no_sync():
                    model(batch(step)).square().mean().backward()
            optimizer.step()
    assert clipper.last is not None
    return [str(warning.message) for warning in caught], clipper.last.total_norm


def clip_and_compare(gradients: list[list[float]], *, every: int = 1) -> tuple[str, int]:
    """Clip two parameters of which each rank has other gradients; return the warning, and the number of collectives."""
    own = gradients[distributed.get_rank()]
    names = ("a", "b")
    parameters = {name: nn.Parameter(torch.zeros(1)) for name in names}
    for name, value in zip(names, own, strict=False):
        parameters[name].grad = torch.tensor([value])
    clipper = GradClipper(parameters.items(), FixedNorm(1e9), nonfinite="propagate", check_replicas_every=every)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traffic = traffic_of(clipper.clip)
    return " ".join(str(warning.message) for warning in caught), traffic.collectives


def asserted(gradients: list[list[float]]) -> str:
    """What `assert_same_gradients` says."""
    own = gradients[distributed.get_rank()]
    parameters = [("a", nn.Parameter(torch.zeros(len(own))))]
    parameters[0][1].grad = torch.tensor(own)
    try:
        assert_same_gradients(parameters)
    except AssertionError as error:
        return str(error)
    return ""


def fail_on_one() -> str:
    """A gradient on one rank that cannot be written: the others hear of it."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(1).expand(2) if distributed.get_rank() == 1 else torch.zeros(2)
    try:
        GradClipper([parameter], check_replicas_every=1).clip()
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def assert_with_experts() -> list[str]:
    """An expert of one name on every rank, declared; then a failure on one rank; then warnings that are errors."""
    rank = distributed.get_rank()
    expert, dense = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    expert.grad, dense.grad = torch.ones(2) * (1 + rank), torch.ones(2)
    declare([expert], Ownership(disjoint=distributed.group.WORLD))
    named = [("expert", expert), ("dense", dense)]
    found: list[str] = []

    def say(call: Callable[[], Any]) -> None:
        try:
            call()
        except (AssertionError, RuntimeError, TypeError, UserWarning) as error:
            found.append(type(error).__name__)
        else:
            found.append("")

    say(lambda: assert_same_gradients(named))
    say(lambda: assert_same_gradients(named if rank else 5))
    dense.grad = torch.ones(2) * (1 + rank)
    say(lambda: assert_same_gradients(named))
    clipper = GradClipper([dense], FixedNorm(1e9), check_replicas_every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say(clipper.clip)
    assert clipper.last is not None
    assert clipper.last.step == 1
    return found


def names_of_stages() -> str:
    """Stages of a pipeline that nobody has declared: each rank has other parameters."""
    rank = distributed.get_rank()
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([1.0 + rank])
    clipper = GradClipper([(f"stage{rank}", parameter)], check_replicas_every=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clipper.clip()
    return " ".join(str(warning.message) for warning in caught)


def a_gradient_on_one_rank() -> tuple[str, list[str]]:
    """What the assertion says, and a clipper, where the first rank alone has a gradient of one of two parameters."""
    named = [(name, nn.Parameter(torch.zeros(2))) for name in ("a", "b")]
    for name, parameter in named:
        if name == "a" or distributed.get_rank() == 0:
            parameter.grad = torch.ones(2)
    said = ""
    try:
        assert_same_gradients(named)
    except AssertionError as error:
        said = str(error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        GradClipper(named, check_replicas_every=1).clip()
    return said, [str(warning.message) for warning in caught]


def clip_other_names(name: str) -> list[str]:
    """What a clipper warns of whose parameter has another name, and another norm, on each rank."""
    rank = distributed.get_rank()
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([1.0 + rank])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        GradClipper([(f"{name}{rank}", parameter)], check_replicas_every=1).clip()
    return [str(warning.message) for warning in caught]


def skipped_by_losses(layout: str, *, told: bool) -> tuple[list[int], float | None]:
    """The steps that are skipped where one rank has an odd loss at one, and the loss that this one recorded of it.

    Args:
        layout: `"DDP"`, `"FSDP2"` over all four ranks, `"HSDP"`, or `"TP"` of two, with copies.
        told: Whether the mean of all losses is told; else the closure returns that of the rank.
    """
    mesh: Any = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    model: nn.Module = network()
    if layout == "DDP":
        model = DistributedDataParallel(model)
    elif layout == "TP":
        parallelize_module(model, mesh["model"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    else:
        need_fsdp2()
        fully_shard(model, mesh=mesh if layout == "HSDP" else init_device_mesh("cpu", (4,)))
    optimizer, memory = torch.optim.SGD(model.parameters(), lr=0.01), Memory()
    clipper = GradClipper(model, SpikeSkip(math.inf, warmup=4, window=8), sinks=[memory]).attach(optimizer)
    rank = mesh["data"].get_local_rank() if layout == "TP" else distributed.get_rank()

    for step in range(8):

        def closure(step: int = step) -> torch.Tensor:
            optimizer.zero_grad()
            loss = model(torch.ones(2, 4)).square().mean()
            loss.backward()
            return loss + 99.0 * (rank == step - 5 == 1)

        if told:
            loss = closure().detach()
            distributed.all_reduce(loss)
            clipper.observe_loss(loss / 4)
        optimizer.step(*([] if told else [closure]))
    return [x.step for x in memory.records if x.status == "skipped_spike"], memory.records[6].loss
