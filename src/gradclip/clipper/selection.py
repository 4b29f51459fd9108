"""Which parameters a clipper works on, under which names."""

import math
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from operator import is_
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradclip.devices import first_with_numbers
from gradclip.distributed.layout import numel_of, shape_of
from gradclip.gradients.local import LAYOUTS
from gradclip.numbers import CPU, as_float64, home
from gradclip.parameters import (
    Parameters,
    check_ownership,
    groups_of,
    matches,
    named,
    refuse_no_parameters,
    refuse_pattern,
    refuse_same_name,
)
from gradclip.policies.layout import Layout, Scope, finest
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.sending import sent
from gradclip.units import Units

FUNCTION = "GradClipper"


@final
@dataclass(frozen=True, eq=False)
class Selection:
    """The parameters of a clipper, each once.

    Attributes:
        owners: The parameters that are counted.
        names: Their names, all different.
        layout: The same for policies.
        scaled: 1.0 for each that is scaled, 0.0 for each that is only counted, as float64; None where all are scaled.
        ignored: The parameters that are neither.
        held: The shapes of what is held here of the parameters that are counted.
    """

    owners: list[Tensor]
    names: list[str]
    layout: Layout
    scaled: Tensor | None
    ignored: list[Tensor]
    held: list[torch.Size]

    @property
    def placed(self) -> torch.device:
        """Where the first parameter with numbers is now."""
        return first_with_numbers(self.owners).device if self.owners else CPU

    @property
    def device(self) -> torch.device:
        """Where the numbers of what is there are."""
        return home(self.placed)

    def restricted(self, decision: Decision, norms: Norms) -> Decision:
        """Restrict a decision to the parameters that are scaled, where others are only counted."""
        if self.scaled is None:
            return decision
        flags = self.scaled.to(norms.layout.device) > 0.0
        coef = as_float64(decision.coef, flags.device)
        if decision.clamp is not None:
            decision = decision._replace(clamp=torch.where(flags, as_float64(decision.clamp, flags.device), math.inf))
        if decision.scope == "unit":
            return decision._replace(coef=torch.where(flags[norms.layout.owners], coef, 1.0))
        return decision._replace(coef=torch.where(flags, coef, 1.0), scope="parameter")

    def reshaped(self) -> "Selection | None":
        """Return the same for the shapes that the parameters have by now; None where they are as they were."""
        held = [x.shape for x in self.owners]
        if held == self.held:
            return None
        return replace(self, layout=replace(self.layout, **_sizes(self.names, self.owners)), held=held)

    def layout_for(self, policy: Policy, at_least: Scope) -> Layout:
        """Return the layout that a policy has its norms of, where units are those that it asks for.

        Raises:
            ValueError: If a parameter has none of the dimensions that their norms are taken over.
        """
        if finest((policy.scope, at_least)) != "unit":
            return self.layout
        units, shapes = policy.units, list(map(shape_of, self.owners))
        for name, shape in zip(self.names, shapes, strict=True):
            if len(units.kept(len(shape))) == len(shape) > 0:
                msg = (
                    f"`{FUNCTION}(policy=...)` must take norms over a dimension that each parameter has, got "
                    f"axis {units.axis} for shape {shape} at {name}. Give it another policy by `by_name`."
                )
                raise ValueError(msg)
        return replace(self.layout, units=tuple(map(units.count, shapes)))


