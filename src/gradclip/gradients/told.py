"""Let the other ranks hear why this one cannot clip: whatever goes wrong before the collective that they wait in."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.nn import Module
from torch.optim import Optimizer

from gradclip.distributed.agreement import Agreement
from gradclip.distributed.dtensor import local_of
from gradclip.distributed.layout import RankLayout, layout_of, made
from gradclip.distributed.span import Span
from gradclip.gradients.held import Held
from gradclip.gradients.over_ranks import OverRanks
from gradclip.numbers import CPU
from gradclip.ops.registry import open_


def told(
    error: BaseException,
    group: Span | None,
    given: object,
    agreement: Agreement | None = None,
    *,
    are_gradients: bool = False,
) -> OverRanks | None:
    """Return no gradients, whose norm raises an error here once all ranks know of it; None if no other rank waits.

    Args:
        error: Why this rank has none.
        group: The ranks that hold the whole model together, if they are known.
        given: What was passed as parameters: the DTensors among them, and what was declared, say who waits.
        agreement: What the ranks agree on about unsummed gradients; by default, what they did in earlier calls.
        are_gradients: Whether gradients were passed.
    """
    tensors: list[Tensor] = [] if is_dynamo_compiling() else list(_tensors_in(given))
    layout: RankLayout | None = None
    if tensors:
        with contextlib.suppress(Exception):  # it is another error that is told
            layout = layout_of(tensors, None, None, range(len(tensors)), group, are_gradients=are_gradients)
    if layout is None and group is not None:
        tensors.clear()
        layout = made([], [], [], group)
    if layout is None:
        return None
    nothing = open_([], local_of(tensors[0]).device if tensors else CPU)
    held = Held(layout, tensors, [], nothing, {}, agreement)
    return OverRanks("parameters", tensors, None, [], held, failure=error)


def tell(
    error: Exception, group: Span | None, given: object, norm_type: object, *, are_gradients: bool = False
) -> None:
    """Raise an error, once all ranks know of it that wait for a total norm; do nothing if none does.

    The norm is of the order `norm_type`, if that is one; the other arguments are those of `told`.
    """
    if (failed := told(error, group, given, are_gradients=are_gradients)) is not None:
        failed.total_norm(norm_type if isinstance(norm_type, float) and norm_type > 0.0 else 2.0)


def _tensors_in(given: Any) -> Iterator[Tensor]:
    """Yield the tensors that can be found in anything."""
    match given:
        case Tensor():
            yield given
        case Module():
            yield from given.parameters()
        case Optimizer():
            yield from _tensors_in(given.param_groups)
        case Mapping():
            yield from _tensors_in(list(given.values()))
        case list() | tuple():
            for element in given:
                yield from _tensors_in(element)
        case str() | bytes() | Iterator():  # which a user may walk after the error
            return
        case Iterable():
            try:
                elements = list(given)
            except Exception:  # noqa: BLE001 -- it is another error that is told
                return
            yield from _tensors_in(elements)
