"""What the ranks do in tests of failures: break a gradient on one rank, call the library, and tell what it said."""

import copy
import math
import os
import pickle
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

import gradclip
from gradclip.distributed import Ownership, declare, forget
from gradclip.records import Memory
from layout_workers import Held, build, holdings, local_of
from layouts import Part, mesh_of, place


class Break(NamedTuple):
    """A value that the first element of a local gradient gets, on one rank."""

    rank: int
    part: int
    value: float


class Said(NamedTuple):
    """What came of a call on a rank: a norm, or the type and message of an error; and what the gradients are then."""

    norm: float | None
    error: str
    left: list[Tensor]
    more: str = ""


def said_by(call: Callable[[], Any], parameters: list[nn.Parameter]) -> Said:
    """Return what a call says."""
    norm, error = None, ""
    try:
        norm = float(call())
    except Exception as caught:  # noqa: BLE001 -- which one it is, the test says
        error = f"{type(caught).__name__}: {caught}"
    return Said(norm, error, [local_of(parameter.grad).clone() for parameter in parameters])


def _broken(parts: list[Part], breaks: list[Break]) -> tuple[list[nn.Parameter], list[tuple[str, nn.Parameter]]]:
    model = build(parts, torch.float32)
    parameters = model.with_gradients()
    for rank, number, value in breaks:
        if rank == distributed.get_rank():
            local_of(parameters[number].grad).view(-1)[0] = value
    return parameters, [(f"part {i}", parameter) for i, parameter in enumerate(parameters)]


def held(parts: list[Part]) -> list[Held]:
    """What this rank holds of each part."""
    return holdings(parts, build(parts, torch.float32).gradients)


def clip(parts: list[Part], breaks: list[Break], mode: Any, p: float, max_norm: float) -> Said:
    """Call `clip_grad_norm_`."""
    parameters, named = _broken(parts, breaks)
    return said_by(lambda: gradclip.clip_grad_norm_(named, max_norm, p, nonfinite=mode), parameters)


def step(parts: list[Part], breaks: list[Break], mode: Any, p: float, max_norm: float) -> Said:
    """Take a step of an optimizer with a clipper attached, and say how it ended and whether it happened."""
    parameters, named = _broken(parts, breaks)
    policy = gradclip.policies.FixedNorm(max_norm, norm_type=p)
    clipper = gradclip.GradClipper(named, policy, nonfinite=mode, max_consecutive_skips=1)
    optimizer = torch.optim.SGD(parameters, lr=1.0, foreach=False)

    def call() -> float:
        optimizer.step()
        assert clipper.last is not None
        return clipper.last.total_norm

    with clipper.attach(optimizer):
        said = said_by(call, parameters)
        moved = any(bool((local_of(parameter) != 0.0).any()) for parameter in parameters)
        status = "none" if clipper.last is None else clipper.last.status.value
        again = said_by(call, parameters) if status == "skipped_nonfinite" else said
    return said._replace(more=f"{status}, {'moved' if moved else 'as before'}, {again.error}")


def give_up_where_a_sink_fails() -> str:
    """Skip one step too many, of which the sink of the first rank cannot take the record; return what is raised."""
    mesh, memory = mesh_of("all"), Memory()
    weight: Any = nn.Parameter(place([torch.zeros(6)], ["S0"], mesh))
    weight.grad = place([torch.full((6,), math.nan)], ["S0"], mesh)
    sink: Any = _full if distributed.get_rank() == 0 else memory
    clipper = gradclip.GradClipper([("weight", weight)], max_consecutive_skips=0, sinks=[sink])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            clipper.clip()
        except (UserWarning, RuntimeError) as error:
            return str(error)
    return ""


def _full(_: object) -> None:
    raise OSError("no space left")


# Gradients that one rank cannot collect.


