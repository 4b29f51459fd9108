"""How it is measured on several ranks: gradients made anew, a barrier, and the time of the slowest rank.

Each rank stays on a core. All providers take turns within a round, in a random order. Before every call, the gradients
are made anew in memory of their own, and on each rank something larger than the cache is read and written, as a
backward pass would.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import linear_regression
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

import gradclip
from gradclip.cli.bench.harness import CACHE_BYTES, WrongAnswerError, exact_norm
from gradclip.distributed.exchange import Flags
from gradclip.ops import registry
from gradclip.testing import RankPool

Units: TypeAlias = list[list[nn.Parameter]]
"""Parameters, those together whose gradients come in one piece of memory, as FSDP2 makes them."""

TOLERANCE = {"torch": 1e-4, "gradclip": 2.4e-7}
"""Relative error of a norm, and of clipped elements, above which a time means nothing: ours is 2 float32 ulp."""

BLOCKS, WIDTH, TOGETHER = 24, 52, 12
LEAST_ROUNDS = 5


class Timing(NamedTuple):
    """The times of one provider, in microseconds; the first call is not among the others."""

    ranks: int
    dtensors: int
    elements: int
    clipping: bool
    provider: str
    median_us: float
    p20_us: float
    p80_us: float
    first_us: float | None
    calls: int


# On a rank.


class Block(nn.Module):
    """The parameters of a block of a transformer: 12 of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


def blocks(count: int) -> Units:
    """Return the parameters of blocks, each of which FSDP2 shards."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = nn.Sequential(*(Block(WIDTH) for _ in range(count)))
    for block in model:
        fully_shard(block, mesh=mesh)
    return [list(block.parameters()) for block in fully_shard(model, mesh=mesh)]


def small(count: int) -> Units:
    """Return parameters of 16 x 16 elements."""
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (ranks,))
    parameters = [
        nn.Parameter(DTensor.from_local(torch.zeros(16 // ranks, 16), mesh, [Shard(0)], run_check=False))
        for _ in range(count)
    ]
    return [parameters[i : i + TOGETHER] for i in range(0, count, TOGETHER)]


def backward(units: Units) -> list[Tensor]:
    """Make all gradients anew as FSDP2 does, with the specs of their parameters; return what this rank has of them."""
    found: list[Tensor] = []
    for parameters in units:
        local: list[Any] = [parameter._local_tensor for parameter in parameters]
        flat = torch.randn(sum(x.numel() for x in local))
        for parameter, x, piece in zip(parameters, local, flat.split([x.numel() for x in local]), strict=True):
            found.append(piece.view(x.shape))
            parameter.grad = DTensor(found[-1], parameter._spec, requires_grad=False)
    return found


class Seen(NamedTuple):
    """What a rank has seen: how many elements it has, the time of every call and of the first, in microseconds."""

    elements: int
    times: dict[str, list[float]]
    first: dict[str, float]


def time_calls(
    make: Callable[[int], Units], count: int, *, clipping: bool, seconds: float, with_torch: bool = True
) -> Seen:
    """Check and time all providers."""
    _stay_on_one_core()
    units = make(count)
    parameters = [parameter for unit in units for parameter in unit]
    local = backward(units)
    norm = _gathered_norm(local)
    max_norm = norm / 2 if clipping else norm * 2
    clips: dict[str, Callable[..., Tensor]] = {"gradclip": gradclip.clip_grad_norm_}
    if with_torch:
        clips = {"torch": torch.nn.utils.clip_grad_norm_, **clips}
    first = {name: _check(name, clip, parameters, backward(units)) for name, clip in clips.items()}
    numbers = torch.zeros(len(Flags._fields) + 1, dtype=torch.float64)

    def kernel(tensors: list[Tensor]) -> None:
        batch = registry.open_(tensors)
        batch.partial(2.0)
        if clipping:
            batch.scale_(0.5)

    def by_hand(_: list[Tensor]) -> None:
        """The least that torch's own operations need: no checks, no flags, one layout."""
        own = [p.grad._local_tensor for p in parameters]
        square = torch.stack(torch._foreach_norm(own)).square().sum()
        dist.all_reduce(square)
        if (norm := square.sqrt().item()) > max_norm:
            torch._foreach_mul_(own, max_norm / (norm + 1e-6))

    calls: dict[str, Callable[[list[Tensor]], object]] = {
        **{name: lambda _, clip=clip: clip(parameters, max_norm) for name, clip in clips.items()},
        "by hand": by_hand,
        "bare all_reduce": lambda _: dist.all_reduce(numbers),
        "bare kernels": kernel,
    }
    names, times = list(calls), {name: [] for name in calls}
    cache, order = torch.zeros(CACHE_BYTES // 4), torch.Generator().manual_seed(0)  # the same order on all ranks
    end, rounds = time.perf_counter() + seconds, 0
    while _all_go_on(rounds < LEAST_ROUNDS or time.perf_counter() < end):
        for i in torch.randperm(len(names), generator=order).tolist():
            tensors = backward(units)
            cache.add_(1.0)
            dist.barrier()
            times[names[i]].append(_time(lambda i=i, tensors=tensors: calls[names[i]](tensors)))
        rounds += 1
    return Seen(sum(x.numel() for x in local), times, first)


def _stay_on_one_core() -> None:
    """Keep this rank on a core, gloo's threads with it, as launchers do: ranks else wait for each other's slices."""
    tasks = Path("/proc/self/task")
    for task in tasks.iterdir() if tasks.exists() else ():
        os.sched_setaffinity(int(task.name), {dist.get_rank() % (os.cpu_count() or 1)})


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e3


def _gathered_norm(local: list[Tensor]) -> float:
    """Return the norm of shards on all ranks in float64."""
    everything: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everything, torch.cat([x.flatten() for x in local]))
    return exact_norm(everything)


