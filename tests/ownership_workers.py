"""What the ranks do in tests of declarations: build a model that is another on each rank, declare it, and clip it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import gradclip
from gradclip.distributed import Ownership, declare, declare_megatron, forget
from layout_workers import local_of
from layouts import mesh_of, place
from traffic_workers import traffic_of


class Rule(NamedTuple):
    """An `Ownership`, by axes of meshes in place of groups."""

    sharded: str = ""
    disjoint: str = ""
    replicated: str = ""
    counted: bool = True

    def ownership(self) -> Ownership:
        """Make it one on this rank."""
        sharded, disjoint, replicated = (group_of(axes) for axes in self[:3])
        return Ownership(sharded=sharded, disjoint=disjoint, replicated=replicated, counted=self.counted)


class Piece(NamedTuple):
    """What one rank holds of a parameter: a tensor of its own for each seed, or a shard of one that `axes` share."""

    name: str
    seed: int
    shape: tuple[int, ...]
    rule: Rule | None = None
    axes: str = ""
    attributes: tuple[str, ...] = ()


Models = list[list[Piece]]
"""The pieces of each rank."""


class Seen(NamedTuple):
    """What came of a clip on a rank; the last two are of models without a group."""

    norm: Tensor
    left: dict[str, Tensor]
    collectives: int
    by_clipper: tuple[float, float]
    each: dict[str, Tensor]


def elements(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The gradient of a piece, as every process knows it."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(torch.float32)


def group_of(axes: str) -> Any:
    """All ranks, or those along an axis of a mesh; nothing for no axes."""
    if not axes:
        return ()
    return distributed.group.WORLD if axes == "all" else mesh_of(axes)


def build(models: Models) -> dict[str, nn.Parameter]:
    """Build the parameters of this rank, with their gradients."""
    found: dict[str, nn.Parameter] = {}
    for piece in models[distributed.get_rank()]:
        gradient = elements(piece.seed, piece.shape)
        if piece.axes:
            gradient = place([gradient], ["S0"], mesh_of(piece.axes))
        parameter = found[piece.name] = nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient
        for attribute in piece.attributes:
            setattr(parameter, attribute.removeprefix("not "), not attribute.startswith("not "))
    return found


def clip(models: Models, p: float, max_norm: float, *, spanning: str = "") -> Seen:
    """Declare every piece that has a rule, for itself, and clip."""
    parameters = build(models)
    for piece in models[distributed.get_rank()]:
        if piece.rule is not None:
            declare(parameters[piece.name], piece.rule.ownership())
    return _clip(parameters, p, max_norm, group_of(spanning) or None)


def clip_megatron(models: Models, groups: dict[str, str], p: float, max_norm: float, *, spanning: str = "") -> Seen:
    """Declare all pieces by their attributes, and clip."""
    parameters = build(models)
    declare_megatron(parameters.items(), **{name: group_of(axes) for name, axes in groups.items()})
    return _clip(parameters, p, max_norm, group_of(spanning) or None)


def _clip(parameters: dict[str, nn.Parameter], p: float, max_norm: float, group: Any) -> Seen:
    clipper = gradclip.GradClipper(
        parameters.items(), gradclip.policies.FixedNorm(1e9, norm_type=p), group=group, nonfinite="raise"
    )
    result = clipper.clip()
    each = {} if group is not None else gradclip.get_norms(parameters.items(), p)
    norms: list[Tensor] = []

    def call() -> None:
        norms.append(gradclip.clip_grad_norm_(list(parameters.values()), max_norm, p, group=group))

    traffic = traffic_of(call)
    left = {name: local_of(parameter.grad).clone() for name, parameter in parameters.items()}
    return Seen(norms[0], left, traffic.collectives, (result.total_norm, result.coefficient), each)


class Said(NamedTuple):
    """What is said of one parameter: the axes of the mesh of its DTensor, with placements, and a rule."""

    mesh: str
    placements: str
    rule: Rule


def norms_of(said: Said, seeds: list[int]) -> tuple[float, float, float] | str:
    """The total norm, that of the parameter, and the total norm with a group of all ranks (-1 where that is refused).

    Or why it is refused. Each rank holds six numbers, by its seed.
    """
    local = elements(seeds[distributed.get_rank()], (2, 3))
    parameter = nn.Parameter(_distributed(torch.zeros_like(local), said))
    parameter.grad = _distributed(local, said)
    try:
        declare([("weight", parameter)], said.rule.ownership())
    except ValueError as error:
        return str(error)
    total = gradclip.clip_grad_norm_([parameter], float("inf")).item()
    own = gradclip.get_norms([("weight", parameter)])["weight"].item()
    clipper = gradclip.GradClipper([("weight", parameter)], gradclip.policies.FixedNorm(1e9, scope="parameter"))
    assert clipper.clip().norms()["weight"] == pytest.approx(own, rel=1e-6)
    try:
        together = gradclip.clip_grad_norm_([parameter], float("inf"), group=distributed.group.WORLD).item()
    except ValueError:
        together = -1.0
    return total, own, together


def declared_over_its_mesh(kind: str) -> tuple[float, float]:
    """The norm of copies that are declared to be something else on each rank, without a group and with one."""
    local = torch.tensor([3.0, 4.0]) * (distributed.get_rank() + 1)
    parameter = nn.Parameter(_distributed(torch.zeros(2), Said("all", "R", Rule())))
    parameter.grad = _distributed(local, Said("all", "R", Rule()))
    declare([parameter], Rule(**{kind: "all"}).ownership())
    alone = gradclip.clip_grad_norm_([parameter], float("inf"))
    return alone.item(), gradclip.clip_grad_norm_([parameter], float("inf"), group=distributed.group.WORLD).item()


def norms_of_gradients() -> dict[str, float | str]:
    """The norms of gradients of two parameters, of which one is another on each rank, found in several ways."""
    rank, world = distributed.get_rank(), distributed.group.WORLD
    expert, dense = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    gradients = [torch.tensor([3.0, 4.0]) * (rank + 1), torch.tensor([1.0, 0.0])]
    expert.grad, dense.grad = (x.clone() for x in gradients)
    expert.main_grad, dense.main_grad = (x.clone() for x in gradients)
    declare([expert], Ownership(disjoint=world))
    declare([dense], Ownership(replicated=world))
    found: dict[str, float | str] = {}

    def measure(what: str, given: list[Tensor]) -> None:
        found[what] = gradclip.get_total_norm(given).item()
        try:
            found[f"{what}, group"] = gradclip.get_total_norm(given, group=world).item()
        except ValueError as error:
            found[f"{what}, group"] = str(error)

    measure("grad", [expert.grad, dense.grad])
    measure("main_grad", [expert.main_grad, dense.main_grad])
    measure("loose", gradients)
    declare([gradients[0]], Ownership(disjoint=world))
    declare([gradients[1]], Ownership(replicated=world))
    measure("declared", gradients)
    return found


def all_norms_of(cases: list[tuple[Said, list[int]]]) -> list[tuple[float, float, float] | str]:
    """What `norms_of` returns for each of many."""
    return [norms_of(*case) for case in cases]


def _distributed(local: Tensor, said: Said) -> Tensor:
    if not said.mesh:
        return local
    from torch.distributed.tensor import DTensor, Replicate, Shard

    placements = [Replicate() if word == "R" else Shard(int(word[1])) for word in said.placements.split()]
    return DTensor.from_local(local, mesh_of(said.mesh), placements, run_check=False)


def by_patterns(rules: dict[str, Rule]) -> float:
    """The norm of a module whose parameters are declared by patterns: ones, 2 x 3 in each weight, 2 in each bias."""
    module = nn.ModuleDict({"up": nn.Linear(3, 2), "down": nn.Linear(3, 2)})
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    declare(module, {pattern: rule.ownership() for pattern, rule in rules.items()})
    declare(module, {pattern: rule.ownership() for pattern, rule in rules.items()})  # again: as before
    return gradclip.clip_grad_norm_(module, 1e9).item()


def refusals() -> dict[str, str]:
    """What is said about wrong groups, and about parameters that leave open who holds them."""
    weight, shards = nn.Parameter(torch.ones(2)), nn.Parameter(place([torch.ones(8)], ["S0"], mesh_of("tp")))
    weight.grad, world = torch.ones(2), distributed.group.WORLD
    rank, strange = distributed.get_rank(), nn.Parameter(torch.ones(2))
    far = distributed.DeviceMesh("cpu", [0, 1]), distributed.DeviceMesh("cpu", [2, 3])
    declare([strange], Ownership(replicated=mesh_of("tp")))
    calls: dict[str, Callable[[], Any]] = {
        "not a group": lambda: Ownership(sharded=3),
        "a name": lambda: Ownership(disjoint="dp"),
        "no group of this rank": lambda: Ownership(replicated=far[rank < 2]),
        "no process group of this rank": lambda: Ownership(replicated=distributed.GroupMember.NON_GROUP_MEMBER),
        "clip_grad_norm_": lambda: gradclip.clip_grad_norm_([weight], 1.0, group="all"),
        "get_total_norm": lambda: gradclip.get_total_norm([weight], group=far[rank < 2]),
        "GradClipper": lambda: gradclip.GradClipper([weight], group=4),
        "open": lambda: gradclip.clip_grad_norm_([weight], 1.0, group=world),
        "open shards": lambda: gradclip.clip_grad_norm_([("blocks.0", shards)], 1.0, group=world),
        "open in part": lambda: gradclip.GradClipper([("bias", strange)], group=world).clip(),
    }
    return {name: _refusal_of(call) for name, call in calls.items()}


def _refusal_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def zero_beside_tiny(order: float) -> tuple[str, float, list[float]]:
    """Clip two parameters of one rank each by each norm, one of zeros and one of tiny numbers."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    parameters[0].grad, parameters[1].grad = torch.zeros(2), torch.full((2,), 1e-20)
    declare(parameters, Ownership(disjoint=distributed.group.WORLD))
    policy = gradclip.policies.FixedNorm(1.0, order, scope="parameter")
    result = gradclip.GradClipper(parameters, policy).clip()
    forget(parameters)
    return result.status.value, result.total_norm, [x.item() for x in gradclip.get_norms(parameters, order).values()]


class Special(DTensor):
    """A DTensor of a class of its own."""


def a_class_of_its_own() -> tuple[float, float]:
    """The norm of one alone, and beside a plain DTensor."""
    mesh = distributed.init_device_mesh("cpu", (distributed.get_world_size(),))
    made: list[nn.Parameter] = []
    for kind in (Special, DTensor):
        x: Any = nn.Parameter(distribute_tensor(torch.zeros(4), mesh, [Shard(0)]))
        x.grad = distribute_tensor(torch.full((4,), 3.0), mesh, [Shard(0)])
        x.__class__ = kind
        made.append(x)
    return gradclip.get_norms(made[:1])["parameters[0]"].item(), gradclip.clip_grad_norm_(made, 100.0).item()
