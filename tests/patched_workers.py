"""What a rank does in a test of `patch()`: clip by calls and before steps, with gradients of other ranks alone."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Shard

import gradclip
from framework_workers import Wrapped
from gradclip.policies import Policy
from gradclip.records import Memory
from small_net import Gradients, Net, net

STEPS = 4

Seen: TypeAlias = tuple[list[tuple[int, float, str, str | None]], list[float]]
"""What the records say, and the norms that calls returned."""


def one_lacks(policy: Policy | None, calls: int, *, sharded: bool = True) -> Seen:
    """Train two parameters, of which the first rank never has a gradient of one, and of the other every second time.

    Args:
        policy: The rule of the patch.
        calls: How often a step is clipped for by a call.
        sharded: Whether they are split over all ranks; else this process has all the gradients.
    """
    parameters: list[Any] = [nn.Parameter(_split(torch.zeros(4)) if sharded else torch.zeros(4)) for _ in range(2)]
    is_first = sharded and distributed.get_rank() == 0
    optimizer, memory, norms = torch.optim.SGD(parameters, lr=0.1), Memory(), []
    with gradclip.patch(policy, sinks=[memory]):
        for step in range(STEPS):
            optimizer.zero_grad()
            for place, parameter in enumerate(parameters):
                gradient = torch.tensor([place * step % 2, 0.0, 3.0, 4.0]) * (step + 1.0 + place)
                if not is_first or place * step % 2:
                    parameter.grad = _split(gradient) if sharded else gradient
            norms += [_number(nn.utils.clip_grad_norm_(parameters, 5.0)) for _ in range(calls)]
            optimizer.step()
    return [(x.step, x.total_norm, x.status, x.group) for x in memory.records], norms


def list_those_with_gradients(policy: Policy | None, *, sharded: bool) -> list[tuple[int, str, str | None]]:
    """Train three parameters, and clip those that have a gradient, which others have at each step."""
    parameters: list[Any] = [nn.Parameter(_split(torch.zeros(4)) if sharded else torch.zeros(4)) for _ in range(3)]
    optimizer, memory = torch.optim.SGD(parameters, lr=0.1), Memory()
    with gradclip.patch(policy, sinks=[memory]):
        for step in range(STEPS):
            optimizer.zero_grad()
            for place, parameter in enumerate(parameters):
                if (place + step) % 3:
                    gradient = torch.full((4,), step + 1.0)
                    parameter.grad = _split(gradient) if sharded else gradient
            nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], 5.0)
            optimizer.step()
    return [(x.step, x.status, x.group) for x in memory.records]


def clip_a_part() -> list[float]:
    """Clip one of two parameters of an optimizer, of which the first rank has gradients of the other alone."""
    parameters: list[Any] = [nn.Parameter(_split(torch.zeros(4))) for _ in range(2)]
    optimizer, norms = torch.optim.SGD(parameters, lr=0.1), []
    clipper = gradclip.GradClipper(parameters[:1]).attach(optimizer)
    for _ in range(STEPS):
        for parameter in parameters[distributed.get_rank() == 0 :]:
            parameter.grad = _split(torch.tensor([0.0, 0.0, 3.0, 4.0]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gradclip.MisuseWarning)  # that nobody clips the other
            optimizer.step()
        norms.append(clipper.last.total_norm if clipper.last else -1.0)
    return norms


class ByMethod(NamedTuple):
    """A clip by the method of an FSDP1 model.

    Attributes:
        before: All gradients of the model, whole.
        after: Those that it left here.
        norm: What it returned, and of which dtype.
        recorded: The norms of the records.
    """

    before: Gradients
    after: list[Tensor]
    norm: tuple[float, torch.dtype]
    recorded: list[float]


def clip_by_the_method(
    wrap: Callable[[Net], Wrapped], order: float, policy: Policy | None, *, patched: bool
) -> ByMethod:
    """Clip a model of FSDP1 by its method, within a step; to 0.1, or by a policy in place of that."""
    memory = Memory()
    with gradclip.patch(policy, sinks=[memory]) if patched else nullcontext():
        wrapped = wrap(net())
        optimizer = torch.optim.SGD(wrapped.module.parameters(), lr=0.1)
        wrapped.backward(torch.float32)
        before = wrapped.full_gradients()
        norm = wrapped.module.clip_grad_norm_(0.1 if policy is None else 100.0, order)  # type: ignore[operator]
        after = [p.grad.clone() for _, p in wrapped.named if p.grad is not None]
        optimizer.step()
    return ByMethod(before, after, (float(norm), norm.dtype), [x.total_norm for x in memory.records])


def clip_experts_by_the_method() -> list[float]:
    """The norms of a model whose experts, others on each two ranks, are sharded over these: by torch, and patched."""
    rank, cpu = distributed.get_rank(), torch.device("cpu")
    groups: list[Any] = [distributed.new_group(ranks) for ranks in ([0, 1], [2, 3])]
    torch.manual_seed(rank // 2)
    expert = FullyShardedDataParallel(nn.Linear(4, 4), process_group=groups[rank // 2], device_id=cpu)
    torch.manual_seed(0)
    model = FullyShardedDataParallel(nn.Sequential(nn.Linear(4, 4), expert), device_id=cpu)
    model(torch.ones(2, 4)).square().sum().backward()
    norms = [float(model.clip_grad_norm_(1e9))]
    with gradclip.patch():
        norms.append(float(model.clip_grad_norm_(1e9)))
    return norms


def misuse_the_method(wrap: Callable[[Net], Wrapped]) -> list[str]:
    """What it says under a patch where it cannot be called, and whether it is torch's again afterwards."""
    wrapped, said = wrap(net()), []
    model = wrapped.module
    wrapped.backward(torch.float32)
    method = vars(type(model))["clip_grad_norm_"]
    with gradclip.patch(sinks=[Memory()]):
        for misused in (model.get_submodule("blocks.0"), model):
            with type(model).summon_full_params(model) if misused is model else nullcontext():  # type: ignore[attr-defined]
                try:
                    misused.clip_grad_norm_(1.0)  # type: ignore[operator]
                except Exception as error:  # noqa: BLE001 -- which one it is, the test says
                    said.append(f"{type(error).__name__}: {error}")
        assert vars(type(model))["clip_grad_norm_"] is not method
    assert vars(type(model))["clip_grad_norm_"] is method
    return said


def _split(x: Tensor) -> Any:
    size = distributed.get_world_size()
    return DTensor.from_local(x.chunk(size)[distributed.get_rank()], init_device_mesh("cpu", (size,)), [Shard(0)])


def _number(norm: Any) -> float:
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
