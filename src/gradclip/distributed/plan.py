"""The plan of a reduction: which numbers of which parameters go through which collectives, in which order.

It comes from the parameters, not from the gradients that are there, so every rank makes the same one and none waits for
another. A *chain* is the list of spans that a number is reduced over, one after the other: the mesh of a DTensor,
groups that hold pieces, groups that hold other parameters. Numbers with the same way ahead travel together,
so there is one collective for each span, whatever the number of parameters.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple, final

import torch
import torch.distributed as dist
from torch import Tensor

from gradclip.distributed.dtensor import (
    LOCALIZED,
    can_be_partial,
    dtensor_type,
    local_rows,
    localized_spec,
    may_be_localized,
    spec_of,
)
from gradclip.distributed.flat import FLAT, declare_flat, is_flat, may_be_flat
from gradclip.distributed.ownership import Ownership, anything_declared, declared, declared_of_gradients
from gradclip.distributed.share import Chain, Share, in_order, pieces_of, share_of, size_of
from gradclip.distributed.span import Span
from gradclip.parameters import name_at
from gradclip.units import Units

WIDE = {torch.float64, torch.complex128}

REMEMBERED = 16
"""How many plans are kept."""


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
        mesh_order: The meshes, in order.
        plain: The places of plain tensors.
        any_outside: Whether any DTensor is on a mesh without this rank.
        partial: Whether a gradient may come that has yet to be summed over ranks.
        agreed: How those gradients are placed which have to be, as all ranks know, by the place of the parameter.
    """

    def __init__(self, owners: list[Tensor], names: list[str], tokens: list[Any], group: Span | None) -> None:
        self.world = dist.group.WORLD
        self.tokens = tokens
        self.group = group
        specs, given = tokens[: len(owners)], tokens[len(owners) :]
        self.shares = [
            share_of(name, spec, ownership or Ownership(), group)
            for name, spec, ownership in zip(names, specs, given, strict=True)
        ]
        self.scopes = scopes_of(self.shares, [share.copies for share in self.shares])
        own = () if group is None else (group,)
        self.order = in_order({*own, *(span for share in self.shares for span in share.chain)})
        self.whole_order = in_order({span for share in self.shares for span in share.whole})
        known = [replace(share, chain=share.beyond) for share in self.shares]
        self.known_scopes = scopes_of(known, [1 if group is None else size_of(share.whole) for share in self.shares])
        self.known_order = in_order({*own, *(span for share in known for span in share.chain)})
        self.alone = [i for i, share in enumerate(self.shares) if not share.whole]
        self.heads = {
            span: [i for i, x in enumerate(self.shares) if x.whole[:1] == (span,)] for span in self.whole_order
        }
        chains = dict.fromkeys(chain for share in self.shares for chain in (share.chain, share.beyond))
        self.tails = {span: _tails(span, chains) for span in self.order}
        self.members = {span: [i for i, x in enumerate(self.shares) if span in x.whole] for span in self.whole_order}
        self.meshes: dict[Span, list[int]] = {}
        for place, share in enumerate(self.shares):
            if share.mesh is not None:
                self.meshes.setdefault(share.mesh, []).append(place)
        self.mesh_order = in_order({*self.meshes})
        self.complete = not any(ownership and (ownership.disjoint or not ownership.counted) for ownership in given)
        self.wide = any(spec is not None and spec.tensor_meta.dtype in WIDE for spec in specs)
        self.plain = [place for place, spec in enumerate(specs) if spec is None]
        self.any_outside = any(share.outside for share in self.shares)
        self.partial = any(
            share.mesh is not None and can_be_partial(spec) for spec, share in zip(specs, self.shares, strict=True)
        )
        self.agreed: dict[int, Any] = {}
        self.specs = specs
        self._rows: dict[tuple[int, Units], Tensor | slice] = {}

    def rows(self, place: int, units: Units) -> Tensor | slice:
        """Return which units of a parameter this rank holds."""
        if (place, units) not in self._rows:
            spec = self.specs[place]
            self._rows[place, units] = slice(None) if spec is None else local_rows(spec, units)
        return self._rows[place, units]

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


def numel_of(name: str, tensor: Tensor) -> int:
    """Return the number of elements of a parameter as a whole."""
    spec, ownership = spec_of(tensor), ownership_of(tensor)
    numel = tensor.numel() if spec is None else spec.shape.numel()
    if ownership is None:
        return numel
    return ownership.numel or numel * pieces_of(name, spec, ownership)


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a parameter as a whole, as far as it is known."""
    spec = localized_spec(tensor) if may_be_localized() else None
    return tuple(tensor.shape if spec is None else spec.shape)


def marks() -> tuple[str, ...] | None:
    """Return the attributes of plain tensors that other ranks hold more of, where what sets them is imported."""
    if not may_be_flat() and not may_be_localized():
        return None
    return FLAT, LOCALIZED


def tokens_of(owners: list[Tensor], *, are_gradients: bool = False) -> list[Any] | None:
    """Return all that a plan depends on, compared by identity for the most part; None where no tensor says anything."""
    kind = dtensor_type()
    specs = [None if kind is None or not isinstance(x, kind) else x._spec for x in owners]
    if may_be_localized():
        specs = [spec or localized_spec(x) for spec, x in zip(specs, owners, strict=True)]
    given: list[Ownership | None]
    if are_gradients and anything_declared():
        known = declared_of_gradients()
        given = [known.get(id(x)) for x in owners]
    elif anything_declared() or (may_be_flat() and any(spec is None for spec in specs)):
        given = [ownership_of(x) for x in owners]
    else:
        given = [None] * len(owners)
    tokens = specs + given
    return None if all(token is None for token in tokens) else tokens


_recent: deque[Plan] = deque(maxlen=REMEMBERED)


def plan_of(
    owners: list[Tensor],
    names: list[str] | None,
    tokens: list[Any],
    group: Span | None,
    argument: str = "parameters",
) -> Plan:
    """Return the plan of parameters: that of the last call, unless a mesh, a placement or a declaration is another."""
    world = dist.group.WORLD  # meshes of another one may look the same
    for plan in _recent:
        if plan.world is world and plan.group is group and plan.tokens == tokens:
            return plan
    plan = Plan(owners, [name_at(names, place, argument) for place in range(len(owners))], tokens, group)
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


def _tails(span: Span, chains: Iterable[Chain]) -> list[Chain]:
    tails = dict.fromkeys(chain[chain.index(span) + 1 :] for chain in chains if span in chain)
    return list(tails) or [()]
