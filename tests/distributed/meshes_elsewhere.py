"""A script: meshes of two and of four ranks whose numbers are on another device, where the host waits for none.

The other ranks are imagined: a sum of ranks is that of so many alike.
"""

import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.nn import Parameter
from torch.testing._internal.distributed.fake_pg import FakeStore

sys.path.insert(0, str(Path(__file__).parents[1]))

import gradclip
import withhold_workers
from gradclip.clipper import skips
from gradclip.distributed.span import Span
from gradclip.gradients import over_ranks
from gradclip.policies import FixedNorm
from policies.cases import CASES, SHAPES, clipper_of
from there import PLACE, There, no_waits

WARM = 4

Named = dict[str, Parameter]
Layout = Callable[[], tuple[Named, int]]


def sharded(mesh: DeviceMesh, *placements: Placement, plain: int = 0) -> Layout:
    """Return parameters with gradients, a few of them plain, and how many ranks add up the others."""
    ranks = math.prod(mesh.size(i) for i, x in enumerate(placements) if isinstance(x, Shard))

    def make() -> tuple[Named, int]:
        found: Named = {}
        for i, (name, shape) in enumerate(SHAPES.items()):
            is_plain = i < plain or not shape
            own = [There(torch.randn(shape)) for _ in range(2)]
            p, grad = (x if is_plain else DTensor.from_local(x, mesh, placements, run_check=False) for x in own)
            found[name] = Parameter(p)
            found[name].grad = grad
        return found, ranks

    return make


def norm_of(parameters: Named, ranks: int) -> float:
    """Return the norm, where all ranks hold the like."""
    gradients = [p.grad for p in parameters.values()]
    squares = [
        (ranks if isinstance(x, DTensor) else 1) * local(x).held.double().square().sum().item() for x in gradients
    ]
    return math.sqrt(math.fsum(squares))


def local(x: Any) -> There:
    return x.to_local() if isinstance(x, DTensor) else x


def functions(make: Layout) -> None:
    named, ranks = make()
    parameters = list(named.values())
    gradclip.clip_grad_norm_(parameters, 1e9)  # agrees on what there is
    for order in (2.0, math.inf, 3.0, -1.0):
        with no_waits():
            gradclip.clip_grad_norm_(parameters, 1e9, order)
            gradclip.get_norms(parameters, order)
            gradclip.get_total_norm([p.grad for p in parameters], order)
    truth = norm_of(named, ranks)
    with no_waits():
        norm = gradclip.clip_grad_norm_(parameters, 0.5)
    assert math.isclose(local(norm).held.item(), truth, rel_tol=1e-6)
    assert math.isclose(norm_of(named, ranks), 0.5, rel_tol=1e-5)
    with no_waits():
        gradclip.clip_grad_value_(parameters, 0.1)


def policies(make: Layout) -> int:
    tried = 0
    for case in CASES.values():
        parameters, ranks = make()
        if case.policy.skips:  # which asks for a number
            continue
        tried += 1
        clipper = clipper_of(case.policy, parameters, nonfinite="propagate")
        for step in range(WARM + 2):
            fresh, _ = make()
            for name, p in parameters.items():
                p.grad = fresh[name].grad
            before = norm_of(parameters, ranks)
            if step < WARM:
                clipper.clip()
            else:
                with no_waits():
                    clipper.clip()
            assert norm_of(parameters, ranks) <= before * (1 + 1e-6)
    return tried


def withheld(make: Layout) -> None:
    """A step of a fused optimizer on a gradient that is not finite does not happen, and nobody waits to know."""
    whole, _ = make()
    parameters = {name: p for name, p in whole.items() if isinstance(p, DTensor)}  # of which a kernel takes one kind
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1, fused=True)
    clipper = gradclip.GradClipper(list(parameters.items()), FixedNorm(0.5)).attach(optimizer)

    def numbers() -> list[torch.Tensor]:
        states = [x for p in parameters.values() for x in optimizer.state[p].values()]
        return [local(x).held.clone() for x in (*parameters.values(), *states)]

    for step in range(8):
        fresh, _ = make()
        for name, p in parameters.items():
            p.grad = fresh[name].grad
        if is_bad := step in {3, 5}:
            local(next(iter(parameters.values())).grad).held[0] = math.nan
        if step == 0:  # which makes the states
            optimizer.step()
            continue
        before = numbers()
        with no_waits():
            optimizer.step()
        assert all(map(torch.equal, before, numbers())) == is_bad
        assert clipper.last is not None
        assert (clipper.last.skipped is not None) == is_bad


