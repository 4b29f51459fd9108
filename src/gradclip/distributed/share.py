"""What a parameter contributes to the norms of a model: what its DTensor says and what was declared, put together."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias, final

from gradclip.distributed.dtensor import Spec, dims_along, is_outside, is_shard
from gradclip.distributed.span import Group, Span, ranks_of, span_of

if TYPE_CHECKING:
    from gradclip.distributed.ownership import Ownership

Chain: TypeAlias = tuple[Span, ...]


@final
@dataclass(frozen=True)
class Share:
    """What a parameter contributes.

    Attributes:
        whole: The chain after which its own norm is known: that of its pieces.
        beyond: The chain from there to the total norm.
        chain: The chain after which its elements are part of the total norm, if nothing else is asked for.
        copies: How many ranks of the spans of `whole` hold each element.
        replicas: How many times these spans are there, each with a copy, in a group of the whole model.
        mesh: The mesh that its gradient may be a part of a sum over, as a span.
        counted: Whether it is part of the total norm.
        in_pieces: Whether it is a plain tensor that holds a piece.
        outside: Whether it is a DTensor of a mesh without this rank.
        apart: Whether other ranks are known to hold other parameters in its place.
        fixed: Whether something was declared about the ranks of its own mesh: its gradient is placed as it is then.
    """

    whole: Chain
    beyond: Chain
    chain: Chain
    copies: int
    replicas: int
    mesh: Span | None
    counted: bool
    in_pieces: bool
    outside: bool
    apart: bool
    fixed: bool


class Declared(NamedTuple):
    """A declared group, as what, and along which dimensions of the mesh of its DTensor it lies, if it does."""

    kind: str
    group: Group
    dims: frozenset[int]


def declared_groups(name: str, spec: Spec, ownership: "Ownership") -> list[Declared]:
    """Return the groups that were declared of a parameter, if they make sense together and with its DTensor.

    Any two of them, and each of them and the mesh, have but this rank in common; or else a group lies along dimensions
    of the mesh, all of which may be pieces, and those with copies may be copies or other parameters.

    Raises:
        ValueError: If two of them contradict each other.
    """
    given = [(kind, group) for kind in ("sharded", "disjoint", "replicated") for group in getattr(ownership, kind)]
    for (kind, group), (other_kind, other) in combinations(given, 2):
        if len(set(ranks_of(group)) & set(ranks_of(other))) > 1:
            _refuse(name, kind, group, f"{other_kind} {_listed(ranks_of(other))}")
    if spec is None or is_outside(spec.mesh):
        return [Declared(kind, group, frozenset()) for kind, group in given]
    return [Declared(kind, group, _dims_of(name, spec, kind, group)) for kind, group in given]


def _dims_of(name: str, spec: Spec, kind: str, group: Group) -> frozenset[int]:
    ranks, mesh = ranks_of(group), spec.mesh.mesh.flatten().tolist()
    if len(set(ranks) & set(mesh)) <= 1:
        return frozenset()
    dims = dims_along(spec.mesh, ranks)
    if dims is None or (kind != "sharded" and any(is_shard(spec.placements[dim]) for dim in dims)):
        _refuse(name, kind, group, f"a DTensor that is {spec.placements} on {_listed(mesh)}")
    return dims


def _refuse(name: str, kind: str, group: Group, other: str) -> NoReturn:
    msg = (
        f"`declare(ownership=...)` must say one thing of every two ranks, got {kind} {_listed(ranks_of(group))} beside "
        f"{other} at {name}. Groups of one parameter have but one rank in common, as the dimensions of a mesh do; and "
        "what a DTensor shards over its own mesh is neither a copy nor another parameter. Leave one of the two out."
    )
    raise ValueError(msg)


def _listed(ranks: Iterable[int]) -> str:
    return f"over ranks {', '.join(map(str, ranks))}"


def pieces_of(name: str, spec: Spec, ownership: "Ownership") -> int:
    """Return how many pieces of a parameter were declared, beyond those that its DTensor knows of."""
    found = [x for x in declared_groups(name, spec, ownership) if x.kind == "sharded"]
    return prod(
        prod(spec.mesh.size(dim) for dim in x.dims if not is_shard(spec.placements[dim]))
        if x.dims
        else len(ranks_of(x.group))
        for x in found
    )


def share_of(name: str, spec: Spec, ownership: "Ownership", group: Span | None) -> Share:
    """Return what a parameter contributes, where a `group` of the whole model may be given."""
    declared = declared_groups(name, spec, ownership)
    outside = spec is not None and is_outside(spec.mesh)
    mesh: Any = None if spec is None or outside else spec.mesh
    copied = [] if mesh is None else [dim for dim in range(mesh.ndim) if not is_shard(spec.placements[dim])]
    apart = frozenset[int]().union(*(x.dims for x in declared if x.kind == "disjoint"))
    in_pieces = frozenset[int]().union(*(x.dims for x in declared if x.kind == "sharded")) & set(copied)
    pieces = {span_of(x.group) for x in declared if x.kind == "sharded" and not x.dims}
    others = {span_of(x.group) for x in declared if x.kind == "disjoint"}
    if mesh is not None and apart:
        pieces |= {span_of(mesh.get_group(dim)) for dim in range(mesh.ndim) if dim not in apart}
    elif mesh is not None:
        pieces.add(span_of(mesh))
    whole, beyond = tuple(in_order(pieces)), tuple(in_order(others))
    chain = tuple(in_order(pieces | others))
    counted = ownership.counted and not outside
    replicas = 1
    if group is not None:
        replicas = size_of(span_of(x.group) for x in declared if x.kind == "replicated" and not x.dims)
        if counted and (known := size_of((*whole, *beyond)) * replicas) != len(group.ranks):
            msg = (
                f"`group=...` must consist of ranks of which it is known what they hold, got {len(group.ranks)} ranks, "
                f"and {name!r} speaks of {known}. Declare the rest with `gradclip.distributed.declare`: as "
                "`replicated` where they hold copies of it, as `disjoint` where they hold other parameters, as "
                "`sharded` where they hold pieces. For plain data parallelism, that is "
                "`declare(model, Ownership(replicated=group))`."
            )
            raise ValueError(msg)
        chain = beyond = (group,)
    return Share(
        whole,
        beyond,
        chain,
        copies=prod(mesh.size(dim) for dim in copied if dim not in apart | in_pieces),
        replicas=replicas,
        mesh=None if mesh is None or apart | in_pieces else span_of(mesh),
        counted=counted,
        in_pieces=bool(in_pieces) or any(x.kind == "sharded" and not x.dims for x in declared),
        outside=outside,
        apart=bool(others),
        fixed=bool(apart | in_pieces),
    )


def size_of(chain: Iterable[Span]) -> int:
    """Return how many ranks the spans of a chain have together."""
    return prod(len(span.ranks) for span in chain)


def in_order(spans: Iterable[Span]) -> list[Span]:
    """Sort spans in a way that is the same on all their ranks, whatever else these hold.

    Axis by axis, since all slices along an axis of a mesh are alike: what one slice knows then reaches all along the
    next axis. Sums over the axes of a mesh may be taken in any order, as long as it is the same everywhere.
    """
    return sorted(spans, key=lambda span: ([rank - span.ranks[0] for rank in span.ranks], span.ranks))
