"""A small model under each of torch's parallel wrappers, clipped on every rank.

The wrappers are imported where they are used: a process that only asks for their names does without them.
"""

import gc
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

import gradclip
from gradclip.distributed import Ownership, declare
from gradclip.policies import BlockRMS
from layouts import need_fsdp2
from small_net import Gradients, Net, loss_of, net

ORDERS = (2.0, 1.0, math.inf)

RMS = 0.01


@dataclass
class Wrapped:
    """A model under a wrapper.

    Attributes:
        module: The model, to be called.
        index: Which part of the batch this rank has.
        count: Of how many.
        gather: Returns the full gradients, by the names of the bare model.
        batches: How many batches are added up.
        accumulating: Returns what is around the backward of all batches but the last.
        finish: What the user does to the gradients after that.
        named: The parameters, as they are before the first forward.
        by_wrapper: Clips as the wrapper itself does, and returns the norm: (bound, order) -> norm.
    """

    module: nn.Module
    index: int
    count: int
    gather: "Callable[[Wrapped], Gradients] | None" = None
    batches: int = 1
    accumulating: Callable[[], Any] = nullcontext
    finish: Callable[[], None] = lambda: None
    by_wrapper: Callable[[float, float], Tensor] | None = None

    def __post_init__(self) -> None:
        self.named = list(self.module.named_parameters())

    def backward(self, dtype: torch.dtype) -> None:
        """Give every parameter its gradient, of all batches and, as far as the wrapper does that, of all ranks."""
        for batch in range(self.batches):
            with nullcontext() if batch == self.batches - 1 else self.accumulating():
                loss_of(self.module, self.index, self.count, dtype=dtype, batch=batch).backward()
        self.finish()

    def full_gradients(self) -> Gradients:
        return (self.gather or gathered)(self)


def local(x: Tensor) -> Tensor:
    """The part of a tensor that is here, itself."""
    return getattr(x, "_local_tensor", x)


def gathered(wrapped: Wrapped) -> Gradients:
    """The gradients of DTensors and of plain tensors."""
    found = {name.removeprefix("module."): p.grad for name, p in wrapped.named if p.grad is not None}
    return {name: (x.full_tensor() if hasattr(x, "full_tensor") else x).clone() for name, x in found.items()}


@cache
def mesh_of(*sizes: int) -> Any:
    """A mesh of all ranks: made once, for its groups stay."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", sizes, mesh_dim_names=("data", "model")[: len(sizes)])


def everyone() -> tuple[int, int]:
    """This rank, and of how many."""
    return dist.get_rank(), dist.get_world_size()


# DistributedDataParallel.


def ddp(module: Net, *, accumulate: bool = False, **arguments: Any) -> Wrapped:
    from torch.nn.parallel import DistributedDataParallel

    wrapped = DistributedDataParallel(module, **arguments)
    if accumulate:
        return Wrapped(wrapped, *everyone(), batches=3, accumulating=wrapped.no_sync)
    return Wrapped(wrapped, *everyone())


# FSDP1.


def fsdp1(
    module: Net,
    strategy: str = "FULL_SHARD",
    *,
    orig: bool,
    units: tuple[str, ...] = (),
    sizes: tuple[int, ...] | None = None,
    mesh: Any = None,
    precision: dict[str, Any] | None = None,
) -> Wrapped:
    """Shard a model; sub-modules that are named get a flat parameter of their own."""
    from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy

    wrap = partial(
        FullyShardedDataParallel,
        device_id=torch.device("cpu"),
        device_mesh=mesh or mesh_of(*(sizes or (dist.get_world_size(),))),
        use_orig_params=orig,
        sharding_strategy=ShardingStrategy[strategy],
        mixed_precision=MixedPrecision(**(precision or {})),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `NO_SHARD` sharding strategy is deprecated", FutureWarning)
        for name in units:
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, wrap(module.get_submodule(name)))
        wrapped = wrap(module)
    return Wrapped(wrapped, *everyone(), gather=gathered_flat, by_wrapper=wrapped.clip_grad_norm_)


def gathered_flat(wrapped: Wrapped) -> Gradients:
    """The gradients that FSDP1 holds, gathered by it as if they were the parameters for a while."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    parameters = [p for _, p in wrapped.named]
    weights = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p in parameters:
            p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
        with FullyShardedDataParallel.summon_full_params(wrapped.module, writeback=False):
            found = {name: p.detach().clone() for name, p in wrapped.module.named_parameters()}
        for p, weight in zip(parameters, weights, strict=True):
            p.copy_(weight)
    return {name.replace("_fsdp_wrapped_module.", ""): x for name, x in found.items()}