def nothing_measured(make: Layout) -> None:
    """A rank that has no gradient, or fails, sends its numbers from there all the same, as the others do theirs."""
    named, _ = make()
    parameters = list(named.values())
    for p in parameters:
        p.grad = None
    norms = [gradclip.clip_grad_norm_(parameters, 1.0, order) for order in (2.0, math.inf)]
    assert [norm.to("cpu").item() for norm in norms] == [0.0, 0.0]
    for fresh, p in zip(make()[0].values(), parameters, strict=True):
        p.grad = fresh.grad
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradclip.ops.reference.ReferenceBatch.partial", fails)
        patch.setattr(Span, "gather", fails)  # to which the others do not come
        with pytest.raises(MemoryError):
            gradclip.clip_grad_norm_(parameters, 1.0)


def without_parameters(mesh: DeviceMesh) -> None:
    """A rank that has none hears on the device that another fails, as the rest do: it asks nobody alone."""

    def failed(span: Span, vector: Any, *, maximum: bool) -> None:
        vector.held[-4] = 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Span, "serves", lambda *_: PLACE)
        patch.setattr(Span, "reduce_", failed)
        patch.setattr(Span, "gather", fails)
        assert gradclip.clip_grad_norm_([], 1.0, group=mesh).item() == 0.0
        for scope in ("total", "parameter"):
            clipper = gradclip.GradClipper([], FixedNorm(1.0, scope=scope), group=mesh, nonfinite="propagate")
            assert clipper.clip().total_norm == 0.0


def unsummed(mesh: DeviceMesh) -> None:
    """Gradients that are parts of sums are summed, and who has them all waits for nothing."""
    x = There(torch.full((3, 2), 2.0))
    parameter = Parameter(DTensor.from_local(x, mesh, [Replicate()], run_check=False))
    parameter.grad = DTensor.from_local(x, mesh, [Partial()], run_check=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", lambda vector, *_, **__: vector.mul_(mesh.size()))
        patch.setattr(Span, "gather", lambda span, thing: [thing] * len(span.ranks))
        gradclip.clip_grad_norm_([parameter], 1e9)  # agrees on what there is
        with no_waits():
            norm = gradclip.clip_grad_norm_([parameter], 1e9)
    assert local(norm).held.item() == pytest.approx(8.0 * math.sqrt(6.0))


def lacking(make: Layout) -> None:
    """Where another rank may have a gradient that this one has not, one number is waited for, and no more."""
    named, _ = make()
    named["body.bias"].grad = None
    clipper = gradclip.GradClipper(list(named.items()), FixedNorm(1.0, scope="parameter"), nonfinite="propagate")
    reads: list[torch.Tensor] = []

    def read(present: Any) -> Any:
        reads.append(present)
        There.refuses_waits = False
        try:
            return positions(present)
        finally:
            There.refuses_waits = True

    positions = over_ranks._positions
    clipper.clip()
    with pytest.MonkeyPatch.context() as patch, no_waits():
        patch.setattr(over_ranks, "_positions", read)
        clipper.clip()
    assert len(reads) == 1


def fails(*_: Any, **__: Any) -> None:
    raise MemoryError


def reduced(span: Span, vector: torch.Tensor, *, maximum: bool) -> None:
    """Reduce as the other ranks do, which all come with numbers of the device."""
    assert vector.device == PLACE
    if not maximum:
        vector.mul_(len(span.ranks))


def main() -> None:
    warnings.simplefilter("ignore")
    skips.Transfer = withhold_workers.Late  # type: ignore[assignment,misc]
    Span.serves = lambda self, device: device  # type: ignore[method-assign]
    Span.reduce_ = reduced  # type: ignore[method-assign]
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    line = init_device_mesh(PLACE.type, (4,))
    square = init_device_mesh(PLACE.type, (2, 2), mesh_dim_names=("a", "b"))
    layouts = {
        "shards": sharded(line, Shard(0)),
        "shards beside plain ones": sharded(line, Shard(0), plain=1),
        "shards of one of two meshes": sharded(square["b"], Shard(0), plain=1),
        "copies of shards": sharded(square, Replicate(), Shard(0)),
        "copies beside plain ones": sharded(line, Replicate(), plain=1),
    }
    without_parameters(line)
    unsummed(line)
    lacking(layouts["shards"])
    for name, make in layouts.items():
        torch.manual_seed(0)
        functions(make)
        nothing_measured(make)
        withheld(make)
        sys.stdout.write(f"{name}: {policies(make)} policies\n")


if __name__ == "__main__":
    main()
