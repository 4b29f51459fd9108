"""What the ranks do in tests of layouts: build them, call the library, and return plain data for the tests to judge."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import gradclip
from gradclip.distributed import Ownership, declare
from layouts import Part, TorchLacksError, mesh_of, number_of, place, split, summands


class Job(NamedTuple):
    """Gradients of one kind, and what to clip them to: pairs of p and max_norm."""

    dtype: torch.dtype
    cases: list[tuple[float, float]]
    zeros: bool = False
    scale: float = 1.0


class Held(NamedTuple):
    """What a rank holds of a part: which of its summands, which elements of that, and the gathered gradient."""

    number: int
    indices: list[int]
    gathered: Tensor


class Seen(NamedTuple):
    """What came of one clip on a rank: the type and value of the norm, and what is left in the gradients."""

    kind: str
    norm: Tensor
    local: list[Tensor]


class Model(NamedTuple):
    """The parameters of a layout on this rank, and their gradients, which stay as they are."""

    parameters: list[nn.Parameter]
    gradients: list[Tensor]

    def with_gradients(self) -> list[nn.Parameter]:
        """The parameters, each with a fresh copy of its gradient."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = copy_of(gradient)
        return self.parameters

    def left(self) -> list[Tensor]:
        """Copies of what this rank holds of each gradient."""
        return [local_of(parameter.grad).clone() for parameter in self.parameters]


def local_of(x: Any) -> Tensor:
    """What this rank holds of a DTensor, or all of a plain tensor."""
    return x.to_local() if hasattr(x, "to_local") else x


def copy_of(x: Any) -> Tensor:
    """A copy in the same placements; `clone` would sum what is partial."""
    if not hasattr(x, "to_local"):
        return x.clone()
    local, shape, stride = x.to_local().clone(), x.shape, x.stride()
    return type(x).from_local(local, x.device_mesh, x.placements, run_check=False, shape=shape, stride=stride)


def build(parts: list[Part], dtype: torch.dtype, *, zeros: bool = False, scale: float = 1.0) -> Model:
    """Build a model of parts."""
    ranks = torch.distributed.get_world_size()
    parameters: list[nn.Parameter] = []
    gradients: list[Tensor] = []
    for seed, part in enumerate(parts):
        wholes = summands(part, seed, ranks, dtype, zeros=zeros, scale=scale)
        gradient, values = wholes[0], torch.zeros_like(wholes[0])
        if part.placed:
            mesh = mesh_of(part.axes)
            gradient, values = place(wholes, part.words, mesh), place([values], part.placed.split(), mesh)
        parameters.append(nn.Parameter(values))
        gradients.append(gradient)
    return Model(parameters, gradients)


def holdings(parts: list[Part], gradients: list[Tensor]) -> list[Held]:
    """What this rank holds of each part; all ranks have to ask."""
    return [_held(part, gradient) for part, gradient in zip(parts, gradients, strict=True)]


def _held(part: Part, gradient: Any) -> Held:
    numbers = torch.arange(math.prod(part.shape)).view(part.shape)
    if not part.placed:
        return Held(0, numbers.flatten().tolist(), gradient)
    mesh = mesh_of(part.axes)
    words = ["R" if word[0] == "P" else word for word in part.words]
    indices = local_of(place([numbers], words, mesh)).flatten().tolist()
    return Held(number_of(part.words, mesh), indices, _gathered(gradient))


def _gathered(gradient: Any) -> Tensor:
    try:
        return gradient.full_tensor()
    except (RuntimeError, AssertionError) as error:
        if torch.__version__ < (2, 7):  # means, tensors without elements, and strided shards of uneven sizes
            raise TorchLacksError(f"this torch cannot gather {tuple(gradient.placements)}: {error}") from None
        raise


def clip(parts: list[Part], jobs: list[Job]) -> tuple[list[Held], list[list[Seen]]]:
    """Clip the gradients of a layout to each of some norms, all over again for each."""
    held: list[Held] = []
    seen: list[list[Seen]] = []
    for job in jobs:
        model = build(parts, job.dtype, zeros=job.zeros, scale=job.scale)
        held = held or holdings(parts, model.gradients)
        seen.append([_clipped(model, *case) for case in job.cases])
    return held, seen


def _clipped(model: Model, p: float, max_norm: float) -> Seen:
    norm = gradclip.clip_grad_norm_(model.with_gradients(), max_norm, p)
    return Seen(type(norm).__name__, norm, model.left())


class Others(NamedTuple):
    """What the other functions make of a layout: norms and coefficients by p, and what they leave of its gradients."""

    totals: dict[float, Tensor]
    each: dict[float, dict[str, Tensor]]
    by_clipper: dict[float, tuple[float, float]]
    scaled: list[Tensor]
    limited: list[Tensor]
    refused: str


def other_functions(
    parts: list[Part], orders: list[float], max_norm: float, total_norm: float, clip_value: float
) -> Others:
    """Call the other functions on float32 gradients of a layout."""
    model = build(parts, torch.float32)
    totals = {p: gradclip.get_total_norm(model.gradients, p) for p in orders}
    named = [(f"part {i}", parameter) for i, parameter in enumerate(model.with_gradients())]
    each = {p: gradclip.get_norms(named, p) for p in orders}
    by_clipper = {p: _clip_with(named, p, max_norm) for p in orders if p > 0.0}
    model.with_gradients()
    gradclip.clip_grads_with_norm_(model.parameters, max_norm, total_norm)
    scaled, refused = model.left(), ""
    try:
        gradclip.clip_grad_value_(model.with_gradients(), clip_value)
    except TypeError as error:
        refused = str(error)
    return Others(totals, each, by_clipper, scaled, model.left(), refused)


