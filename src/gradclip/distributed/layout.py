"""Who holds what: which numbers of which parameters go through which collectives, in which order.

It comes from the parameters, not from the gradients that are there, so every rank makes the same one and none waits for
another. A *chain* is the list of spans that a number is reduced over, one after the other: the mesh of a DTensor,
groups that hold pieces, groups that hold other parameters. Numbers with the same way ahead travel together,
so there is one collective for each span, whatever the number of parameters.
"""

import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import torch.distributed as dist
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from gradclip.distributed.dtensor import (
    can_be_unsummed,
    dtensor_type,
    is_outside,
    local_rows,
    localized_spec,
    may_be_localized,
    spec_of,
)
from gradclip.distributed.fsdp1 import gathered, is_flat, may_be_flat, ownership_of_flat
from gradclip.distributed.ownership import DECLARED, Ownership, declared, declared_of_gradients, is_any_declared
from gradclip.distributed.share import Chain, Share, in_order, pieces_of, share_of, size_of
from gradclip.distributed.span import Span
from gradclip.distributed.torch_private import FLAT, FSDP1, LOCALIZED, LOCALIZER, spec_of_dtensor
from gradclip.numbers import WIDE
from gradclip.parameters import name_at
from gradclip.units import Units

REMEMBERED = 16
"""How many layouts are kept."""


class Scope(NamedTuple):
    """Parameters whose elements are measured together."""

    chain: Chain
    copies: int
    places: list[int]


@final
@dataclass(frozen=True, eq=False)
class RankLayout:
    """Who holds what of some parameters, and so how their norms are reduced.

    Attributes:
        specs: How each parameter is sharded; None for a plain tensor.
        group: The ranks that hold the whole model together, where one collective is to do.
        shares: What each parameter contributes.
        scopes: The parameters that are measured together for the total.
        complete: Whether this rank knows of every parameter, so that the norms of all make the total.
        wide: Whether any DTensor has elements of float64.
        known_scopes: The parameters whose norms together go the same way to the total, once these are known.
        known_order: The spans that are on it.
        alone: The places of the parameters that need none.
        heads: The places of those that meet a span first.
        tails: The spans of the collectives for the total, in their order, and for each the ways that are ahead of
            numbers once it is done, one number for each way.
        members: The spans of the collectives for the norms of single parameters, in their order, and the places of the
            parameters whose own norm each reduces.
        meshes: The meshes, in order, and the places of the parameters on each.
        plain: The places of plain tensors.
        any_outside: Whether any DTensor is on a mesh without this rank.
        unsummed: Whether a gradient may come that has yet to be summed over ranks.
    """

    specs: list[Any]
    group: Span | None
    shares: list[Share]
    scopes: list[Scope]
    complete: bool
    wide: bool
    known_scopes: list[Scope]
    known_order: list[Span]
    alone: list[int]
    heads: Mapping[Span, list[int]]
    tails: Mapping[Span, list[Chain]]
    members: Mapping[Span, list[int]]
    meshes: Mapping[Span, list[int]]
    plain: list[int]
    any_outside: bool
    unsummed: bool

    def rows(self, place: int, units: Units) -> Tensor | slice:
        """Return which units of a parameter this rank holds."""
        spec = self.specs[place]
        return slice(None) if spec is None else local_rows(spec, units)

    def is_empty(self, place: int, owner: Tensor) -> bool:
        """Whether a parameter is known to have no element on any rank."""
        return owner.numel() == 0 and not self.shares[place].in_pieces

    def copies(self, places: list[int]) -> list[int]:
        """Return how many ranks hold each element of parameters."""
        return [self.shares[place].copies for place in places]


def made(names: list[str], specs: list[Any], ownerships: list[Ownership | None], group: Span | None) -> RankLayout:
    """Make the layout of parameters from what their DTensors say and what was declared."""
    shares = [
        share_of(name, spec, ownership or Ownership(), group)
        for name, spec, ownership in zip(names, specs, ownerships, strict=True)
    ]
    own = () if group is None else (group,)
    whole_order = in_order({span for share in shares for span in share.whole})
    known = [replace(share, chain=share.beyond) for share in shares]
    chains = dict.fromkeys(chain for share in shares for chain in (share.chain, share.beyond))
    order = in_order({*own, *(span for chain in chains for span in chain)})
    meshes = in_order({share.mesh for share in shares if share.mesh is not None})
    return RankLayout(
        specs=specs,
        group=group,
        shares=shares,
        scopes=scopes_of(shares, [share.copies for share in shares]),
        complete=not any(ownership and (ownership.disjoint or not ownership.counted) for ownership in ownerships),
        wide=any(spec is not None and spec.tensor_meta.dtype in WIDE for spec in specs),
        known_scopes=scopes_of(known, [1 if group is None else size_of(share.whole) for share in shares]),
        known_order=in_order({*own, *(span for share in known for span in share.chain)}),
        alone=[i for i, share in enumerate(shares) if not share.whole],
        heads={span: [i for i, x in enumerate(shares) if x.whole[:1] == (span,)] for span in whole_order},
        tails={span: _tails(span, chains) for span in order},
        members={span: [i for i, x in enumerate(shares) if span in x.whole] for span in whole_order},
        meshes={mesh: [i for i, x in enumerate(shares) if x.mesh is mesh] for mesh in meshes},
        plain=[place for place, spec in enumerate(specs) if spec is None],
        any_outside=any(share.outside for share in shares),
        unsummed=any(
            share.mesh is not None and can_be_unsummed(spec) for spec, share in zip(specs, shares, strict=True)
        ),
    )