# FSDP2.


def fsdp2(
    module: Net,
    *,
    sizes: tuple[int, ...] | None = None,
    policy: dict[str, torch.dtype] | None = None,
    ignored: tuple[str, ...] = (),
    frozen: tuple[str, ...] = (),
    accumulate: bool = False,
    two_meshes: bool = False,
) -> Wrapped:
    """Shard each block, and the rest; of `two_meshes`, the second block is on another one of the same ranks."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    need_fsdp2()
    index, count = everyone()
    for name in frozen:
        module.get_parameter(name).requires_grad_(False)
    left = [module.get_parameter(name) for name in ignored]
    arguments: dict[str, Any] = {"mesh": mesh_of(*(sizes or (count,)))}
    if left:  # torch 2.6 can leave none
        arguments["ignored_params"] = set(left)
    if policy is not None:
        arguments["mp_policy"] = MixedPrecisionPolicy(**policy)
    fully_shard(module.blocks[0], **arguments)
    fully_shard(module.blocks[1], **arguments | ({"mesh": mesh_of(count)} if two_meshes else {}))
    root = fully_shard(module, **arguments)

    def average() -> None:
        for p in left:  # which FSDP2 leaves to the user
            dist.all_reduce(p.grad)
            p.grad /= count

    @contextmanager
    def unsynchronized() -> Iterator[None]:
        root.set_requires_gradient_sync(False)
        yield
        root.set_requires_gradient_sync(True)

    if accumulate:
        return Wrapped(root, index, count, batches=3, accumulating=unsynchronized)
    return Wrapped(root, index, count, finish=average)


# Tensor parallel, alone and below the others.


def parallelize(module: Net, mesh: Any, *, sequence: bool, head: bool = True) -> None:
    """Split the linear layers by columns and rows; the work on norms by positions too, if asked to."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    block: dict[str, Any] = {"up": ColwiseParallel(use_local_output=False), "down": RowwiseParallel()}
    if sequence:
        block = {
            "norm": SequenceParallel(),
            "up": ColwiseParallel(input_layouts=Shard(1), use_local_output=False),
            "down": RowwiseParallel(output_layouts=Shard(1), use_local_output=False),
        }
        one_row = ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate())
        whole = PrepareModuleInput(input_layouts=Shard(1), desired_input_layouts=Replicate(), use_local_output=True)
        ends = {
            "embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1), use_local_output=False),
            "norm": SequenceParallel(),
            "head": one_row if head else whole,
        }
        parallelize_module(module, mesh, ends)
    for own in module.blocks:
        parallelize_module(own, mesh, block)


def tensor_parallel(module: Net, *, sequence: bool = False) -> Wrapped:
    parallelize(module, mesh_of(dist.get_world_size()), sequence=sequence)
    return Wrapped(module, 0, 1)


def averaged_tensor_parallel(module: Net, *, sequence: bool = False) -> Wrapped:
    """Two copies of a model that is split over two ranks, with gradients that the user averages."""
    mesh = mesh_of(2, 2)
    parallelize(module, mesh["model"], sequence=sequence)

    def average() -> None:
        for _, p in wrapped.named:
            dist.all_reduce(local(p.grad), group=mesh["data"].get_group())
            local(p.grad).div_(2.0)

    wrapped = Wrapped(module, mesh["data"].get_local_rank(), 2, finish=average)
    return wrapped


def ddp_over_tensor_parallel(module: Net) -> Wrapped:
    """The same under DDP, which makes plain tensors of DTensors."""
    from torch.distributed.tensor import DTensor

    mesh = mesh_of(2, 2)
    parallelize(module, mesh["model"], sequence=False)
    wrapped = ddp(module, device_mesh=mesh["data"])
    specs = {name: p._st_info for name, p in wrapped.named if hasattr(p, "_st_info")}

    def gather(wrapped: Wrapped) -> Gradients:
        found: Gradients = {}
        for name, p in wrapped.named:
            x: Any = p.grad
            spec = specs.get(name)
            if spec is not None:
                x = DTensor.from_local(x, spec.mesh, spec.placements, shape=spec.shape, stride=spec.stride)
                x = x.full_tensor()
            found[name.removeprefix("module.")] = x.clone()
        return found

    return Wrapped(wrapped.module, mesh["data"].get_local_rank(), 2, gather=gather)