def _bad_gradient(kind: str) -> nn.Parameter | Tensor:
    """A parameter of each kind with a gradient that cannot be clipped."""
    mesh, size = mesh_of("all"), distributed.get_world_size()
    weight: Any = nn.Parameter(torch.zeros(6))
    if kind == "overlapping":
        weight.grad = torch.ones(1).expand(6)
    elif kind == "of integers":
        weight = torch.zeros(6, dtype=torch.int64)
        weight.grad = torch.ones(6, dtype=torch.int64)
    elif kind == "on another mesh":
        weight = nn.Parameter(place([torch.zeros(6)], ["S0"], mesh))
        weight.grad = place([torch.ones(6)], ["S0", "R"], mesh_of("dp tp"))
    elif kind == "a sum of a shard":
        weight = nn.Parameter(place([torch.zeros(6)], ["S0"], mesh))
        weight.grad = place([torch.ones(6)] * size, ["P"], mesh)
    elif kind == "a product":
        weight = nn.Parameter(place([torch.zeros(6)], ["R"], mesh))
        weight.grad = place([torch.ones(6)] * size, ["Pproduct"], mesh)
    return weight


def _good_gradient(kind: str) -> nn.Parameter:
    """A parameter like that of a kind, with a gradient that can be clipped."""
    weight = nn.Parameter(torch.zeros(6))
    words = {"on another mesh": "S0", "a sum of a shard": "S0", "a product": "R"}.get(kind)
    weight.grad = torch.ones(6)
    if words is not None:
        weight = nn.Parameter(place([torch.zeros(6)], [words], mesh_of("all")))
        weight.grad = place([torch.ones(6)], [words], mesh_of("all"))
    return weight


def collect_what_is_bad(parts: list[Part], kinds: dict[int, str]) -> dict[str, Said]:
    """Call each function with a gradient that some ranks cannot collect, by rank, then once with none."""
    model, rank = build(parts, torch.float32), distributed.get_rank()
    kind = next(iter(kinds.values()))
    last = _bad_gradient(kinds[rank]) if rank in kinds else _good_gradient(kind)
    parameters = model.with_gradients()
    named: list[tuple[str, Any]] = [(f"part {i}", parameter) for i, parameter in enumerate(parameters)]
    bad = [*named, ("last", last)]
    if plain := [x for _, x in bad if not hasattr(x, "to_local")]:
        declare(plain, Ownership(replicated=distributed.group.WORLD))
    clipper = gradclip.GradClipper(bad)
    clips = {
        "clip_grad_norm_": lambda: gradclip.clip_grad_norm_(bad, 0.1),
        "in one collective": lambda: gradclip.clip_grad_norm_(bad, 0.1, group=distributed.group.WORLD),
        "GradClipper": lambda: clipper.clip().total_norm,
    }
    found = {name: said_by(call, parameters) for name, call in clips.items()}
    return found | {"good": said_by(lambda: gradclip.clip_grad_norm_(named, 1e9), parameters)}


def norms_of_what_is_bad(kind: str, on: int) -> str:
    """The norms of parameters of which one rank has a gradient that has none."""
    shards = nn.Parameter(place([torch.zeros(8)], ["S0"], mesh_of("all")))
    shards.grad = place([torch.ones(8)], ["S0"], mesh_of("all"))
    last = _bad_gradient(kind) if distributed.get_rank() == on else _good_gradient(kind)
    return said_by(lambda: len(gradclip.get_norms([("shards", shards), ("last", last)])), []).error


# Meshes that overlap in part, and declarations that some ranks lack.


def clip_on_two_axes(bad: int, value: float, *, axis: int = 0, overlapping: bool = False) -> Said:
    """Clip parameters on each of two axes for itself, of which one rank has a bad gradient, along one of them."""
    parameters: list[nn.Parameter] = []
    for axes in ("tp", "dp"):
        parameters.append(nn.Parameter(place([torch.zeros(4, 2)], ["S0"], mesh_of(axes))))
        parameters[-1].grad = place([torch.ones(4, 2)], ["S0"], mesh_of(axes))
    plain = nn.Parameter(torch.zeros(3))
    plain.grad = torch.ones(3)
    if distributed.get_rank() == bad:
        local_of(parameters[axis].grad)[0, 0] = value
        plain.grad = torch.ones(1).expand(3) if overlapping else plain.grad
    return said_by(lambda: gradclip.clip_grad_norm_([*parameters, plain], 1.0, error_if_nonfinite=True), parameters)