def ownership_of(tensor: Tensor, whole: frozenset[int] = frozenset()) -> Ownership | None:
    """Return what is known about who holds a tensor, beyond what it says itself; `whole` are those gathered now."""
    return ownership_of_flat(tensor, whole) if may_be_flat() and is_flat(tensor) else declared(tensor)


def may_have_gradient(tensor: Tensor) -> bool:
    """Whether a parameter has a gradient, or belongs to other ranks too, on which it may have one.

    What depends on it, such as whether to come to a collective, is then the same on all of these.
    """
    if tensor.grad is not None or not tensor.requires_grad:
        return tensor.grad is not None
    if (spec := spec_of(tensor)) is not None:
        return not is_outside(spec.mesh)
    return (may_be_flat() and is_flat(tensor)) or declared(tensor) is not None


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


MARKS = FLAT, LOCALIZED
"""The attributes of plain tensors that other ranks hold more of."""


def sharded_and_marks() -> tuple[type | None, tuple[str, ...] | None]:
    """Return the class of sharded tensors, and what marks plain ones, as far as what makes them is imported."""
    module = sys.modules.get("torch.distributed.tensor")
    may_be_marked = FSDP1 in sys.modules or LOCALIZER in sys.modules
    return None if module is None else module.DTensor, MARKS if may_be_marked else None


def layout_of(
    owners: list[Tensor],
    names: list[str] | None,
    specs: list[Any] | None,
    odd: Sequence[int],
    group: Span | None,
    *,
    are_gradients: bool = False,
) -> RankLayout | None:
    """Return the layout of parameters; None where this rank holds everything.

    That of an earlier call, unless a mesh, a placement or a declaration is another.

    Args:
        owners: The parameters, or their gradients.
        names: Their names.
        specs: How each is sharded, as far as it is known; None for a plain tensor, or for all where there is no other.
        odd: The places of those of which nothing is known: DTensors, former ones, marked pieces perhaps.
        group: The ranks that hold the whole model together, where one collective is to do.
        are_gradients: Whether they are the gradients.
    """
    if odd and (kind := dtensor_type()) is not None:
        specs, may_be_former = list(specs or [None] * len(owners)), may_be_localized()
        for place in odd:
            x = owners[place]
            specs[place] = spec_of_dtensor(x) if isinstance(x, kind) else localized_spec(x) if may_be_former else None
    specs = None if specs is None or all(spec is None for spec in specs) else specs
    if is_dynamo_compiling():
        known = DECLARED and (are_gradients or is_any_declared(owners))
        if group is not None or known or specs is not None or (may_be_flat() and any(map(is_flat, owners))):
            raise RuntimeError(  # the plan is made by Python code that cannot be traced
                "Gradients that several ranks hold must be clipped outside of `torch.compile`. Compile the rest."
            )
        return None
    ownerships = _ownerships_of(owners, odd, are_gradients=are_gradients)
    if specs is None and ownerships is None and group is None:
        return None
    nothing: list[Any] = [None] * len(owners)
    world = dist.group.WORLD  # meshes of another one may look the same
    key = world, group, specs or nothing, ownerships or nothing
    for known, layout in _recent:
        if known[0] is world and known[1] is group and known[2:] == key[2:]:
            return layout
    argument = "tensors" if are_gradients else "parameters"
    found = made([name_at(names, i, argument) for i in range(len(owners))], *key[2:], group)
    _recent.appendleft((key, found))
    return found


def _ownerships_of(owners: list[Tensor], odd: Sequence[int], *, are_gradients: bool) -> list[Ownership | None] | None:
    """Return what is known of each tensor beyond what it says itself; None where nothing is."""
    whole = gathered() if may_be_flat() else frozenset[int]()
    if DECLARED:
        if are_gradients:
            known = declared_of_gradients()
            found: list[Ownership | None] = [known.get(id(x)) for x in owners]
        else:
            found = [ownership_of(x, whole) for x in owners]
    elif may_be_flat() and odd and not are_gradients:
        found = list[Ownership | None]([None] * len(owners))
        for place in odd:
            found[place] = ownership_of(owners[place], whole)
    else:
        return None
    return None if all(x is None for x in found) else found


_recent: deque[tuple[tuple[Any, Span | None, list[Any], list[Any]], RankLayout]] = deque(maxlen=REMEMBERED)


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