def fsdp2_over_tensor_parallel(module: Net, *, sequence: bool = False) -> Wrapped:
    from torch.distributed.fsdp import fully_shard

    need_fsdp2()
    mesh = mesh_of(2, 2)
    parallelize(module, mesh["model"], sequence=sequence, head=False)  # of an empty piece, FSDP2 can make no more
    for own in (*module.blocks, module):
        fully_shard(own, mesh=mesh["data"])
    return Wrapped(module, mesh["data"].get_local_rank(), 2)


# What is run on every rank.


class Clip(NamedTuple):
    """What came of one norm.

    Attributes:
        norm: The norm that clipping returned.
        measured: The norm that was returned where the bound was infinite.
        untouched: Whether that left every byte as it was.
        each: The norms of single parameters, by name.
        after: The full gradients after clipping.
        collectives: How many collectives that took.
        by_wrapper: The norm where the wrapper clips itself, and how far its elements are from ours.
    """

    norm: Tensor
    measured: Tensor
    untouched: bool
    each: Gradients
    after: Gradients
    collectives: int
    by_wrapper: tuple[float, float] | None


class Report(NamedTuple):
    """What came of one layout on a rank.

    Attributes:
        before: The full gradients.
        clips: What came of each norm.
        by_rms: The full gradients where the root mean square of each is bounded by `RMS`.
        traits: What the parameters and their gradients are here: the types of their placements, `plain`, `empty`.
    """

    before: Gradients
    clips: dict[float, Clip]
    by_rms: Gradients
    traits: set[str]


def clip_by_every_order(wrap: Callable[[Net], Wrapped], dtype: torch.dtype) -> Report:
    """Go back once, and clip by every order; the bound is a third of the norm."""
    from torch.distributed.tensor.debug import CommDebugMode

    wrapped = wrap(net(dtype))
    wrapped.backward(dtype)
    gradients = [local(p.grad) for _, p in wrapped.named if p.grad is not None]
    copies = [x.clone() for x in gradients]
    clips: dict[float, Clip] = {}
    before = wrapped.full_gradients()
    for order in ORDERS:
        measured = gradclip.clip_grad_norm_(wrapped.named, math.inf, order)
        with CommDebugMode() as calls:  # of a second call: at the first, ranks agree on what is partial
            gradclip.clip_grad_norm_(wrapped.named, math.inf, order)
        untouched = all(map(torch.equal, gradients, copies))
        bound = float(measured) / 3.0
        each = {bare(name): norm for name, norm in gradclip.get_norms(wrapped.named, order).items()}
        norm = gradclip.clip_grad_norm_(wrapped.named, bound, order)
        after, by_wrapper = wrapped.full_gradients(), None
        if wrapped.by_wrapper is not None and dtype == torch.float32:  # it takes no other
            ours = _exchanged(gradients, copies)
            theirs = float(wrapped.by_wrapper(bound, order))
            differences = [(x - y).abs().max().item() for x, y in zip(gradients, ours, strict=True) if x.numel()]
            by_wrapper = theirs, max(differences, default=0.0)
        _exchanged(gradients, copies)
        clips[order] = Clip(norm, measured, untouched, each, after, calls.get_total_counts(), by_wrapper)
    gradclip.GradClipper(wrapped.named, BlockRMS(RMS)).clip()
    return Report(before, clips, wrapped.full_gradients(), {trait for _, p in wrapped.named for trait in _traits(p)})


def searches_under_fsdp1() -> int:
    """How often a first clip looks through all objects for who holds what."""
    wrapped = fsdp1(net(), orig=True, units=("blocks.0", "blocks.1", "head"))
    wrapped.backward(torch.float32)
    with mock.patch("gc.get_objects", side_effect=gc.get_objects) as search:
        gradclip.clip_grad_norm_(wrapped.named, 1.0)
        gradclip.clip_grad_norm_(wrapped.named, 1.0)
    return search.call_count


