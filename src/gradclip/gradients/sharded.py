"""Collect what this rank holds of the gradients of a model that several ranks hold."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import Parameter

from gradclip.distributed.dtensor import can_be_partial, is_partial, local_of
from gradclip.distributed.flat import without_padding
from gradclip.distributed.held import Held
from gradclip.distributed.partial import is_reducible
from gradclip.distributed.plan import WIDE, Plan, plan_of
from gradclip.distributed.reduction import Reduction
from gradclip.distributed.span import Span
from gradclip.gradients.gradient_set import GradientSet
from gradclip.gradients.kinds import check_gradient, scalar
from gradclip.numbers import CPU, Scalar
from gradclip.ops import dispatch
from gradclip.parameters import name_at
from gradclip.validation import refuse_gradient

if TYPE_CHECKING:
    from gradclip.ops.native import Native


def collect_sharded(
    function: str,
    argument: str,
    owners: list[Tensor],
    names: list[str] | None,
    plan: Plan,
    *,
    loss: Scalar | None,
    writes: bool,
    alone: bool,
) -> GradientSet:
    """Collect the local parts of gradients: each once, in order, without those that are None.

    What is wrong with them is not raised here, where the other ranks would wait for this one, but by the reduction;
    unless this rank is `alone`, since there will be none.
    """
    found: dict[int, Tensor] = {}
    placed: dict[int, Any] = {}
    failure: BaseException | None = None
    buckets: list[dispatch.Bucket] = []
    try:
        _find(function, argument, owners, names, plan, found, placed)
        if not (buckets := dispatch.one_bucket(list(found.values()))):  # of dense numbers, each in a place of its own
            for place, x in found.items():
                check_gradient(function, partial(name_at, names, place, argument), x, writes=writes)
    except BaseException as error:
        if alone:
            raise
        found.clear()
        placed.clear()
        failure = error
    places, gradients = list(found), list(found.values())
    return _as_set(argument, owners, names, plan, places, gradients, placed, buckets, failure=failure, loss=loss)


def take_local_parts(
    owners: list[Tensor],
    names: list[str] | None,
    specs: list[Any],
    places: list[int],
    gradients: list[Tensor],
    known: tuple[float | None, float],
    kernels: "Native",
    group: Span | None,
    loss: Scalar | None,
) -> GradientSet | None:
    """Take the local parts of gradients that are placed as the DTensors are, measured already, where all count."""
    plan = plan_of(owners, names, specs + [None] * len(specs), group)
    if plan.any_outside:
        return None
    buckets: list[dispatch.Bucket] = [(kernels, gradients, range(len(gradients)))]
    return _as_set(
        "parameters", owners, names, plan, places, gradients, {}, buckets, loss=loss, known=known, kernels=kernels
    )


def told(group: Span | None, collected: Callable[[], GradientSet]) -> GradientSet:
    """Collect; whatever goes wrong, the reduction tells all ranks of a group why, and raises it here."""
    if group is None:
        return collected()
    try:
        return collected()
    except BaseException as error:  # noqa: BLE001 -- raised once all know
        return _none_because(error, group)


def tell(error: Exception, group: Span | None, norm_type: object) -> None:
    """Let all ranks of a group know why this one cannot clip, and raise it; without a group, do nothing."""
    if group is not None:
        order = norm_type if isinstance(norm_type, float) and norm_type > 0.0 else 2.0
        _none_because(error, group).total_norm(order)


def _none_because(error: BaseException, group: Span) -> GradientSet:
    """Return no gradients, whose reduction fails on all ranks of a group."""
    return _as_set("parameters", [], None, Plan([], [], [], group), [], [], {}, [], failure=error)


def _as_set(
    argument: str,
    owners: list[Tensor],
    names: list[str] | None,
    plan: Plan,
    places: list[int],
    gradients: list[Tensor],
    placed: dict[int, Any],
    buckets: list[dispatch.Bucket],
    *,
    failure: BaseException | None = None,
    loss: Scalar | None = None,
    known: tuple[float | None, float] = (None, 0.0),
    kernels: "Native | None" = None,
) -> GradientSet:
    device = gradients[0].device if gradients else local_of(owners[0]).device if owners else CPU
    device = CPU if device == CPU else device
    wide = plan.wide or any(owners[place].dtype in WIDE for place in plan.plain)
    reduction = Reduction(plan, owners, Held(plan, owners, places, gradients, placed), failure, loss)
    number = scalar if kernels is None else kernels.scalar
    sharded = GradientSet(argument, owners, names, gradients, device, buckets, wide, number, known, reduction)
    if not buckets:
        sharded.bucket()
    return sharded


def _find(
    function: str,
    argument: str,
    owners: list[Tensor],
    names: list[str] | None,
    plan: Plan,
    found: dict[int, Tensor],
    placed: dict[int, Any],
) -> None:
    seen: set[int] = set()
    for place, (owner, spec) in enumerate(zip(owners, plan.specs, strict=True)):
        gradient: Any = owner if argument == "tensors" else owner.grad
        if gradient is None or id(gradient) in seen or plan.shares[place].outside:
            continue  # where there is a mesh without this rank, nothing of it is here
        seen.add(id(gradient))
        if spec is None or type(owner) is Parameter:  # a plain one, that once was a DTensor perhaps
            found[place] = without_padding(owner, gradient)
            continue
        own = getattr(gradient, "_spec", None)
        if own is not spec or argument == "tensors":
            if own is None:
                reason = "Its parameter is a DTensor, so it has to be one too."
                refuse_gradient(function, name_at(names, place, argument), gradient, reason)
            if own.mesh is not spec.mesh and own.mesh != spec.mesh:
                reason = "Its parameter is on another mesh."
                refuse_gradient(function, name_at(names, place, argument), gradient, reason)
            if plan.shares[place].fixed and own.placements != spec.placements:
                reason = (
                    f"It is placed as {own.placements}, and what was declared of its mesh is said of {spec.placements}."
                )
                refuse_gradient(function, name_at(names, place, argument), gradient, reason)
            if is_partial(own) and not (can_be_partial(spec) and is_reducible(tuple(own.placements))):
                reason = f"It is placed as {own.placements}, which cannot be summed: redistribute it."
                refuse_gradient(function, name_at(names, place, argument), gradient, reason)
            if is_partial(own) or own.placements != spec.placements:
                placed[place] = own
        local = gradient._local_tensor
        if type(local) is not Tensor and hasattr(local, "trigger_wait"):  # a collective is under way
            local = local.trigger_wait()
        found[place] = local
