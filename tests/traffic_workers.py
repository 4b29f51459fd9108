"""What the ranks do in tests of collectives: call the library, and count what goes over the wire."""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, distributed, nn

import gradclip
from gradclip.distributed import Ownership, declare, forget, span
from layout_workers import build, local_of
from layouts import Part, mesh_of, place

WORDS = {"tp": "dp", "dp": "tp"}
"""Along which axis there are copies of what lies on a mesh of one axis."""


class Traffic(NamedTuple):
    """All collectives, as torch counts them; elements and ranks of each plain reduction; how many groups were made."""

    collectives: int
    reduced: list[tuple[int, int]]
    groups: int


def traffic_of(call: Callable[[], Any]) -> Traffic:
    """Count what a call sends."""
    from torch.distributed.tensor.debug import CommDebugMode

    reduced: list[tuple[int, int]] = []
    groups: list[object] = []
    plain, make = distributed.all_reduce, distributed.new_group

    def all_reduce(tensor: Tensor, *args: Any, group: Any = None, **kwargs: Any) -> Any:
        reduced.append((tensor.numel(), distributed.get_world_size(group)))
        return plain(tensor, *args, group=group, **kwargs)

    def new_group(*args: Any, **kwargs: Any) -> Any:
        groups.append(args)
        return make(*args, **kwargs)

    watch_reductions = patch.object(distributed, "all_reduce", all_reduce)
    watch_groups = patch.object(distributed, "new_group", new_group)
    with watch_reductions, watch_groups, CommDebugMode() as counter:
        call()
    return Traffic(counter.get_total_counts(), reduced, len(groups))


def known_traffic() -> tuple[Traffic, Traffic, Traffic, Traffic]:
    """What the counter makes of a reduction, of a DTensor that is gathered, of objects, and of a group."""
    shards = place([torch.ones(8)], ["S0"], mesh_of("all"))
    everything = [None] * distributed.get_world_size()
    made: list[Any] = []
    found = (
        traffic_of(lambda: distributed.all_reduce(torch.ones(3))),
        traffic_of(shards.full_tensor),
        traffic_of(lambda: distributed.all_gather_object(everything, "a word")),
        traffic_of(lambda: made.append(distributed.new_group([0, 1]))),
    )
    distributed.barrier()  # so that none takes its connections down while another still makes its own
    distributed.destroy_process_group(made[0])
    return found


def by_axes(why: str) -> tuple[Traffic, int, float, float, list[int]]:
    """Reduce over two axes of three where all ranks of the program would have to come for a group, and over two of two.

    Returns:
        What was sent over the first, and over how many groups; sum and maximum of all ranks over the second, and what
        each of these gave.
    """
    rank, world = distributed.get_rank(), distributed.group.WORLD
    assert world is not None
    narrow = distributed.init_device_mesh("cpu", (2, 2, 1), mesh_dim_names=("a", "b", "c"))["b", "c"]
    square = mesh_of("dp tp")
    world.bound_device_id = torch.device("cpu", 0) if why == "bound" else None
    try:
        with patch.object(span, "_known", {}), patch.object(distributed, "get_backend", lambda _: why):
            own = span.span_of(narrow)
    finally:
        world.bound_device_id = None
    sent = traffic_of(lambda: own.reduce_(torch.ones(3), maximum=False))
    both = span.Span(square.get_all_groups(), tuple(range(4)))
    found = torch.full((2,), 2.0**rank)
    both.reduce_(found[:1], maximum=False)
    both.reduce_(found[1:], maximum=True)
    return sent, len(own.groups), *found.tolist(), both.gather(rank)


def clips(parts: list[Part], p: float = 2.0, *, spanning: bool = False) -> list[tuple[Traffic, float]]:
    """Clip twice, and return what was sent each time, and the norm."""
    model = build(parts, torch.float32)
    group = None
    if spanning:
        group = distributed.group.WORLD
        _declare_copies(parts, model.parameters)
    norms: list[float] = []

    def call() -> None:
        norms.append(gradclip.clip_grad_norm_(model.parameters, 1.0, p, group=group).item())

    found: list[Traffic] = []
    for _ in range(2):
        model.with_gradients()
        found.append(traffic_of(call))
    return list(zip(found, norms, strict=True))


def _declare_copies(parts: list[Part], parameters: list[nn.Parameter]) -> None:
    """Say of each parameter that does not lie on all ranks where its copies are."""
    for part, parameter in zip(parts, parameters, strict=True):
        if not part.placed:
            declare(parameter, Ownership(replicated=distributed.group.WORLD))
        elif part.axes in WORDS:
            declare(parameter, Ownership(replicated=mesh_of(WORDS[part.axes])))