def open_on(rank: int) -> str:
    """Clip with a group, where one rank has not declared its parameter."""
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    if distributed.get_rank() != rank:
        declare([weight], Ownership(disjoint=distributed.group.WORLD))
    return said_by(lambda: gradclip.clip_grad_norm_([weight], 1.0, group=distributed.group.WORLD), []).error


def die(dying: int) -> float:
    """Clip, and clip again while a rank is gone."""
    shards = nn.Parameter(place([torch.zeros(8)], ["S0"], mesh_of("all")))
    shards.grad = place([torch.ones(8)], ["S0"], mesh_of("all"))
    gradclip.clip_grad_norm_([shards], 1.0)
    if distributed.get_rank() == dying:
        os._exit(3)
    return gradclip.clip_grad_norm_([shards], 1.0).item()


class Spent(nn.Parameter):
    """A parameter whose gradient cannot be had."""

    error: type[BaseException]

    @property
    def grad(self) -> Tensor:  # type: ignore[override]
        raise self.error("spent")


def _spent(error: type[BaseException]) -> Spent:
    made = Spent(torch.zeros(2))
    made.error = error
    return made


WRONG: dict[str, Callable[[nn.Parameter], tuple[Any, dict[str, Any]]]] = {
    "a word": lambda p: ("weights", {}),
    "a stray word": lambda p: ([p, "bias"], {}),
    "a dict": lambda p: ({"w": p}, {}),
    "a bad pair": lambda p: ([("w", p), ("b", None)], {}),
    "max_norm": lambda p: ([p], {"max_norm": -1.0}),
    "norm_type": lambda p: ([p], {"norm_type": "two"}),
    "nonfinite": lambda p: ([p], {"nonfinite": "skip"}),
    "a broken iterator": lambda p: ((1 / 0 for _ in range(2)), {}),
    "no memory": lambda p: ([p, _spent(MemoryError)], {}),
    "Ctrl-C": lambda p: ([p, _spent(KeyboardInterrupt)], {}),
    "integers": lambda p: ([p, integers()], {}),
}
"""What is passed on one rank, which the others have to hear of."""


def integers() -> Tensor:
    class Holder(nn.Parameter):
        @property
        def grad(self) -> Tensor:  # type: ignore[override]
            return torch.ones(2, dtype=torch.int64)

    return Holder(torch.zeros(2))


def clip_shards(what: str) -> str:
    """Clip DTensors, on the second rank with something wrong; what is raised, and then the next norm."""
    mesh = mesh_of("all")
    p: Any = nn.Parameter(place([torch.zeros(8)], ["S0"], mesh))
    p.grad = place([torch.ones(8)], ["S0"], mesh)
    given, more = WRONG[what](p) if distributed.get_rank() == 1 else ([p], {})
    said = "none"
    try:
        gradclip.clip_grad_norm_(given, **{"max_norm": 1.0, **more})
    except BaseException as caught:  # noqa: BLE001 -- which one it is, the test says
        said = f"{type(caught).__name__}: {caught}"
    assert bool((local_of(p.grad) == 1.0).all())
    assert round(gradclip.clip_grad_norm_([p], 10.0).item() ** 2, 4) == 8.0
    return said


def clip_shards_with_a_loss(policy: Any, compares: int) -> str:
    """Clip DTensors by a clipper, on the second rank with a loss that is none."""
    mesh = mesh_of("all")
    p: Any = nn.Parameter(place([torch.zeros(8, 2)], ["S0"], mesh))
    p.grad = place([torch.ones(8, 2)], ["S0"], mesh)
    clipper = gradclip.GradClipper([("p", p)], policy, check_replicas_every=compares)
    loss: Any = "large" if distributed.get_rank() == 1 else 1.0
    said = said_by(lambda: clipper.clip(loss=loss).total_norm, []).error
    assert bool((local_of(p.grad) == 1.0).all())
    assert clipper.clip(loss=1.0).total_norm == 4.0
    return said


