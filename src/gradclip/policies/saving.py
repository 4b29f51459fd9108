"""The state of a policy as plain data, and back: numbers, and numbers by the names of parameters."""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from gradclip.numbers import CPU
from gradclip.policies.history import History
from gradclip.policies.holds import ANY, NUMBER, Within, ranges_of
from gradclip.policies.layout import Layout, Part
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
