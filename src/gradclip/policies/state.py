"""The state of a policy as plain data, and back: numbers, and numbers by the names of parameters."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import starmap
from typing import Any, NoReturn

import torch
from torch import Tensor

from gradclip.numbers import CPU, Condition, Scalar, is_known, on_host, where
from gradclip.policies.history import COUNTS, GROWS, History, refuse_capture, told
from gradclip.policies.holds import ANY, NUMBER, Within, ranges_of
from gradclip.policies.measured import Layout, Part
from gradclip.sending import sent


def pack(state: Any, layout: Layout) -> Any:
    """Return a state as dicts, lists and numbers, which JSON and `torch.load(weights_only=True)` take.

    What is true is 1.0. A vector of one number a parameter becomes a dict by name, so that it survives another order of
    the parameters; one of a number a unit, a dict of lists.
    """
    match state:
        case Part():
            return pack(state.state, state.subset.layout)
        case History():
            columns = state.pack()
            return dict(zip(layout.names, columns, strict=True)) if len(columns) > 1 else columns
        case Tensor() if state.dtype == torch.bool:
            return pack(state.to(torch.float64), layout)
        case Tensor() if state.ndim == 0:
            return state.item()
        case Tensor():
            if len(state) == len(layout.names):
                return dict(zip(layout.names, state.tolist(), strict=True))
            rows = state.to(CPU).split(layout.units)
            return {name: own.tolist() for name, own in zip(layout.names, rows, strict=True)}
        case tuple():
            return {key: pack(value, layout) for key, value in _items(state)}
        case bool() | float():  # a float of NumPy, too
            return float(state)
        case _:
            return state


def check_state(policy: object, state: Any, layout: Layout) -> None:
    """Check that what a policy learns can be saved and loaded, before it has learned anything.

    Raises:
        TypeError: If it is made of something else than numbers, tensors of these, histories and tuples.
    """
    match state:
        case Part():
            check_state(policy, state.state, state.subset.layout)
        case Tensor() if state.ndim == 0 or tuple(state.shape) in {(len(layout.names),), (sum(layout.units),)}:
            pass
        case tuple():
            for value in state:
                check_state(policy, value, layout)
        case History() | int() | float() if not isinstance(state, bool):
            pass
        case _:
            shape = f" of shape {tuple(state.shape)}" if isinstance(state, Tensor) else ""
            msg = (
                f"`{type(policy).__name__}.init` must return numbers, tensors of one number for each parameter or "
                f"unit, histories, and tuples of these, so that they can be saved; got {state!r:.60} "
                f"({type(state).__name__}{shape}). Where there is nothing to learn, return `()`; for a truth value, "
                "0.0 or 1.0."
            )
            raise TypeError(msg)


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


def going_on(fresh: Any, layout: Layout, known: Any, before: Layout) -> Any:
    """Return a fresh state with what is known of those of its parameters that were there, and have as many units."""
    match fresh:
        case Part():
            return fresh._replace(state=going_on(fresh.state, fresh.subset.layout, known.state, known.subset.layout))
        case tuple():
            old = dict(_items(known))
            found = [going_on(x, layout, old[key], before) if key in old else x for key, x in _items(fresh)]
            return type(fresh)(*found) if hasattr(fresh, "_fields") else tuple(found)
    own, old = pack(fresh, layout), pack(known, before)
    if isinstance(fresh, History):
        old = _histories(own, layout, old, before)
    elif isinstance(own, dict):
        found = old if isinstance(old, dict) else {}
        old = {name: _or_anew(found[name], x) if name in found else x for name, x in own.items()}
    elif isinstance(old, (dict, list)):  # which was of many
        old = own
    return unpack(fresh, old, layout, holds=ANY)


def _histories(own: Any, layout: Layout, old: Any, before: Layout) -> Any:
    """Return what histories remembered; one that is alone is listed without its name."""
    if isinstance(own, list) and isinstance(old, list):
        return old if len(own) == len(old) else own
    found = old if isinstance(old, dict) else dict(zip(before.names, old, strict=False))
    if isinstance(own, dict):
        return {name: found.get(name, x) for name, x in own.items()}
    return [found.get(name, x) for name, x in zip(layout.names, own, strict=True)]


def _or_anew(known: Any, fresh: Any) -> Any:
    """Return what was known of one parameter, or where that is of more or fewer units, what begins anew."""
    if not isinstance(fresh, list):
        return known if not isinstance(known, list) else known[0] if len(known) == 1 else fresh
    known = known if isinstance(known, list) else [known]
    return known if len(fresh) == len(known) else fresh


def unpack(template: Any, packed: Any, layout: Layout, path: str = "policy", holds: Within = NUMBER) -> Any:
    """Return the state that was packed, in the form of a template that `init` made.

    Args:
        template: The state before the first step.
        packed: What was packed, or anything else.
        layout: The parameters.
        path: Where in the state this is, for messages.
        holds: What its numbers may be, where the template does not say.

    Raises:
        ValueError: If the names differ, of parameters or of what the policy learns, or a number is out of range.
    """
    match template:
        case Part():
            return template._replace(state=unpack(template.state, packed, template.subset.layout, path))
        case History():
            one = len(template.columns) == 1 and isinstance(packed, list)  # that of the total norm
            columns = packed if one else _in_order(packed, layout, path)
            if len(columns) != len(template.columns):
                refuse_state(path, layout.names if len(template.columns) > 1 else ["one history"], packed)
            paths = [path] if one else [f"{path}[{name!r}]" for name in layout.names]
            pairs = zip(paths, columns, strict=True)
            within = holds if holds is ANY else template.holds
            return template.unpack([_numbers(at, column, within) for at, column in pairs])
        case Tensor() if template.ndim:
            named = list(zip(layout.names, _in_order(packed, layout, path), strict=True))
            if len(template) == len(layout.names):
                numbers = [_number(f"{path}[{name!r}]", x, holds) for name, x in named]
            else:
                rows = [_numbers(f"{path}[{name!r}]", x, holds) for name, x in named]
                if [len(row) for row in rows] != list(layout.units):
                    refuse_number(path, f"lists of {layout.units} numbers", packed)
                numbers = [x for row in rows for x in row]
            return sent(numbers, template.device, template.dtype)
        case tuple():
            expected = dict(_items(template))
            if not isinstance(packed, Mapping) or set(packed) != set(expected):
                refuse_state(path, expected, packed)
            ranges = dict(zip(expected, ranges_of(template), strict=True))
            values = [unpack(x, packed[key], layout, f"{path}.{key}", ranges[key]) for key, x in expected.items()]
            return type(template)(*values) if hasattr(template, "_fields") else tuple(values)
        case _:
            return _number(path, packed, holds)


def _numbers(path: str, packed: object, holds: Within) -> list[float]:
    if not isinstance(packed, list):
        refuse_number(path, "a list of numbers", packed)
    return [_number(path, x, holds) for x in packed]


def _number(path: str, packed: object, holds: Within) -> float:
    return float(packed) if holds.holds(packed) else refuse_number(path, str(holds), packed)


def _items(state: tuple[Any, ...]) -> list[tuple[str, Any]]:
    """Name the entries of a tuple: by its fields, by the names of parts, or by their places."""
    fields = getattr(state, "_fields", None)
    if fields is None:
        fields = [part.name if isinstance(part, Part) else str(i) for i, part in enumerate(state)]
    return list(zip(fields, state, strict=True))


def _in_order(packed: Any, layout: Layout, path: str) -> list[Any]:
    if not isinstance(packed, Mapping) or set(packed) != set(layout.names):
        refuse_state(path, layout.names, packed)
    return [packed[name] for name in layout.names]


def refuse_number(path: str, expected: str, given: object) -> NoReturn:
    """Raise for a saved state with an entry that no run has left."""
    msg = (
        f"`load_state_dict(state_dict=...)` must have {expected} at {path}, got {given!r:.60}. No run leaves this: "
        "load an earlier state, or begin anew without one."
    )
    raise ValueError(msg)


def refuse_state(path: str, expected: Iterable[str], given: object) -> NoReturn:
    """Raise for a saved state that belongs to other parameters or another policy."""
    wanted, found = set(expected), set(given) if isinstance(given, Mapping) else {type(given).__name__}
    missing = ", ".join(sorted(wanted - found)[:3]) or "nothing"
    unknown = ", ".join(sorted(map(str, found - wanted))[:3]) or "nothing else"
    msg = (
        f"`load_state_dict(state_dict=...)` must come from a clipper of the same parameters and policy, got a "
        f"state that at {path} lacks {missing} and holds {unknown}. Make the clipper as for the run that saved it."
    )
    raise ValueError(msg)
