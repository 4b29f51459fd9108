"""From an owner to the local, plain tensor that this rank works on: one rule, which the walk in C++ only speeds up."""

from collections.abc import Iterable
from typing import Any, NamedTuple, final

from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.nn import Parameter

from gradclip.distributed.dtensor import can_be_unsummed, is_dtensor, is_unsummed
from gradclip.distributed.fsdp1 import without_padding
from gradclip.distributed.layout import RankLayout
from gradclip.distributed.unsummed import is_reducible
from gradclip.gradients.kinds import check_gradient, refuse_gradient
from gradclip.parameters import name_at
from gradclip.torch_private import arrived, local_of_dtensor, spec_of_dtensor


@final
class Rule(NamedTuple):
    """What there is to know about the owners of one call.

    Attributes:
        function: The public function that was called, for messages.
        argument: What it calls the owners: `parameters`, or `tensors` that are gradients themselves.
        owners: The owners.
        names: Their names.
        layout: Who holds what; None where this rank holds everything.
        writes: Whether gradients will be written.
    """

    function: str
    argument: str
    owners: list[Tensor]
    names: list[str] | None
    layout: RankLayout | None
    writes: bool

    def gradients(self, places: Iterable[int]) -> dict[int, Tensor]:
        """Return the gradients of owners, each once, by the place of the first that has it."""
        are_gradients = self.argument == "tensors"
        is_compiling = is_dynamo_compiling()  # which would compile again for every new id
        first: dict[Any, tuple[int, Tensor]] = {}
        for place in places:
            gradient = self.owners[place] if are_gradients else self.owners[place].grad
            if gradient is not None:
                first.setdefault(gradient if is_compiling else id(gradient), (place, gradient))
        return {place: gradient for place, gradient in first.values()}  # noqa: C416 -- torch 2.6 compiles no `dict`

    def local(self, place: int, gradient: Tensor) -> tuple[Tensor, Any]:
        """Return the local part of a gradient, and its spec, if it is placed otherwise than its owner.

        Raises:
            TypeError: If it does not fit its owner.
        """
        owner, found, placed = self.owners[place], gradient, None
        spec = None if self.layout is None else self.layout.specs[place]
        if spec is not None and type(owner) is not Parameter:
            found, placed = self._local_part(place, gradient, spec)
        elif self.layout is not None:  # a plain one, that once was a DTensor perhaps
            found = without_padding(owner, gradient)
        return found, placed

    def check(self, place: int, local: Tensor) -> None:
        """Check that the local part of a gradient has a norm, and where it is to be written, that it can be."""
        check_gradient(self.function, lambda: self._name(place), local, writes=self.writes)

    def is_outside(self, place: int) -> bool:
        """Whether nothing of a gradient is here: its owner is on a mesh without this rank."""
        return self.layout is not None and self.layout.shares[place].outside

    def _name(self, place: int) -> str:
        return name_at(self.names, place, self.argument)

    def _local_part(self, place: int, gradient: Any, spec: Any) -> tuple[Tensor, Any]:
        own: Any = spec_of_dtensor(gradient) if is_dtensor(gradient) else None
        placed = None
        if own is not spec or self.argument == "tensors":
            self._check_placed(place, gradient, own, spec)
            placed = own if is_unsummed(own) or own.placements != spec.placements else None
        return arrived(local_of_dtensor(gradient)), placed

    def _check_placed(self, place: int, gradient: Tensor, own: Any, spec: Any) -> None:
        """Check that a gradient is placed in a way that fits its owner."""
        reason = None
        if own is None:
            reason = "Its parameter is a DTensor, so it has to be one too."
        elif own.mesh is not spec.mesh and own.mesh != spec.mesh:
            reason = "Its parameter is on another mesh."
        elif self.layout is not None and self.layout.shares[place].fixed and own.placements != spec.placements:
            reason = (
                f"It is placed as {own.placements}, and what was declared of its mesh is said of {spec.placements}."
            )
        elif is_unsummed(own) and not (can_be_unsummed(spec) and is_reducible(tuple(own.placements))):
            reason = f"It is placed as {own.placements}, which cannot be summed: redistribute it."
        if reason is not None:
            refuse_gradient(self.function, self._name(place), gradient, reason)