def _check(name: str, clip: Callable[..., Tensor], parameters: list[nn.Parameter], local: list[Tensor]) -> float:
    """Raise unless a provider returns the right norm and clips `local` to half of it; return the time that it took."""
    norm, before = _gathered_norm(local), [x.clone() for x in local]
    start = time.perf_counter_ns()
    answer: Any = clip(parameters, norm / 2)
    took = (time.perf_counter_ns() - start) / 1e3
    answer = float(answer.full_tensor() if isinstance(answer, DTensor) else answer)
    if not abs(answer / norm - 1) <= TOLERANCE[name]:
        msg = f"{name} returns {answer!r}, and the norm is {norm!r}"
        raise WrongAnswerError(msg)
    coef = norm / 2 / (norm + 1e-6)
    for x, own in zip(local, before, strict=True):
        torch.testing.assert_close(x, (own.double() * coef).float(), rtol=TOLERANCE[name], atol=0.0)
    return took


def _all_go_on(wanted: bool) -> bool:  # noqa: FBT001
    """Return what rank 0 wants."""
    word = torch.tensor(wanted)
    dist.broadcast(word, 0)
    return bool(word)


# Of all ranks.


def measure(
    pool: RankPool, make: Callable[[int], Units], count: int, *, clipping: bool, seconds: float, with_torch: bool = True
) -> list[Timing]:
    """Return the times of all providers, those of the slowest rank in each call."""
    seen = pool.run(time_calls, make, count, clipping=clipping, seconds=seconds, with_torch=with_torch)
    dtensors = count * TOGETHER if make is blocks else count
    found: list[Timing] = []
    for name in seen[0].times:
        slowest = [max(calls) for calls in zip(*(own.times[name] for own in seen), strict=True)]
        quantiles = torch.tensor(slowest).quantile(torch.tensor([0.5, 0.2, 0.8])).tolist()
        first = max(own.first[name] for own in seen) if name in seen[0].first else None
        elements = sum(own.elements for own in seen)
        found.append(Timing(pool.size, dtensors, elements, clipping, name, *quantiles, first, len(slowest)))
    return found


def slopes(timings: Iterable[Timing], ranks: int) -> dict[str, float]:
    """Return what each further DTensor costs each provider on some ranks, in microseconds: least squares."""
    points: dict[str, list[tuple[int, float]]] = {}
    for timing in timings:
        if timing.ranks == ranks:
            points.setdefault(timing.provider, []).append((timing.dtensors, timing.median_us))
    return {name: linear_regression(*zip(*own, strict=True)).slope for name, own in points.items()}
