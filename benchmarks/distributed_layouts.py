"""Whether norms are right on every layout of `tests/layouts.py`, and which collectives they take there.

Which ones they would take in large jobs is found out on one rank of a group whose others are not there: torch's `fake`.
"""

import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gradclip
from gradclip.cli.bench.harness import WrongAnswerError
from gradclip.distributed import Ownership, declare

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # also on ranks, which import this

import reference
from layout_workers import build
from layouts import LAYOUTS, summands, whole_of

ORDERS = (0.5, 1.0, 2.0, 3.0, math.inf, 0.0, -math.inf)
DTYPES = (torch.float32, torch.bfloat16)
ULPS = 2.0
"""How far off our norms may be, in float32 ulp."""


class Collective(NamedTuple):
    """One that was made: the bytes that a rank hands in, and how many ranks take part."""

    payload_bytes: int
    ranks: int


class Collectives(TorchDispatchMode):
    """Notes every collective inside a `with` block: those that are called, and those that DTensor makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Collective] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented  # which takes it apart
        if func.namespace in {"c10d", "_c10d_functional"} and not func.__name__.startswith(("wait", "_wrap")):
            tensors = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
            payload = sum(x.numel() * x.element_size() for x in tensors)
            self.made.append(Collective(payload, _size_of_group(args)))
        return func(*args, **(kwargs or {}))


def _size_of_group(args: tuple[Any, ...]) -> int:
    """Return the number of ranks that a collective is among: its last word names them, or else an object is them."""
    if names := [x for x in args if isinstance(x, str)]:
        return dist.distributed_c10d._resolve_process_group(names[-1]).size()
    return dist.ProcessGroup.unbox(next(x for x in args if isinstance(x, torch.ScriptObject))).size()


# The matrix.


class Agreement(NamedTuple):
    """How far norms are from those of the gathered gradients in float64, by p, and what each takes at most.

    There are none where torch raises an error.
    """

    layout: str
    ranks: int
    dtype: str
    provider: str
    norms: dict[str, float]
    float32_ulps: dict[str, float]
    collectives: int
    payload_bytes: int
    error: str = ""


def agreements(layout: str) -> list[Agreement]:
    """Measure the gradients of a layout on all ranks, for every order and dtype; by torch for the order 2."""
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # it says what the table says
    return [found for dtype in DTYPES for found in (_of_gradclip(layout, dtype), _of_torch(layout, dtype))]


def _of_gradclip(layout: str, dtype: torch.dtype) -> Agreement:
    norms: dict[float, float] = {}
    made: list[list[Collective]] = []
    for p in ORDERS:
        parameters = build(LAYOUTS[layout], dtype, zeros=p == 0.0).with_gradients()
        norms[p] = gradclip.clip_grad_norm_(parameters, math.inf, p).item()
        with Collectives() as collectives:  # of a second call: at the first, ranks may have to agree
            gradclip.clip_grad_norm_(parameters, math.inf, p)
        made.append(collectives.made)
    return _agreement(layout, dtype, "gradclip", norms, made)


def _of_torch(layout: str, dtype: torch.dtype) -> Agreement:
    gradients = build(LAYOUTS[layout], dtype).gradients
    with Collectives() as collectives:
        try:
            norm: Any = torch.nn.utils.get_total_norm(gradients)
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        except RuntimeError as error:
            unknown = _agreement(layout, dtype, "torch", {}, [collectives.made])
            return unknown._replace(error=str(error).splitlines()[0])
    return _agreement(layout, dtype, "torch", {2.0: norm.item()}, [collectives.made])


def _agreement(
    layout: str, dtype: torch.dtype, provider: str, norms: dict[float, float], made: list[list[Collective]]
) -> Agreement:
    truth = {p: _truth(layout, dtype, p) for p in norms}
    return Agreement(
        layout=layout,
        ranks=dist.get_world_size(),
        dtype=str(dtype).removeprefix("torch."),
        provider=provider,
        norms={f"{p:g}": norm for p, norm in norms.items()},
        float32_ulps={f"{p:g}": reference.float32_ulps(norm, truth[p]) for p, norm in norms.items()},
        collectives=max(map(len, made)),
        payload_bytes=max(sum(x.payload_bytes for x in each) for each in made),
    )


def _truth(layout: str, dtype: torch.dtype, p: float) -> float:
    ranks, parts = dist.get_world_size(), LAYOUTS[layout]
    wholes = [
        whole_of(part, summands(part, seed, ranks, dtype, zeros=p == 0.0), ranks) for seed, part in enumerate(parts)
    ]
    return reference.norm(wholes, p)


def agreed(of_ranks: list[list[Agreement]]) -> list[Agreement]:
    """Return what rank 0 found, if ours are right, and have the same bits on all ranks."""
    for rows in zip(*of_ranks, strict=True):
        if rows[0].provider == "gradclip":
            is_right = all(ulps <= ULPS for ulps in rows[0].float32_ulps.values())
            if not is_right or any(row.norms != rows[0].norms for row in rows):
                msg = f"wrong, or not the same on all ranks: {rows}"
                raise WrongAnswerError(msg)
    return of_ranks[0]


# Large jobs.


class Job(NamedTuple):
    """A training job, as one of its ranks sees it: its meshes by the sizes of their axes, pipeline stages (`pp`) first.

    Attributes:
        name: What is trained.
        mesh: The mesh of its parameters.
        tensors: How many parameters this rank has a part of.
        expert_mesh: The mesh of experts, of the same ranks.
        expert_tensors: How many of their parameters this rank has a part of.
    """

    name: str
    mesh: Mapping[str, int]
    tensors: int
    expert_mesh: Mapping[str, int] = MappingProxyType({})
    expert_tensors: int = 0


JOBS = (
    Job("8B, DDP 8", {"ddp": 8}, 291),
    Job("8B, FSDP 64", {"fsdp": 64}, 291),
    Job("8B, HSDP 8 x 64", {"copies": 8, "fsdp": 64}, 291),
    Job("70B, FSDP 64 x TP 8", {"fsdp": 64, "tp": 8}, 723),
    Job("405B, FSDP 256 x TP 8 x PP 16", {"pp": 16, "fsdp": 256, "tp": 8}, 72),
    Job("the same with experts, EP 64", {"pp": 16, "fsdp": 256, "tp": 8}, 48, {"pp": 16, "efsdp": 32, "ep": 64}, 24),
)
"""With the parameters of Llama 3, 9 a layer and 3 more; of the largest, a rank has 8 layers."""

PLACEMENTS = {"copies": Replicate(), "fsdp": Shard(0), "tp": Shard(1), "efsdp": Shard(1), "ep": Shard(0)}


class Traffic(NamedTuple):
    """What the norm of a job takes: collectives, what a rank hands in, and log2 of the ranks of each, added up."""

    job: str
    ranks: int
    tensors: int
    provider: str
    collectives: int
    payload_bytes: int
    hops: int


def traffic() -> list[Traffic]:
    """Return the collectives of each job, as rank 0 makes them among ranks that are not there."""
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    return [row for job in JOBS for row in _traffic_of(job)]


def _traffic_of(job: Job) -> list[Traffic]:
    from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415 -- slow, and only for this

    ranks = math.prod(job.mesh.values())
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        dense, stages = _parameters(job.mesh, job.tensors)
        models = [dense, _parameters(job.expert_mesh, job.expert_tensors)[0]] if job.expert_mesh else [dense]
        parameters = [parameter for model in models for parameter in model]
        if stages is not None:
            declare(parameters, Ownership(disjoint=stages.get_group()))
        made: dict[str, list[Collective]] = {}
        with Collectives() as seen:
            _total_norm_by_torch(models, stages)
        made["torch"] = seen.made
        with Collectives() as seen:
            gradclip.clip_grad_norm_(parameters, math.inf)
        made["gradclip"] = seen.made
        if "ddp" not in job.mesh:
            with Collectives() as seen:
                gradclip.clip_grad_norm_(parameters, math.inf, group=dist.group.WORLD)
            made["gradclip, group="] = seen.made
        return [_row(job, ranks, provider, each) for provider, each in made.items()]
    finally:
        dist.destroy_process_group()


def _parameters(axes: Mapping[str, int], count: int) -> tuple[list[nn.Parameter], DeviceMesh | None]:
    """Return parameters of one element on this rank, with gradients, and the mesh of the pipeline stages."""
    if "ddp" in axes:
        parameters = [nn.Parameter(torch.ones(1)) for _ in range(count)]
        for parameter in parameters:
            parameter.grad = torch.ones(1)
        return parameters, None
    mesh = init_device_mesh("cpu", tuple(axes.values()), mesh_dim_names=tuple(axes))
    names = tuple(axis for axis in axes if axis != "pp")
    placements, inner = [PLACEMENTS[name] for name in names], mesh[names]

    def one() -> DTensor:
        return DTensor.from_local(torch.ones(1, 1), inner, placements, run_check=False)

    parameters = [nn.Parameter(one()) for _ in range(count)]
    for parameter in parameters:
        parameter.grad = one()
    return parameters, mesh["pp"] if "pp" in axes else None


def _total_norm_by_torch(models: list[list[nn.Parameter]], stages: DeviceMesh | None) -> None:
    """Do what a trainer has to do: torch's norm for each mesh, and the sum of these over the stages by hand."""
    squares = torch.zeros(())
    for parameters in models:
        norm: Any = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        squares += (norm.full_tensor() if isinstance(norm, DTensor) else norm) ** 2
    if stages is not None:
        dist.all_reduce(squares, group=stages.get_group())


def _row(job: Job, ranks: int, provider: str, made: list[Collective]) -> Traffic:
    return Traffic(
        job=job.name,
        ranks=ranks,
        tensors=job.tensors + job.expert_tensors,
        provider=provider,
        collectives=len(made),
        payload_bytes=sum(x.payload_bytes for x in made),
        hops=sum(math.ceil(math.log2(x.ranks)) for x in made),
    )
