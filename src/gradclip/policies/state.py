"""What the state of a policy is made of: numbers, tensors of these, and histories, in tuples."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import starmap
from typing import Any

from torch import Tensor

from gradclip.numbers import Condition, Scalar, is_known, on_host, where
from gradclip.policies.history import COUNTS, GROWS, History, refuse_capture, told
from gradclip.policies.layout import Part


def leaves(state: Any) -> Iterator[Any]:
    """Yield what a state is made of, in order: numbers, tensors of these, and histories."""
    match state:
        case Part():
            yield from leaves(state.state)
        case tuple():
            for x in state:
                yield from leaves(x)
        case _:
            yield state


def filled(template: Any, found: Iterator[Any]) -> Any:
    """Return a state of one form with others in place of what it is made of."""
    match template:
        case Part():
            return template._replace(state=filled(template.state, found))
        case tuple():
            values = [filled(x, found) for x in template]
            return type(template)(*values) if hasattr(template, "_fields") else tuple(values)
        case _:
            return next(found)


def has_names(state: object) -> bool:
    """Whether what a policy has learned is of single parameters."""
    return any(x.has_many if isinstance(x, History) else isinstance(x, Tensor) and x.ndim > 0 for x in leaves(state))


def remembers_all(state: Any) -> bool:
    """Whether it has a history of all norms, which is longer after each step."""
    return any(isinstance(x, History) and x.window is None for x in leaves(state))


def unless(withheld: Condition, known: Any, state: Any) -> Any:
    """Return a state, or where a step does not happen, what was known before it.

    The host asks where that is no matter of numbers: of what has another form.
    """
    if is_known(withheld):
        return known if withheld else state
    if not _has_as_many(known, state):
        return known if told(withheld, GROWS) else state
    return _over(known, state, partial(_unless, withheld))


def _has_as_many(known: Any, state: Any) -> bool:
    return sum(1 for _ in leaves(known)) == sum(1 for _ in leaves(state))


def _unless(withheld: Tensor, known: Any, new: Any) -> Any:
    if new is known:
        return new
    if isinstance(new, History):
        return new.unless(withheld, known)
    if _shape_of(known) != _shape_of(new):
        return known if told(withheld, GROWS) else new
    return where(withheld, known, new)


def _shape_of(number: Scalar) -> tuple[int, ...]:
    return () if is_known(number) else number.shape


def recalled(state: Any) -> Any:
    """Return a state of which the host knows what is a number: it waits for those of a device, one by one."""
    return filled(state, map(_recalled, leaves(state)))


def _recalled(x: Any) -> Any:
    if isinstance(x, History):
        return x if x.has_many or x.rows is None else x.unpack(x.pack())
    return x if not is_known(x) and x.ndim else on_host(x)


def in_memory_of(known: Any, state: Any) -> Any:
    """Return a state in the memory of what was known before: that which the replays of a captured graph read.

    Raises:
        RuntimeError: If it has no place there; nothing is written then.
    """
    if not _has_as_many(known, state):
        refuse_capture(GROWS)
    apart = _over(known, state, _apart)
    places, new = (list(map(_place_of, leaves(x))) for x in (known, apart))
    written = [own for own, other in zip(places, new, strict=True) if isinstance(own, Tensor) and other is not own]
    if any(sum(own is other for other in places) > 1 for own in written):
        refuse_capture("keeps one tensor in two places")
    return _over(known, apart, _written)


def _place_of(x: Any) -> Any:
    return x.rows if isinstance(x, History) else x


def _over(known: Any, state: Any, act: Callable[[Any, Any], Any]) -> Any:
    """Act on all that a state is made of, and what was known of it."""
    return filled(state, starmap(act, zip(leaves(known), leaves(state), strict=True)))


def _apart(known: Any, number: Any) -> Any:
    """Return a number, or many, in memory that is not written meanwhile: what was known may be learned elsewhere."""
    if isinstance(number, History):
        return number.over(known, _apart)
    if is_known(known):
        if not is_known(number) or number != known:
            refuse_capture(COUNTS)
        return number
    if is_known(number) or number is known:
        return number
    if number.shape != known.shape:
        refuse_capture(GROWS)
    return number.clone()


def _written(known: Any, number: Any) -> Any:
    if isinstance(number, History):
        return number.over(known, _written)
    if is_known(known) or number is known:
        return number
    return known.fill_(number) if is_known(number) else known.copy_(number)