def clip_with_a_group(what: str) -> str:
    """Clip with a group of all ranks, on the second with something wrong; what is raised, and then the next norm."""
    world = distributed.group.WORLD
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    declare([p], Ownership(replicated=world))
    given, more = WRONG[what](p) if distributed.get_rank() == 1 else ([p], {})
    said = "none"
    try:
        gradclip.clip_grad_norm_(given, group=world, **{"max_norm": 1.0, **more})
    except BaseException as caught:  # noqa: BLE001 -- which one it is, the test says
        said = f"{type(caught).__name__}: {caught}"
    assert p.grad.tolist() == [3.0, 4.0]
    assert gradclip.clip_grad_norm_([p], 10.0, group=world).item() == 5.0
    return said


# What a review of several ranks found.


def _shards(values: Tensor) -> Any:
    mesh = mesh_of("all")
    p: Any = nn.Parameter(place([torch.zeros_like(values)], ["S0"], mesh))
    p.grad = place([values], ["S0"], mesh)
    return p


def clip_a_generator() -> str:
    """Clip what an iterator gives, whose gradient the second rank cannot write."""
    p = _shards(torch.ones(8))
    if distributed.get_rank() == 1:
        p.grad._local_tensor = torch.ones(1).expand(4)
    return said_by(lambda: gradclip.clip_grad_norm_(iter([p]), 1.0), []).error


def measure_what_is_declared() -> str:
    """The norm of gradients of declared parameters, of which the second rank passes one of integers."""
    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    declare([p], Ownership(disjoint=distributed.group.WORLD))
    gradients: list[Tensor] = [p.grad]
    if distributed.get_rank() == 1:
        gradients.append(torch.ones(2, dtype=torch.int64))
    said = said_by(lambda: gradclip.get_total_norm(gradients), []).error
    forget([p])
    return said


def copies_of_a_clipper() -> list[float]:
    """The norm of a gradient that is yet to be summed, by a clipper, by a copy, and by one that was pickled."""
    mesh = mesh_of("all")
    p: Any = nn.Parameter(place([torch.zeros(3)], ["R"], mesh))
    clipper = gradclip.GradClipper([("p", p)], gradclip.policies.FixedNorm(math.inf))
    found: list[float] = []
    for copied in (lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):  # noqa: S301 -- our own
        clipper = copied(clipper)
        own = clipper._selection.owners[0]
        own.grad = place([torch.ones(3)] * distributed.get_world_size(), ["P"], own.device_mesh)
        found.append(clipper.clip().total_norm)
    return found


def an_order_that_is_none() -> str:
    """The norms of DTensors, of an order that is a word on the second rank."""
    order: Any = "two" if distributed.get_rank() == 1 else 2.0
    return said_by(lambda: len(gradclip.get_norms([_shards(torch.ones(8))], order)), []).error


def records_of_what_is_sanitized() -> list[dict[str, tuple[int, int]] | None]:
    """What the records of two clips say of elements that are not finite, of which the second rank has one at first."""
    p, records = _shards(torch.ones(8)), Memory()
    clipper = gradclip.GradClipper([("p", p)], nonfinite="sanitize", sinks=[records])
    if distributed.get_rank() == 1:
        local_of(p.grad)[0] = math.nan
    clipper.clip()
    clipper.clip()
    return [record.nonfinite for record in records.records]


def nan_beside_shards(every: int) -> tuple[str, str]:
    """How a clip ends where only the first rank has NaN, in a plain parameter; and what a clipper that raises says."""
    plain = nn.Parameter(torch.zeros(2))
    plain.grad = torch.full((2,), math.nan if distributed.get_rank() == 0 else 1.0)
    named = [("plain", plain), ("shards", _shards(torch.ones(8)))]
    status = gradclip.GradClipper(named, norms_every=every).clip().status.value
    raising = gradclip.GradClipper(named, norms_every=every, nonfinite="raise")
    return status, said_by(lambda: raising.clip().total_norm, []).error


def step_with_a_complex_loss() -> str:
    """Step with a closure whose loss is complex on the second rank."""
    p = _shards(torch.ones(8))
    optimizer = torch.optim.SGD([p], lr=0.1)
    loss = torch.tensor(1.0 + 1.0j if distributed.get_rank() == 1 else 1.0)
    with gradclip.GradClipper([("p", p)]).attach(optimizer):
        return said_by(lambda: optimizer.step(lambda: loss), []).error