def _clip_with(named: list[tuple[str, nn.Parameter]], p: float, max_norm: float) -> tuple[float, float]:
    result = gradclip.GradClipper(named, gradclip.policies.FixedNorm(max_norm, norm_type=p)).clip()
    return result.total_norm, result.coefficient


Missing = list[list[list[bool]]]
"""For each trial, rank and part: whether it has a gradient."""


class Trial(NamedTuple):
    """What a rank makes of gradients of which some are missing; the last two are of every few trials, and p > 0."""

    total: Tensor
    each: dict[str, Tensor] | None
    by_clipper: tuple[float, str] | None


def clip_with_missing(parts: list[Part], trials: Missing, p: float, *, more_every: int = 1) -> list[Trial]:
    """Clip while some gradients are missing; parameters that have none in any trial are frozen."""
    model = build(parts, torch.float32)
    for number, parameter in enumerate(model.parameters):
        parameter.requires_grad_(any(there[number] for of_ranks in trials for there in of_ranks))
    named = [(f"part {i}", parameter) for i, parameter in enumerate(model.parameters)]
    policy = gradclip.policies.FixedNorm(1e9, norm_type=p) if p > 0.0 else None
    clipper = gradclip.GradClipper(named, policy, nonfinite="raise")
    found: list[Trial] = []
    for number, of_ranks in enumerate(trials):
        for parameter, gradient, there in zip(*model, of_ranks[torch.distributed.get_rank()], strict=True):
            parameter.grad = gradient if there else None
        trial = Trial(gradclip.clip_grad_norm_(model.parameters, math.inf, p), None, None)
        if number % more_every == 0:
            trial = trial._replace(each=gradclip.get_norms(named, p))
            if policy is not None:
                result = clipper.clip()
                trial = trial._replace(by_clipper=(result.total_norm, result.status.value))
        found.append(trial)
    return found


# Rarer gradients: eight ones, or on their way to it.


def still_on_their_way() -> tuple[str, float, list[float]]:
    """Clip a gradient that torch is still summing and sharding; returns its local type, the norm, what is left."""
    mesh = mesh_of("all")
    weight: Any = nn.Parameter(place([torch.zeros(8)], ["S0"], mesh))
    summed: Any = place([torch.ones(8)] * torch.distributed.get_world_size(), ["P"], mesh)
    weight.grad = summed.redistribute(placements=weight.placements, async_op=True)
    kind = type(weight.grad.to_local()).__name__
    norm = gradclip.clip_grad_norm_([weight], 1.0).item()
    return kind, norm, weight.grad.full_tensor().tolist()


def complex_numbers(words: str) -> tuple[float, list[complex]]:
    """Clip complex gradients of modulus 5; returns the norm and what is left here."""
    mesh, ranks = mesh_of("all"), torch.distributed.get_world_size()
    whole = torch.full((8,), 3.0 + 4.0j, dtype=torch.complex64)
    weight = nn.Parameter(place([torch.zeros_like(whole)], ["R" if words == "P" else words], mesh))
    weight.grad = place([whole] * ranks, [words], mesh)
    norm = gradclip.clip_grad_norm_([weight], 1.0).item()
    return norm, local_of(weight.grad).tolist()


def on_other_ranks() -> tuple[float, float, float]:
    """Clip two parameters of which each rank holds shards of one, and of the other nothing.

    Returns the norm of what lies on its mesh, that of both once they are declared, and that with a group.
    """
    parameters: list[nn.Parameter] = []
    for ranks in ([0, 1], [2, 3]):
        mesh = torch.distributed.DeviceMesh("cpu", ranks)
        parameters.append(nn.Parameter(distribute(torch.zeros(5, 2), mesh)))
        parameters[-1].grad = distribute(torch.ones(5, 2), mesh)
    alone = gradclip.clip_grad_norm_(parameters, 100.0).item()
    declare(parameters, Ownership(disjoint=mesh_of("dp")))
    together = gradclip.clip_grad_norm_(parameters, 100.0).item()
    return alone, together, gradclip.clip_grad_norm_(parameters, 100.0, group=torch.distributed.group.WORLD).item()


def without_numbers(*, first: bool) -> tuple[float, float]:
    """Clip a parameter beside one that is on the meta device and has no gradient; return the norms."""
    from torch.distributed.tensor import DTensor, Shard

    mesh = mesh_of("all")
    own, other = (
        nn.Parameter(DTensor.from_local(torch.zeros(2, device=device), mesh, [Shard(0)])) for device in ("cpu", "meta")
    )
    parameters = [other, own] if first else [own, other]
    own.grad = DTensor.from_local(torch.ones(2), mesh, [Shard(0)])
    norm = gradclip.clip_grad_norm_(parameters, 10.0)
    return norm.item(), gradclip.GradClipper(parameters, norms_every=1).clip().total_norm


def distribute(x: Tensor, mesh: Any) -> Tensor:
    """Shard a tensor over a mesh that this rank may be none of."""
    from torch.distributed.tensor import Shard

    return split(x, mesh, [Shard(0)])
