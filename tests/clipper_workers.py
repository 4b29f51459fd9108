"""Clippers on several ranks, fed with gradients that are known: each rank has its part of them."""

import copy
import math
import pickle
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import Shard, distribute_tensor
from torch.optim import SGD, AdamW, Optimizer

from framework_workers import local, mesh_of
from gradclip import ClipResult, GradClipper
from gradclip.distributed import Ownership, declare
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    BlockRMS,
    FixedNorm,
    FixedValue,
    MedianClip,
    Normalize,
    Policy,
    SmoothNorm,
    SpikeSkip,
    ZClip,
    by_group,
    by_name,
    chain,
    schedule,
    warmup,
)
from gradclip.testing import assert_clipped
from layouts import need_fsdp2, split

Named: TypeAlias = dict[str, Tensor]

STEPS = 9

SPIKE, ABSENT, LOSS_SPIKE = 5, 3, 7
"""The steps, from 0, with large gradients, without some, and with a large loss."""

LOOKED_AT = (ABSENT, SPIKE)
"""The steps whose clipped gradients are gathered."""


def falling(step: int) -> Policy:
    """A bound that comes down from 2 to 1."""
    return FixedNorm(1.0 + 0.7**step)


POLICIES: dict[str, Policy] = {
    "FixedNorm": FixedNorm(1.0),
    "FixedNorm p=1": FixedNorm(4.0, 1.0),
    "FixedNorm p=inf": FixedNorm(0.5, math.inf),
    "FixedNorm p=9": FixedNorm(0.5, 9.0),
    "FixedNorm each": FixedNorm(0.5, scope="parameter"),
    "FixedNorm each p=inf": FixedNorm(0.3, math.inf, scope="parameter"),
    "FixedNorm each p=9": FixedNorm(0.3, 9.0, scope="parameter"),
    "FixedValue": FixedValue(0.1),
    "BlockRMS": BlockRMS(0.1),
    "AGC": AGC(0.1),
    "AGC of columns": AGC(0.1, axis=0),
    "AGC of pixels": AGC(0.1, axis=(0, 1)),
    "AGC p=inf": AGC(0.1, norm_type=math.inf),
    "AGC p=3 by parameter": AGC(0.1, norm_type=3.0, per="parameter", min_ndim=2),
    "AGC by layer": AGC(0.1, per="layer", eps=0.0),
    "AGC of all": AGC(0.1, per="total"),
    "AutoClip": AutoClip(40.0, percentile=40.0, window=4),
    "AutoClip each": AutoClip(40.0, percentile=40.0, window=4, scope="parameter"),
    "MedianClip": MedianClip(40.0, scale=1.0, window=4, warmup=2),
    "ZClip": ZClip(40.0, z_threshold=0.5, warmup=3),
    "AdaGC": AdaGC(40.0, warmup=3),
    "AdaGC, low ceiling": AdaGC(1.0, relative=2.0, warmup=3),
    "SpikeSkip": SpikeSkip(40.0, window=5, warmup=3),
    "SmoothNorm sqrt": SmoothNorm(1.0),
    "SmoothNorm rational": SmoothNorm(1.0, "rational"),
    "SmoothNorm tanh": SmoothNorm(1.0, "tanh"),
    "Normalize": Normalize(),
    "Normalize each": Normalize(scope="parameter"),
    "warmup": warmup(4, FixedNorm(1.0)),
    "schedule": schedule(falling),
    "chain": chain(FixedNorm(0.5, scope="parameter"), FixedNorm(1.0)),
    "chain of totals": chain(warmup(3, FixedNorm(2.0)), ZClip(40.0, warmup=3)),
    "chain of two stages": chain(FixedValue(0.1), FixedNorm(0.2)),
    "chain of three norms": chain(FixedNorm(0.5, math.inf), AGC(0.1), FixedNorm(0.5, 1.0)),
    "chain that learns": chain(warmup(3, FixedNorm(2.0)), ZClip(40.0, warmup=3), AdaGC(40.0, warmup=3)),
    "by_name": by_name({"body.*": FixedNorm(1.0), "*.weight": AGC(0.1)}, default=BlockRMS(0.1)),
    "by_name that learns": by_name({"body.*": ZClip(40.0, warmup=3)}, default=AdaGC(40.0, warmup=3)),
    "by_group": by_group(FixedNorm(1.0)),
    "by_group that learns": by_group([ZClip(40.0, warmup=3), MedianClip(40.0, scale=1.0, window=4, warmup=2)]),
}