def select(
    parameters: Parameters, counted_only: Sequence[str], ignored: Sequence[str], *, may_be_empty: bool = False
) -> Selection:
    """List parameters once, and find those that patterns name; there must be one, unless other ranks may have all.

    Raises:
        TypeError: If something else is among them, or gradients are passed in their place.
        ValueError: If there is none, or none is left, a pattern matches none, or two have one name.
    """
    tensors, names = named(FUNCTION, parameters)
    groups = [0] * len(tensors)
    if (given := groups_of(parameters)) is not None:
        groups = [g for g, group in enumerate(given) for _ in group["params"]]
    once: dict[int, tuple[str, Tensor, int]] = {}
    for name, tensor, group in zip(names, tensors, groups, strict=True):
        if is_lazy(tensor):
            raise ValueError(
                f"`{FUNCTION}(parameters=...)` must know the shapes of parameters, got a lazy one at {name}. Run a "
                "batch through the model first."
            )
        once.setdefault(id(tensor), (name, tensor, group))
    check_ownership(FUNCTION, tensors)
    all_names = tuple(name for name, _, _ in once.values())
    for name, count in Counter(all_names).items():
        if count > 1:
            refuse_same_name(FUNCTION, name)
    left_out = _matched("ignored", ignored, all_names)
    kept = [entry for entry in once.values() if entry[0] not in left_out]
    if not kept and not may_be_empty:
        if once:
            msg = f"`{FUNCTION}(ignored=...)` must leave a parameter to clip, got {list(ignored)!r}. Name fewer."
            raise ValueError(msg)
        refuse_no_parameters(FUNCTION, parameters)
    for name, tensor, _ in kept:
        if tensor.requires_grad and (tensor.is_nested or tensor.layout not in LAYOUTS):  # and so is its gradient
            raise TypeError(
                f"`{FUNCTION}(parameters=...)` must be strided or sparse COO tensors, got {type(tensor).__name__} "
                f"({tensor.layout}) at {name}. Leave it out by `ignored`."
            )
    counted = tuple(name for name, _, _ in kept)
    only = _matched("counted_only", counted_only, counted)
    owners = [tensor for _, tensor, _ in kept]
    device = home(first_with_numbers(owners).device) if owners else CPU
    layout = Layout(
        names=counted,
        **_sizes(counted, owners),
        groups=None if given is None else tuple(group for _, _, group in kept),
        group_count=0 if given is None else len(given),
        device=device,
        has_complex=any(x.is_complex() for x in owners),
    )
    scaled = sent([float(name not in only) for name in counted], device) if only else None
    left = [x for name, x, _ in once.values() if name in left_out]
    return Selection(owners, list(counted), layout, scaled, left, [x.shape for x in owners])


def _sizes(names: Sequence[str], owners: list[Tensor]) -> dict[str, Any]:
    """Return what a layout says of the sizes of parameters."""
    shapes = list(map(shape_of, owners))
    numels, units = tuple(map(numel_of, names, owners)), tuple(map(Units().count, shapes))
    return {"numels": numels, "units": units, "ndims": tuple(map(len, shapes))}


@final
class Source:
    """The optimizer that a clipper was made from, which may get more parameters, or others in place of its own.

    Args:
        optimizer: It, which is not kept alive.
        select: Returns what the clipper works on of it.
    """

    def __init__(self, optimizer: Optimizer, select: Callable[[Optimizer], Selection]) -> None:
        self._reference = weakref.ref(optimizer)
        self._select = select
        self._known = parameters_in(optimizer)

    def is_of(self, optimizer: Optimizer) -> bool:
        """Whether it is this one."""
        return self._reference() is optimizer

    def follow(self, work_on: Callable[[Selection], None]) -> None:
        """Have what the optimizer has now be worked on, where it has other parameters than before."""
        if (optimizer := self._reference()) is not None:
            own = parameters_in(optimizer)
            if not are_same(self._known, own):
                work_on(self._select(optimizer))
                self._known = own


def parameters_in(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters that an optimizer has by now."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def are_same(some: Collection[Tensor], others: Collection[Tensor]) -> bool:
    """Whether two lists hold the very same tensors, in one order."""
    return len(some) == len(others) and all(map(is_, some, others))


def size_of(optimizer: Optimizer) -> int:
    """Return how many parameters an optimizer has by now."""
    return sum([len(group["params"]) for group in optimizer.param_groups])


def _matched(argument: str, patterns: Sequence[str], names: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        meant = {name for name in names if matches(name, pattern)}
        if not meant:
            refuse_pattern(f"{FUNCTION}({argument}=...)", pattern, names)
        found |= meant
    return found
