"""Checks of who holds what: process groups, declarations, and what they leave open."""

from typing import NoReturn

import torch.distributed as dist


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


def refuse_ownership(value: object) -> NoReturn:
    """Refuse what is no declaration."""
    kind = type(value).__name__
    msg = f"`declare(ownership=...)` must be an `Ownership`, or a mapping of patterns to such, got {kind}."
    raise TypeError(msg)


def refuse_declared(function: str, name: str, before: object, now: object) -> NoReturn:
    """Refuse a second declaration that contradicts the first."""
    msg = (
        f"`{function}(parameters=...)` must not contradict what was declared before, got {now} at {name!r}, which is "
        f"{before}. Call `gradclip.distributed.forget` first if that is no longer so."
    )
    raise ValueError(msg)


def refuse_undeclared(name: str, patterns: list[str]) -> NoReturn:
    """Refuse rules that say nothing about a parameter."""
    shown = ", ".join(map(repr, patterns))
    msg = (
        f"`declare(ownership=...)` must have a pattern for every parameter, got none for {name!r} among {shown}. Add "
        "one; `'*': Ownership()` at the end leaves all others as they are."
    )
    raise ValueError(msg)


def refuse_open(name: str, known: int, size: int) -> NoReturn:
    """Refuse a parameter of which it is not known what the other ranks of a group hold."""
    msg = (
        f"`group=...` must consist of ranks of which it is known what they hold, got {size} ranks, and {name!r} "
        f"speaks of {known}. Declare the rest with `gradclip.distributed.declare`: as `replicated` where they hold "
        "copies of it, as `disjoint` where they hold other parameters, as `sharded` where they hold pieces. For plain "
        "data parallelism, that is `declare(model, Ownership(replicated=group))`."
    )
    raise ValueError(msg)


def refuse_flattened() -> NoReturn:
    """Refuse what FSDP1 makes of DTensors: plain tensors, which do not say what other ranks hold of them."""
    msg = (
        "`parameters` must not be sharded by FSDP1 (`FullyShardedDataParallel`) over tensor parallelism, got DTensors "
        "that it has flattened. Shard with `fully_shard` instead."
    )
    raise ValueError(msg)


def refuse_units(name: str) -> NoReturn:
    """Refuse a policy with a norm for each unit on a parameter whose pieces may hold any part of a unit."""
    msg = (
        f"`GradClipper(policy=...)` must not look at single units of {name!r}: its pieces are plain tensors, which do "
        "not say which rows they hold. Shard it as a DTensor, as `fully_shard` and `parallelize_module` do, or use "
        "another policy for it."
    )
    raise ValueError(msg)


def refuse_parts() -> NoReturn:
    """Refuse a policy that needs a norm which is not known on a rank that has but some of the parameters."""
    msg = (
        "`GradClipper(policy=...)` must not need the norm of some parameters together, or that of all once each is "
        "scaled by its own factor, where other ranks hold parameters of their own: it is not known there. Use a policy "
        "for the total norm or for each parameter alone, or a `GradClipper` for each part."
    )
    raise ValueError(msg)


def refuse_partial(name: str) -> NoReturn:
    """Refuse to clamp elements that are yet to be added to those of other ranks."""
    msg = (
        f"Clipping by value must be given gradients that are summed, got a Partial DTensor at {name}. Redistribute "
        "it before, or clip by norm."
    )
    raise TypeError(msg)


def refuse_compiled() -> NoReturn:
    """Refuse to reduce over ranks in a compiled function: the plan is made by Python code that cannot be traced."""
    raise RuntimeError(
        "Gradients that several ranks hold must be clipped outside of `torch.compile`. Compile the rest."
    )
