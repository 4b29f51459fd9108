"""A set of ranks that reduce numbers together, in one collective."""

import math
from collections.abc import Collection, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, final

import torch
import torch.distributed as dist
from torch import Tensor

from gradclip.distributed.torch_private import device_types_of
from gradclip.numbers import CPU

if TYPE_CHECKING:
    from torch.distributed import DeviceMesh, ProcessGroup

    Group: TypeAlias = ProcessGroup | DeviceMesh
else:
    Group = Any  # there are builds of torch without these
"""What a user names a set of ranks by: a process group, or a mesh with all its dimensions."""


@final
class Span:
    """Some ranks, this one among them, and the process group that has just these; or one for each axis of their mesh.

    Attributes:
        groups: The process groups.
        ranks: Their global ranks.
    """

    __slots__ = ("_agreed", "_devices", "groups", "ranks")

    def __init__(self, groups: "Sequence[ProcessGroup]", ranks: tuple[int, ...]) -> None:
        self.groups = groups
        self.ranks = ranks
        self._devices = {name: torch.device(name) for name in device_types_of(groups[0])}
        backends = dict(pair.split(":") for pair in dist.get_backend_config(groups[0]).split(","))
        self._agreed = CPU.type not in backends or len(set(backends.values())) == 1

    def serves(self, device: torch.device) -> torch.device:
        """Return where numbers of a device have to be for a collective: there, if this group serves it.

        Where it has a backend for the CPU and others for devices, one collective is of one of them: the ranks, all of
        which call this before it, agree at the first call on that of a device if any of them works there.
        """
        if not self._agreed:
            used = min({*self.gather(device.type)} & {*self._devices} - {CPU.type}, default=CPU.type)
            self._devices, self._agreed = {used: self._devices[used]}, True
        return device if device.type in self._devices else min(self._devices.items())[1]

    def reduce_(self, vector: Tensor, *, maximum: bool) -> None:
        """Put the sums, or the maxima, of a vector over all ranks in its place; it is where `serves` says."""
        if len(self.ranks) > 1:
            for group in self.groups:
                dist.all_reduce(vector, dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM, group=group)

    def gather(self, thing: object) -> list[Any]:
        """Return what each rank gives, in the order of `ranks`: slow, for agreements and for messages."""
        found = {dist.get_rank(): thing}
        for group in self.groups:
            known: list[Any] = [None] * dist.get_world_size(group)
            dist.all_gather_object(known, found, group=group)
            for theirs in known:
                found |= theirs
        return [found[rank] for rank in self.ranks]

    def is_covered_by(self, spans: Collection["Span"]) -> bool:
        """Whether what goes through other spans in turn comes from all ranks of this one: one is as large, or all are.

        Those along the axes of a mesh have this rank in common alone; of others that do not, it is not known.
        """
        sizes = [len(span.ranks) for span in spans]
        crossing = all(len({*a.ranks} & {*b.ranks}) == 1 for a, b in combinations(spans, 2))
        return len(self.ranks) in sizes or (crossing and math.prod(sizes) == len(self.ranks))

    def __deepcopy__(self, memo: object) -> "Span":
        return self  # its ranks are the same for whoever asks

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A `GradClipper(group=...)` cannot be pickled, as its process group cannot. Save its `state_dict()`, and "
            "load that into one of the group there."
        )

    def __repr__(self) -> str:
        return f"ranks {', '.join(map(str, self.ranks))}"


def spanning(function: str, group: Group | None) -> Span | None:
    """Return the span of a `group` that a public function was given, if it was."""
    if group is None:
        return None
    check_groups(function, "group", (group,))
    return span_of(group)


_known: dict[tuple[int, ...], Span] = {}
_world: Any = None  # the default group that they belong to


def span_of(group: Group) -> Span:
    """Return the span of a process group, or of a mesh with all its dimensions; the same object for the same ranks.

    A mesh of several axes whose ranks no group has yet gets one, which all its ranks have to ask for. Where all of the
    program would have to, as it is split off their group or made by MPI, it goes by those of its axes in turn.
    """
    global _world  # noqa: PLW0603 -- groups live as long as the default group does
    if _world is not dist.group.WORLD:
        _known.clear()
        _world = dist.group.WORLD
    found = _known.get(key := ranks_of(group))
    if found is None:
        found = _known[key] = Span((group,) if isinstance(group, dist.ProcessGroup) else _groups_of(group, key), key)
    return found


def ranks_of(group: Group) -> tuple[int, ...]:
    """Return the global ranks of a process group or a mesh, in order of size."""
    is_group = isinstance(group, dist.ProcessGroup)
    return tuple(sorted(dist.get_process_group_ranks(group) if is_group else group.mesh.flatten().tolist()))


def _groups_of(mesh: "DeviceMesh", ranks: tuple[int, ...]) -> "Sequence[ProcessGroup]":
    world = dist.group.WORLD
    if mesh.ndim > 1 and world is not None:
        if len(ranks) == dist.get_world_size():
            return (world,)
        if world.bound_device_id is None and dist.get_backend(world) != dist.Backend.MPI:
            made: Any = dist.new_group(list(ranks), use_local_synchronization=True)  # a group, as this rank is in it
            return (made,)
    return mesh.get_all_groups()


def check_groups(function: str, argument: str, groups: tuple[object, ...]) -> None:
    """Check process groups and meshes, of which this rank is one."""
    if groups and not dist.is_available():
        msg = f"`{function}({argument}=...)` must be left out, since this build of torch has no torch.distributed."
        raise RuntimeError(msg)
    for group in groups:
        is_mesh = isinstance(group, dist.DeviceMesh)
        if group is dist.GroupMember.NON_GROUP_MEMBER or (is_mesh and group.get_coordinate() is None):
            msg = f"`{function}({argument}=...)` must be a group of this rank, got one without it. Pass its own."
            raise ValueError(msg)
        if not is_mesh and not isinstance(group, dist.ProcessGroup):
            msg = (
                f"`{function}({argument}=...)` must be a torch.distributed process group or a DeviceMesh, got "
                f"{group!r} ({type(group).__name__})."
            )
            raise TypeError(msg)