def others(parts: list[Part]) -> dict[str, Traffic]:
    """What each of the other functions sends."""
    model = build(parts, torch.float32)
    named = [(f"part {i}", parameter) for i, parameter in enumerate(model.with_gradients())]
    by_norms = gradclip.GradClipper(named, gradclip.policies.FixedNorm(1.0), norms_every=1)
    calls = {
        "get_total_norm": lambda: gradclip.get_total_norm(model.gradients),
        "get_norms": lambda: gradclip.get_norms(named),
        "clip_grads_with_norm_": lambda: gradclip.clip_grads_with_norm_(model.parameters, 1.0, 2.0),
        "clip_grad_value_": lambda: gradclip.clip_grad_value_(model.parameters, 0.5),
        "GradClipper": gradclip.GradClipper(named).clip,
        "GradClipper of norms": by_norms.clip,
    }
    return {name: traffic_of(call) for name, call in calls.items()}


def part_of_a_mesh() -> list[tuple[Traffic, float]]:
    """Measure a model on two axes of a mesh of three, with ranks that nothing else here has a group of."""
    mesh = distributed.DeviceMesh("cpu", [[[0, 3]], [[1, 2]]], mesh_dim_names=("pp", "dp", "tp"))["dp", "tp"]
    weight = nn.Parameter(place([torch.zeros(8)], ["R", "S0"], mesh))
    weight.grad = place([torch.ones(8)], ["R", "S0"], mesh)
    norms: list[Tensor] = []
    calls = [
        lambda: norms.append(gradclip.get_total_norm([weight.grad])),
        lambda: norms.append(gradclip.get_total_norm([weight.grad])),
        lambda: norms.append(gradclip.clip_grad_norm_([weight], 100.0)),
    ]
    return [(traffic_of(call), norms[-1].item()) for call in calls]


# What changes between calls. The whole is eight ones, so its norm is the root of 8.


class Sample(NamedTuple):
    """One norm: of a gradient so placed, of a parameter so placed."""

    axes: str
    placed: str
    gradient: str


def one_after_another(samples: list[Sample], *, anew: bool, lacking: bool = False) -> list[tuple[float, float, float]]:
    """Measure and clip a module whose only parameter, or only whose gradient, is another each time.

    If `lacking`, the first rank has none where others have parts of a sum. Returns the total norm, the norm of the
    parameter, and the largest element that `clip_grad_value_` leaves.
    """
    module, found = nn.Module(), []
    for axes, placed, words in samples:
        mesh = mesh_of(axes)
        if anew or not found:
            module.weight = nn.Parameter(place([torch.zeros(8)], placed.split(), mesh))
        ones = [torch.ones(8)] * distributed.get_world_size()
        module.weight.grad = place(ones, words.split(), mesh)
        if lacking and words == "P" and distributed.get_rank() == 0:
            module.weight.grad = None
        total = gradclip.clip_grad_norm_(module, 100.0).item()
        norm = gradclip.get_norms(module)["weight"].item()
        if "P" not in words:
            gradclip.clip_grad_value_(module, 0.5)
        local = torch.ones(1) if module.weight.grad is None else local_of(module.weight.grad)
        found.append((total, norm, local.max().item() if local.numel() else 0.5))
    return found


def one_after_another_elsewhere(samples: list[Sample], *, lacking: bool) -> list[tuple[float, float, float]]:
    """Do so as if numbers that come of a collective were those of a device, which the host does not know."""
    with patch("gradclip.gradients.passage.is_known", lambda _: False):
        return one_after_another(samples, anew=False, lacking=lacking)


def limited_after_a_sum() -> float:
    """Clip a partial gradient by its norm, and the next one, which is not partial, by value alone."""
    weight = nn.Parameter(place([torch.zeros(8)], ["R"], mesh_of("all")))
    weight.grad = place([torch.ones(8)] * distributed.get_world_size(), ["P"], mesh_of("all"))
    gradclip.clip_grad_norm_([weight], 100.0)
    weight.grad = place([torch.ones(8)], ["R"], mesh_of("all"))
    gradclip.clip_grad_value_([weight], 0.5)
    return local_of(weight.grad).max().item()


def declared_otherwise() -> list[tuple[float, float]]:
    """The norms of a plain parameter with four ones on each rank, as more is said about it: the total, its own."""
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = torch.ones(4)
    world = distributed.group.WORLD
    found: list[tuple[float, float]] = []
    for ownership in (None, Ownership(sharded=world), None, Ownership(disjoint=world), Ownership(counted=False)):
        forget([weight])
        if ownership is not None:
            declare([weight], ownership)
        total = gradclip.clip_grad_norm_([weight], 100.0).item()
        found.append((total, gradclip.get_norms([weight])["parameters[0]"].item()))
    return found