# A model of which, over 4 ranks, some pieces are empty, and its gradients.

SHAPES = {
    "embed.weight": (5, 4),
    "body.weight": (4, 6),
    "body.bias": (4,),
    "conv.weight": (3, 2, 2, 2),
    "head.weight": (2, 4),
    "head.bias": (1,),
    "head.gain": (),
}
GROUPS = {name: int(name.startswith("head.")) for name in SHAPES}


def weights() -> Named:
    """Always the same."""
    return _drawn(0, 1.0)


def gradients(step: int) -> Named:
    """Always the same: of norms of about 3, and 30 times that at the spike."""
    found = _drawn(1 + step, 30.0 if step == SPIKE else 0.3 + 0.05 * step)
    if step == ABSENT:
        del found["body.bias"], found["head.weight"]
    return found


def _drawn(seed: int, scale: float) -> Named:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) * scale for name, shape in SHAPES.items()}


def loss(step: int) -> float:
    """That of all ranks together."""
    return 100.0 if step == LOSS_SPIKE else 2.0 + 0.1 * step


# Layouts: from whole tensors to what this rank has of them.


def whole(values: Named) -> Named:
    return {name: x.clone() for name, x in values.items()}


def in_rows(values: Named) -> Named:
    """By rows over all ranks; a number is copied."""
    from torch.distributed.tensor import Replicate, Shard

    mesh = mesh_of(dist.get_world_size())
    placements = {name: [Shard(0) if x.ndim else Replicate()] for name, x in values.items()}
    return {name: split(x, mesh, placements[name]) for name, x in values.items()}


def in_blocks(values: Named) -> Named:
    """Over a mesh of two dimensions in several ways; biases on one of the dimensions only, and one of them plain."""
    from torch.distributed.tensor import Replicate, Shard

    mesh = mesh_of(2, 2)
    placements = {
        "embed.weight": (mesh, [Shard(0), Shard(1)]),
        "body.weight": (mesh, [Replicate(), Shard(1)]),
        "body.bias": (mesh["model"], [Shard(0)]),
        "conv.weight": (mesh, [Shard(0), Shard(0)]),
        "head.weight": (mesh, [Shard(0), Replicate()]),
        "head.gain": (mesh["data"], [Replicate()]),
    }
    return {name: split(x, *placements[name]) if name in placements else x.clone() for name, x in values.items()}


