"""The plan of a reduction: which numbers of which parameters go through which collectives, in which order.

It comes from the parameters, not from the gradients that are there, so every rank makes the same one and none waits for
another. A *chain* is the list of spans that a number is reduced over, one after the other: first the mesh of a DTensor,
then groups that hold pieces, then groups that hold other parameters. Numbers with the same way ahead travel together,
so there is one collective for each span, whatever the number of parameters.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple, TypeAlias, final

import torch
import torch.distributed as dist
from torch import Tensor

from gradclip.distributed.dtensor import can_be_partial, copies_of, dtensor_type, is_outside, local_rows
from gradclip.distributed.flat import declare_flat, is_flat, may_be_flat
from gradclip.distributed.ownership import Ownership, anything_declared, declared
from gradclip.distributed.span import Span, span_of
from gradclip.validation import refuse_open

Chain: TypeAlias = tuple[Span, ...]

MESH, SHARDED, DISJOINT = range(3)
"""In which order spans come in a chain."""

WIDE = {torch.float64, torch.complex128}

REMEMBERED = 16
"""How many plans are kept."""


@final
@dataclass(frozen=True)
class Share:
    """What a parameter contributes.

    Attributes:
        whole: The chain after which its own norm is known: that of its pieces.
        chain: The chain after which it is part of the total norm.
        copies: How many ranks of the spans of `whole` hold each element.
        replicas: How many times these spans are there, each with a copy, in a group of the whole model.
        mesh: The mesh of a DTensor, as a span.
        counted: Whether it is part of the total norm.
        in_pieces: Whether it is a plain tensor that holds a piece.
    """

    whole: Chain
    chain: Chain
    copies: int
    replicas: int
    mesh: Span | None
    counted: bool
    in_pieces: bool


class Scope(NamedTuple):
    """Parameters whose elements are measured together."""

    chain: Chain
    copies: int
    places: list[int]


@final
class Plan:
    """How the norms of some parameters are reduced.

    Attributes:
        shares: What each parameter contributes.
        scopes: The parameters that are measured together for the total.
        complete: Whether this rank knows of every parameter, so that the norms of all make the total.
        wide: Whether any DTensor has elements of float64.
        order: The spans of the collectives for the total, in their order.
        known_scopes: The parameters whose norms together go the same way to the total, once these are known.
        known_order: The spans that are on it.
        whole_order: The spans of the collectives for the norms of single parameters.
        alone: The places of the parameters that need none.
        heads: The places of those that meet a span first.
        tails: The ways that are ahead of numbers once a span is done, one number for each.
        members: The places of the parameters whose own norm a span reduces.
        meshes: The places of the parameters on each mesh.
        plain: The places of plain tensors.
        partial: Whether a gradient may come that has yet to be summed over ranks.
        agreed: How those gradients are placed which have to be, as all ranks know, by the place of the parameter.
    """

    def __init__(self, owners: list[Tensor], names: list[str], tokens: list[Any], group: Span | None) -> None:
        self.world = dist.group.WORLD
        self.tokens = tokens
        self.group = group
        specs, given = tokens[: len(owners)], tokens[len(owners) :]
        ranked: dict[Span, tuple[int, int]] = {}
        self.shares = [
            _share(name, spec, ownership or Ownership(), group, ranked)
            for name, spec, ownership in zip(names, specs, given, strict=True)
        ]
        self.scopes = scopes_of(self.shares, [share.copies for share in self.shares])
        self.order = _in_order({span for share in self.shares for span in share.chain} | ({group} - {None}), ranked)
        self.whole_order = _in_order({span for share in self.shares for span in share.whole}, ranked)
        disjoint = [() if group is None else (group,)] * len(owners)
        if group is None:
            disjoint = [share.chain[len(share.whole) :] for share in self.shares]
        known = [replace(share, chain=chain) for share, chain in zip(self.shares, disjoint, strict=True)]
        self.known_scopes = scopes_of(known, [1 if group is None else size_of(share.whole) for share in self.shares])
        ahead = {span for chain in disjoint for span in chain} | ({group} - {None})
        self.known_order = [span for span in self.order if span in ahead]
        self.alone = [i for i, share in enumerate(self.shares) if not share.whole]
        self.heads = {
            span: [i for i, x in enumerate(self.shares) if x.whole[:1] == (span,)] for span in self.whole_order
        }
        chains = dict.fromkeys(share.chain for share in self.shares)
        self.tails = {span: _tails(span, chains) for span in self.order}
        self.members = {span: [i for i, x in enumerate(self.shares) if span in x.whole] for span in self.whole_order}
        self.meshes: dict[Span, list[int]] = {}
        for place, share in enumerate(self.shares):
            if share.mesh is not None:
                self.meshes.setdefault(share.mesh, []).append(place)
        self.complete = not any(ownership and (ownership.disjoint or not ownership.counted) for ownership in given)
        self.wide = any(spec is not None and spec.tensor_meta.dtype in WIDE for spec in specs)
        self.plain = [place for place, spec in enumerate(specs) if spec is None]
        self.partial = any(spec is not None and can_be_partial(spec) for spec in specs)
        self.agreed: dict[int, Any] = {}
        self.specs = specs
        self._rows: dict[int, Tensor | slice] = {}

    def rows(self, place: int) -> Tensor | slice:
        """Return which units of a parameter this rank holds."""
        if place not in self._rows:
            spec = self.specs[place]
            self._rows[place] = slice(None) if spec is None else local_rows(spec)
        return self._rows[place]

    def is_empty(self, place: int, owner: Tensor) -> bool:
        """Whether a parameter is known to have no element on any rank."""
        return owner.numel() == 0 and not self.shares[place].in_pieces

    def copies(self, places: list[int], device: torch.device) -> Tensor:
        """Return how many ranks hold each element of parameters: float64."""
        counts = [float(self.shares[place].copies) for place in places]
        return torch.tensor(counts, dtype=torch.float64, device=device)


def ownership_of(tensor: Tensor) -> Ownership | None:
    """Return what is known about who holds a tensor, beyond what it says itself."""
    return declared(tensor) or (declare_flat(tensor) if may_be_flat() and is_flat(tensor) else None)


def numel_of(tensor: Tensor) -> int:
    """Return the number of elements of a parameter as a whole."""
    if (ownership := ownership_of(tensor)) is None:
        return tensor.numel()
    return ownership.numel or tensor.numel() * size_of(ownership.spans("sharded"))


def has_plan() -> bool:
    """Whether there can be plain tensors that other ranks hold more of: those say nothing when they are read."""
    return anything_declared() or may_be_flat()


def tokens_of(owners: list[Tensor]) -> list[Any] | None:
    """Return all that a plan depends on, compared by identity for the most part; None where no tensor says anything."""
    kind = dtensor_type()
    specs = [None if kind is None or not isinstance(x, kind) else x._spec for x in owners]
    if anything_declared():
        given = [ownership_of(x) for x in owners]
    elif may_be_flat() and any(spec is None for spec in specs):
        given = [None if spec else ownership_of(x) for spec, x in zip(specs, owners, strict=True)]
    else:
        given = [None] * len(owners)
    tokens = specs + given
    return None if all(token is None for token in tokens) else tokens


_recent: deque[Plan] = deque(maxlen=REMEMBERED)


def plan_of(owners: list[Tensor], names: list[str] | None, tokens: list[Any], group: Span | None) -> Plan:
    """Return the plan of parameters: that of the last call, unless a mesh, a placement or a declaration is another."""
    world = dist.group.WORLD  # meshes of another one may look the same
    for plan in _recent:
        if plan.world is world and plan.group is group and plan.tokens == tokens:
            return plan
    plan = Plan(owners, names or [f"parameters[{i}]" for i in range(len(owners))], tokens, group)
    _recent.appendleft(plan)
    return plan


def scopes_of(shares: list[Share], copies: list[int]) -> list[Scope]:
    """Return the parameters that are measured together, where so many ranks hold each element before any reduction."""
    found: dict[tuple[Chain, int], Scope] = {}
    for place, (share, count) in enumerate(zip(shares, copies, strict=True)):
        if share.counted:
            key = share.chain, count * share.replicas
            found.setdefault(key, Scope(*key, [])).places.append(place)
    return list(found.values())


def _share(
    name: str, spec: Any, ownership: Ownership, group: Span | None, ranked: dict[Span, tuple[int, int]]
) -> Share:
    mesh = None if spec is None or is_outside(spec.mesh) else span_of(spec.mesh)
    kinds = [() if mesh is None else (mesh,), ownership.spans("sharded"), ownership.spans("disjoint")]
    for kind, spans in enumerate(kinds):
        for index, span in enumerate(spans):
            ranked[span] = max(ranked.get(span, (kind, index)), (kind, index))
    whole = (*kinds[MESH], *kinds[SHARDED])
    copies = 1 if mesh is None else copies_of(spec)
    counted = ownership.counted and (spec is None or mesh is not None)
    chain = (*whole, *kinds[DISJOINT])
    replicas = 1
    if group is not None:
        replicas = size_of(ownership.spans("replicated"))
        if counted and (known := size_of(chain) * replicas) != len(group.ranks):
            refuse_open(name, known, len(group.ranks))
        chain = (group,)
    return Share(whole, chain, copies, replicas, mesh, counted, in_pieces=bool(kinds[SHARDED]))


def size_of(chain: Chain) -> int:
    """Return how many ranks the spans of a chain have together."""
    return prod(len(span.ranks) for span in chain)


def _in_order(spans: set[Any], ranked: dict[Span, tuple[int, int]]) -> list[Span]:
    """Sort spans in a way that is the same on all their ranks, whatever else these hold.

    First by their place in a chain; then axis by axis, since all slices along an axis of a mesh are alike, so that what
    one slice knows reaches all along the next axis; then by their ranks.
    """

    def key(span: Span) -> tuple[object, ...]:
        return ranked.get(span, (DISJOINT, 0)), [rank - span.ranks[0] for rank in span.ranks], span.ranks

    return sorted(spans, key=key)


def _tails(span: Span, chains: Iterable[Chain]) -> list[Chain]:
    tails = dict.fromkeys(chain[chain.index(span) + 1 :] for chain in chains if span in chain)
    return list(tails) or [()]
