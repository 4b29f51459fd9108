"""Collect: any accepted input becomes one `GradientSet`, and nothing below it sees a parameter."""

from collections.abc import Iterable, Sequence
from types import GeneratorType
from typing import Any

from torch import Tensor

from gradclip.devices import first_with_numbers
from gradclip.distributed.agreement import Agreement
from gradclip.distributed.dtensor import local_of
from gradclip.distributed.layout import layout_of, sharded_and_marks
from gradclip.distributed.ownership import DECLARED, is_any_declared
from gradclip.distributed.span import Span
from gradclip.gradients.gradient_set import GradientSet
from gradclip.gradients.held import Held
from gradclip.gradients.here import Here
from gradclip.gradients.local import Rule
from gradclip.gradients.over_ranks import OverRanks
from gradclip.gradients.told import told
from gradclip.numbers import CPU, LARGEST_PLAIN_ORDER, Scalar
from gradclip.ops import registry
from gradclip.ops.backend import Batch
from gradclip.parameters import Parameters, check_ownership, check_tensors, flatten


def collect(
    function: str,
    parameters: Parameters,
    norm_type: float | None = None,
    bounds: tuple[Scalar, float] | None = None,
    *,
    names: list[str] | None = None,
    writes: bool = True,
    group: Span | None = None,
    loss: Scalar | None = None,
    agreement: Agreement | None = None,
    alone: bool = False,
) -> GradientSet:
    """Collect the gradients of parameters: each once, in order, without those that are None.

    Args:
        function: The public function that was called, for messages.
        parameters: Any accepted input.
        norm_type: The order of the norm that will be asked for: it may be measured on the way.
        bounds: The `max_norm` and `eps` of a coefficient that will be asked for with it.
        names: The names of a list of parameters.
        writes: Whether the gradients will be written.
        group: The ranks that hold the whole model together, where one collective is to do.
        loss: The loss of this rank, to be averaged over all.
        agreement: What the ranks agree on about unsummed gradients; by default, what they did in earlier calls.
        alone: Whether no other rank will be asked about these gradients.

    Raises:
        TypeError: For anything else than parameters, gradients passed in their place included.
        OverlappingGradientError: If a gradient cannot be written in place.

        Where other ranks wait for this one, that is raised by the norm, once all know of it.
    """
    given: Any = parameters
    owners: Any = given
    try:
        if type(given) is GeneratorType:  # as `model.parameters()`
            given = list(given) or given  # of nothing, an exhausted one is warned of
        is_list = type(given) is list  # which is taken at its word until its elements are read, and may change then
        owners, names = (given[:], names) if is_list else flatten(function, given)
        is_plain = norm_type is not None and -LARGEST_PLAIN_ORDER <= norm_type <= LARGEST_PLAIN_ORDER
        order = norm_type if is_plain else None
        walk = registry.walk()
        sharded, marks = (None, None) if walk is None else sharded_and_marks()
        found = None if walk is None else walk(owners, order, sharded, marks, bounds)
        if found is None:
            if is_list and names is None:  # of pairs perhaps
                owners, names = flatten(function, owners)
            check_tensors(function, owners, names)
            found = None if walk is None else walk(owners, order, sharded, marks, bounds)
        if found is not None:
            batch, places, specs, left = found
            is_declared = DECLARED and is_any_declared(owners)  # not of another model alone
            if specs is None and not left and batch.tensors and group is None and not is_declared:
                return Here("parameters", owners, names, batch.tensors, batch, places, loss)
            taken = range(len(owners)) if places is None else places
        else:
            batch, taken, specs, left = None, (), None, range(len(owners))
        layout = layout_of(owners, names, specs, left, group)
        rule = Rule(function, "parameters", owners, names, layout, writes)
        return _completed(rule, batch, taken, left, loss, agreement)
    except BaseException as error:
        if alone or (failed := told(error, group, owners, agreement)) is None:
            raise
        return failed


def gather(function: str, tensors: Tensor | Iterable[Tensor], *, group: Span | None = None) -> GradientSet:
    """Collect tensors that are gradients themselves, to read only."""
    listed: Any = tensors
    try:
        listed, names = flatten(function, tensors, argument="tensors")
        check_tensors(function, listed, names, "tensors")
        everywhere = range(len(listed))
        layout = layout_of(listed, names, None, everywhere, group, are_gradients=True)
        rule = Rule(function, "tensors", listed, names, layout, writes=False)
        return _completed(rule, None, (), everywhere, None, None)
    except BaseException as error:
        if (failed := told(error, group, listed, are_gradients=True)) is None:
            raise
        return failed


def _completed(
    rule: Rule,
    batch: Batch | None,
    taken: Sequence[int],
    left: Sequence[int],
    loss: Scalar | None,
    agreement: Agreement | None,
) -> GradientSet:
    """Add what the walk has left to what it has taken."""
    layout, owners = rule.layout, rule.owners
    placed: dict[int, Any] = {}
    any_outside = layout is not None and layout.any_outside
    if batch is not None and batch.tensors and not left and not any_outside:
        places, gradients, opened = list(taken), batch.tensors, batch
    else:
        found = {} if batch is None else dict(zip(taken, batch.tensors, strict=True))
        if any_outside:
            found, batch = {place: x for place, x in found.items() if not rule.is_outside(place)}, None
        for place, gradient in rule.gradients(left).items():
            if not rule.is_outside(place):
                found[place], spec = rule.local(place, gradient)
                if spec is not None:
                    placed[place] = spec
        places = sorted(found)
        gradients = [found[place] for place in places]
        opened = _opened(rule, places, gradients, batch, taken)
    if layout is not None:
        held = Held(layout, owners, places, opened, placed, agreement)
        return OverRanks(rule.argument, owners, rule.names, gradients, held, loss=loss)
    if not gradients and rule.argument == "parameters":
        check_ownership(rule.function, owners)
    everywhere = len(places) == len(owners)
    return Here(rule.argument, owners, rule.names, gradients, opened, None if everywhere else places, loss)


def _opened(
    rule: Rule,
    places: list[int],
    gradients: list[Tensor],
    batch: Batch | None,
    taken: Sequence[int],
) -> Batch:
    """Open gradients, some of which may be open already; what kernels take needs no check."""
    if batch is not None and batch.tensors and len(taken) == len(places):
        return batch
    known = set(taken if batch is not None and batch.tensors else ())
    old = [i for i, place in enumerate(places) if place in known]
    new = [i for i, place in enumerate(places) if place not in known]
    rest = [gradients[i] for i in new]
    if (opened := registry.taken_by_kernels(rest)) is None:
        for i in new:
            rule.check(places[i], gradients[i])
        is_shared = rule.layout is not None and len(rule.owners) > 0
        opened = registry.open_(rest, local_of(first_with_numbers(rule.owners)).device if is_shared else CPU)
    return opened if batch is None or not old else registry.joined(gradients, [(batch, old), (opened, new)])
