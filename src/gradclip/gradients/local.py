"""From an owner to the local, plain tensor that this rank works on: one rule, which the walk in C++ only speeds up."""

from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn, final

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.nn import Parameter

from gradclip.distributed.dtensor import can_be_unsummed, is_dtensor, is_unsummed
from gradclip.distributed.fsdp1 import without_padding
from gradclip.distributed.layout import RankLayout
from gradclip.distributed.torch_private import arrived, local_of_dtensor, spec_of_dtensor
from gradclip.distributed.unsummed import is_reducible
from gradclip.ops.overlap import overlaps, refuse_overlap
from gradclip.ops.registry import values_of
from gradclip.parameters import name_at
from gradclip.torch_private import is_fake, is_lazy_zero
from gradclip.tracing import is_traced

LAYOUTS = {torch.strided, torch.sparse_coo}
"""Layouts of tensors that have a norm here."""

PACKED = {getattr(torch, name) for name in ("float4_e2m1fn_x2",) if hasattr(torch, name)}
"""Dtypes with several numbers in an element."""


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
        owner, layout = self.owners[place], self.layout
        spec = None if layout is None else layout.specs[place]
        if spec is None or type(owner) is Parameter:  # a plain one, that once was a DTensor perhaps
            return gradient if layout is None else without_padding(owner, gradient), None
        own: Any = spec_of_dtensor(gradient) if is_dtensor(gradient) else None
        placed = None
        if own is not spec or self.argument == "tensors":
            self._check_placed(place, gradient, own, spec)
            placed = own if is_unsummed(own) or own.placements != spec.placements else None
        return arrived(local_of_dtensor(gradient)), placed

    def check(self, place: int, local: Tensor) -> None:
        """Check that the local part of a gradient has a norm, and where it is to be written, that it can be."""
        reason = None
        if not local.is_floating_point() and not local.is_complex():
            reason = "Only these have a norm."
        elif local.is_nested:
            reason = "Take its parts: `x.unbind()`."
        elif local.layout not in LAYOUTS:
            reason = "Convert it to a strided or a sparse COO tensor."
        elif is_dtensor(local):
            reason = (
                "Its parameter is a plain tensor, which does not say how other ranks hold it: make it a DTensor too."
            )
        elif is_fake(local) and not is_traced():
            reason = "It has a shape and no numbers: materialize the model first."
        elif local.dtype in PACKED:
            reason = "Its elements hold several numbers each: unpack them."
        elif self.writes and not is_traced() and is_lazy_zero(local):
            reason = "It is a lazy zero, without memory: `p.grad = p.grad.clone()`."
        if reason is not None:
            self._refuse(place, local, reason)
        if self.writes and overlaps(values_of(local)):
            refuse_overlap(self.function, self._name(place), values_of(local))

    def is_outside(self, place: int) -> bool:
        """Whether nothing of a gradient is here: its owner is on a mesh without this rank."""
        return self.layout is not None and self.layout.shares[place].outside

    def _name(self, place: int) -> str:
        return name_at(self.names, place, self.argument)

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
            self._refuse(place, gradient, reason)

    def _refuse(self, place: int, gradient: Tensor, reason: str) -> NoReturn:
        """Raise for a gradient of a kind that has no norm here."""
        msg = (
            f"`{self.function}` must be given real or complex floating-point gradients, got {type(gradient).__name__} "
            f"of {gradient.dtype} ({gradient.layout}) at {self._name(place)}. {reason}"
        )
        raise TypeError(msg)