def by_fsdp2(values: Named, *, over_tensor_parallel: bool = False) -> Named:
    """Over all ranks as FSDP2 does it; of a mesh of two dimensions, over one, where the other splits tensors."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    need_fsdp2()
    mesh = mesh_of(2, 2) if over_tensor_parallel else mesh_of(dist.get_world_size())
    module = nn.Module()
    for name, x in values.items():
        if x.ndim:  # which FSDP2 asks for
            if over_tensor_parallel and x.ndim > 1:
                x = split(x, mesh["model"], [Shard(0)])  # noqa: PLW2901
            module.register_parameter(name.replace(".", "_"), nn.Parameter(x.clone()))
    fully_shard(module, mesh=mesh["data"])
    found = {name: module.get_parameter(name.replace(".", "_")) for name, x in values.items() if x.ndim}
    return {name: found[name].detach() if name in found else x.clone() for name, x in values.items()}


def in_pieces(values: Named) -> Named:
    """Plain pieces of every tensor, which say nothing."""
    rank, size = dist.get_rank(), dist.get_world_size()
    return {name: (x if x.ndim else x[None]).tensor_split(size)[rank].clone() for name, x in values.items()}


def apart(values: Named, *, ranks: int | None = None) -> Named:
    """Whole tensors, each on one rank, of all or of the first few."""
    rank, size = dist.get_rank(), ranks or dist.get_world_size()
    return {name: x.clone() for name, x in values.items() if list(SHAPES).index(name) % size == rank}


LAYOUTS: dict[str, Callable[[Named], Named]] = {
    "whole": whole,
    "in rows": in_rows,
    "in blocks": in_blocks,
    "FSDP2": by_fsdp2,
    "FSDP2 over tensor parallel": partial(by_fsdp2, over_tensor_parallel=True),
    "in pieces": in_pieces,
    "apart": apart,
    "apart on two ranks": partial(apart, ranks=2),
}


@cache
def parts(layout: str, step: int, copy: int = 0) -> Named:
    """What this rank has of the gradients of a step; of the weights, for a step of -1. There may be copies."""
    return LAYOUTS[layout](weights() if step < 0 else gradients(step))


def full(x: Tensor) -> Tensor:
    """The whole of a tensor of which this rank has a part."""
    return (x.full_tensor() if hasattr(x, "full_tensor") else x).clone()


# Training on them.


class Seen(NamedTuple):
    """What a clipper said of a step, and what came of it."""

    numbers: dict[str, float | None]
    status: str
    norms: dict[str, float]
    worst: list[tuple[str, float]]
    clipped: Named


class Trace(NamedTuple):
    """What came of some steps, what a clipper has learned, and the weights in the end."""

    steps: list[Seen]
    state: dict[str, Any]
    weights: Named


def parameters_of(layout: str, values: Named | None = None) -> dict[str, nn.Parameter]:
    """The parameters of a layout, declared where they have to be."""
    found = parts(layout, -1) if values is None else LAYOUTS[layout](values)
    parameters = {name: nn.Parameter(x.clone()) for name, x in found.items()}
    for name, p in parameters.items():
        if layout == "in pieces":
            declare([p], Ownership(sharded=dist.group.WORLD, numel=math.prod(SHAPES[name])))
        elif layout.startswith("apart"):
            declare([p], Ownership(disjoint=dist.group.WORLD))
    return parameters


def optimizer_of(parameters: dict[str, nn.Parameter]) -> Optimizer:
    """One that updates named parameters of all kinds, in two groups."""
    groups: list[dict[str, Any]] = [{"params": []}, {"params": []}]
    for name, parameter in parameters.items():
        groups[GROUPS[name]]["params"].append((name, parameter))
    return SGD([group for group in groups if group["params"]], lr=0.01, foreach=False)


def train(
    layout: str,
    policy: str,
    first: int = 0,
    last: int = STEPS,
    *,
    start: Named | None = None,
    state: dict[str, Any] | None = None,
    poisoned: Iterable[int] = (),
    knows_loss: Iterable[int] = range(8),
    grouped: bool = False,
    **arguments: Any,
) -> Trace:
    """Take some of the steps, clipped before the optimizer's, by hand where there is no parameter.

    It may start with other weights, whole, and another state of the clipper. Gradients of poisoned steps hold a NaN;
    the losses of the ranks that know one have the mean `loss`. Other arguments are those of the clipper.
    """
    if grouped:
        arguments["group"] = dist.group.WORLD
    parameters = parameters_of(layout, start)
    optimizer = optimizer_of(parameters) if parameters else None
    clipper = GradClipper(optimizer or [], POLICIES[policy], norms_every=2, **arguments)
    if optimizer is not None:
        clipper.attach(optimizer)
    if state is not None:
        clipper.load_state_dict(state)
    seen: list[Seen] = []
    for step in range(first, last):
        give(parameters, layout, step, poisoned=step in poisoned)
        if not dist.is_initialized() or dist.get_rank() in knows_loss:
            clipper.observe_loss(loss_here(step, knows_loss))
        if optimizer is None:
            clipper.clip()
        else:
            optimizer.step()
        assert clipper.last is not None
        seen.append(seen_of(clipper.last, parameters if step in LOOKED_AT else {}))
    return Trace(seen, clipper.state_dict(), {name: full(p.detach()) for name, p in parameters.items()})


def give(parameters: dict[str, nn.Parameter], layout: str, step: int, *, poisoned: bool = False) -> None:
    """Give parameters the gradients of a step; where poisoned, NaN in one element, which one rank holds or a few."""
    given, values = parts(layout, step), parts(layout, step, copy=1)
    if poisoned:
        bad = gradients(step)
        bad["embed.weight"][2, 1] = math.nan
        values = LAYOUTS[layout](bad)
    for name, p in parameters.items():
        p.grad = given.get(name)
        if name in given:
            local(given[name]).copy_(local(values[name]))


def loss_here(step: int, ranks: Iterable[int]) -> float:
    """A loss of this rank; the mean of those of all the ranks that know one is `loss`."""
    if not dist.is_initialized():
        return loss(step)
    shares = [rank + 1.0 for rank in ranks if rank < dist.get_world_size()]
    return loss(step) * (dist.get_rank() + 1.0) * len(shares) / sum(shares)


def seen_of(result: ClipResult, parameters: dict[str, nn.Parameter]) -> Seen:
    numbers = {
        "step": result.step,
        "total_norm": result.total_norm,
        "total_norm_after": result.total_norm_after,
        "coefficient": result.coefficient,
        "threshold": result.threshold,
    }
    measured = bool(result.worst())
    return Seen(
        numbers,
        result.status.value,
        result.norms() if measured else {},
        result.worst(),
        {name: full(p.grad) for name, p in parameters.items() if p.grad is not None},
    )


# Skipped steps.


def skip(layout: str, poisoned: Iterable[int], **arguments: Any) -> tuple[list[tuple[str, bool]], str]:
    """Train with Adam on gradients some of which hold NaN on one rank.

    Returns the status of each step, and whether it left parameters, optimizer state and counts as they were; and what
    was raised, if something was.
    """
    parameters = parameters_of(layout)
    optimizer = AdamW(parameters.values(), lr=0.01, foreach=False, weight_decay=0.1)
    clipper = GradClipper(parameters.items(), FixedNorm(1.0), **arguments).attach(optimizer)
    seen: list[tuple[str, bool]] = []
    for step in range(STEPS):
        give(parameters, layout, step, poisoned=step in poisoned)
        before = _everything(parameters, optimizer)
        try:
            optimizer.step()
        except RuntimeError as error:
            return seen, f"{type(error).__name__}: {error}"
        assert clipper.last is not None
        seen.append((clipper.last.status.value, _everything(parameters, optimizer) == before))
    return seen, ""


def _everything(parameters: dict[str, nn.Parameter], optimizer: Optimizer) -> list[Any]:
    """The bytes of all that a step may write: gradients too."""
    tensors = [x for p in parameters.values() for x in (p, p.grad) if x is not None]
    tensors += [x for p in parameters.values() for x in optimizer.state[p].values()]
    numbers = [value for group in optimizer.param_groups for key, value in group.items() if key != "params"]
    return [local(x).detach().numpy().tobytes() for x in tensors] + numbers


def train_each(
    layout: str, policies: Iterable[str], starts: dict[str, Trace] | None = None, **arguments: Any
) -> dict[str, Trace]:
    """Train with several policies, from the start or from where other runs have ended."""
    found: dict[str, Trace] = {}
    for policy in policies:
        went_on = {} if starts is None else {"start": starts[policy].weights, "state": starts[policy].state}
        found[policy] = train(layout, policy, **went_on, **arguments)
    return found


def train_or_say(layout: str, policy: str, **arguments: Any) -> Trace | str:
    """Train, or return why that was refused."""
    try:
        return train(layout, policy, **arguments)
    except ValueError as error:
        return str(error)


def refused(layout: str, policies: Iterable[Policy]) -> list[str]:
    """What a first clip with each policy raises."""
    parameters = parameters_of(layout)
    said: list[str] = []
    for policy in policies:
        give(parameters, layout, 0)
        try:
            said.append(repr(GradClipper(parameters.items(), policy).clip()))
        except ValueError as error:
            said.append(str(error))
    return said


def copied() -> tuple[list[float], str]:
    """Return the norms that a clipper of a group and its copy see, and why it cannot be pickled."""
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.tensor([3.0 + dist.get_rank()])
    declare([p], Ownership(disjoint=dist.group.WORLD))
    clipper = GradClipper([("p", p)], FixedNorm(10.0), group=dist.group.WORLD)
    q, other = copy.deepcopy((p, clipper))
    q.grad = p.grad.clone()
    declare([q], Ownership(disjoint=dist.group.WORLD))
    norms = [one.clip().total_norm for one in (clipper, other)]
    try:
        pickle.dumps(clipper)
    except TypeError as error:
        return norms, str(error)
    return norms, ""


def asserted() -> list[str | None]:
    """Return why steps of parameters on a mesh, or with a plain one, are not within bounds: norms are 3 and 3.16."""
    mesh, said = mesh_of(2), list[str | None]()
    whole = nn.Parameter(distribute_tensor(torch.zeros(9), mesh, [Shard(0)]))
    plain = nn.Parameter(torch.zeros(1))
    for owners in ([whole], [whole, plain]):
        optimizer = SGD(owners, lr=0.1)
        for p in owners:
            p.grad = torch.ones_like(p)
        try:
            with assert_clipped(optimizer, 3.1):
                optimizer.step()
            said.append(None)
        except AssertionError as error:
            said.append(str(error))
    return said