def smallest_under_fsdp1() -> float:
    """The norm of order -inf where five elements are on two ranks, the second of which has a zero of no parameter."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    mesh = mesh_of(2)
    wrapped = FullyShardedDataParallel(nn.Linear(5, 1, bias=False), device_mesh=mesh, device_id=torch.device("cpu"))
    wrapped(torch.arange(3.0, 8.0)).backward()
    return float(gradclip.clip_grad_norm_(wrapped, math.inf, -math.inf))


def clip_what_fsdp1_has_gathered() -> tuple[float, float, dict[str, float], float]:
    """The norm of shards; of whole gradients, in all and of each, as they are clipped; and of shards after that."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    wrapped = fsdp1(net(), orig=True, units=("blocks.0",))
    wrapped.backward(torch.float32)
    before = float(gradclip.clip_grad_norm_(wrapped.module, math.inf))
    with FullyShardedDataParallel.summon_full_params(wrapped.module, with_grads=True):
        each = {bare(name): float(norm) for name, norm in gradclip.get_norms(wrapped.module).items()}
        gathered = gradclip.GradClipper(wrapped.module).clip().total_norm
    return before, gathered, each, float(gradclip.clip_grad_norm_(wrapped.module, math.inf))


def clip_stages_under_fsdp1() -> list[float]:
    """The norm of a stage, then with the other one, declared before and after that, and in one collective."""
    found: list[float] = []
    mesh = mesh_of(2, 2)
    for is_clipped_before in (False, True):
        wrapped = fsdp1(net(), orig=True, units=("blocks.0",), mesh=mesh["model"])
        loss_of(wrapped.module, mesh["model"].get_local_rank(), 2, dtype=torch.float32).backward()
        if is_clipped_before:
            found.append(float(gradclip.clip_grad_norm_(wrapped.module, math.inf)))
        declare(wrapped.module, Ownership(disjoint=mesh["data"].get_group()))
        found.append(float(gradclip.clip_grad_norm_(wrapped.module, math.inf)))
        found.append(float(gradclip.clip_grad_norm_(wrapped.module, math.inf, group=dist.group.WORLD)))
    return found


def clip_fsdp1_in_a_graph() -> str:
    """What is raised where shards that no clip has met yet are clipped inside of a compiled function."""
    wrapped = fsdp1(net(), orig=True)
    wrapped.backward(torch.float32)
    owners = [p for _, p in wrapped.named]

    def clip() -> Tensor:
        return gradclip.clip_grad_norm_(owners, math.inf)

    try:
        return f"none, but {float(torch.compile(clip, backend='eager', fullgraph=True)())}"
    except Exception as error:  # noqa: BLE001 -- which one it is, the test says
        return str(error)


def clip_copies_under_fsdp1() -> float:
    """The norm in one collective of what is declared to be copied beyond what FSDP1 says."""
    mesh = mesh_of(2, 2)
    wrapped = fsdp1(net(), "HYBRID_SHARD", orig=False, sizes=(2, 2))
    wrapped.backward(torch.float32)
    declare(wrapped.module, Ownership(replicated=mesh["data"], sharded=mesh["model"]))
    return float(gradclip.clip_grad_norm_(wrapped.module, math.inf, group=dist.group.WORLD))


def clip_fsdp1_over_tensor_parallel(*, another: bool = False) -> float:
    """Clip where FSDP1 holds what tensor parallelism has split; or another model, which it shards beside that one."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh = mesh_of(2, 2)
    module = parallelize_module(nn.Sequential(nn.Linear(4, 4)), mesh["model"], {"0": ColwiseParallel()})
    wrapped = FullyShardedDataParallel(
        module, device_mesh=mesh["data"], device_id=torch.device("cpu"), use_orig_params=True
    )
    wrapped(torch.ones(2, 4)).sum().backward()
    if not another:
        return float(gradclip.clip_grad_norm_(wrapped, 1.0))
    beside = fsdp1(net(), orig=True, sizes=(4,))
    beside.backward(torch.float32)
    return float(gradclip.clip_grad_norm_(beside.module, math.inf))


def bare(name: str) -> str:
    """The name of a parameter in the model itself."""
    return name.removeprefix("module.").replace("_fsdp_wrapped_module.", "")


def _traits(p: Tensor) -> set[str]:
    placements = [x for y in (p, p.grad) for x in getattr(y, "placements", ())]
    return (
        {type(x).__name__ for x in placements}
        | ({"plain"} - {"plain" for _ in placements})
        | ({"empty"} if local(p).numel() == 0 else set())
    )


def _exchanged(tensors: list[Tensor], copies: list[Tensor]) -> list[Tensor]:
    """Put copies in the place of what tensors hold, and return that."""
    held = [x.clone() for x in tensors]
    for x, copy in zip(tensors, copies, strict=True):
        x.copy_(copy)
    return held
