"""The state of a policy as plain data, and back: numbers, and numbers by the names of parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradclip.policies.history import History
from gradclip.policies.measured import Layout
from gradclip.policies.partition import Part
from gradclip.validation import refuse_state


def pack(state: Any, layout: Layout) -> Any:
    """Return a state as dicts, lists and numbers, which JSON and `torch.load(weights_only=True)` take.

    A vector of one number a parameter becomes a dict by name, so that it survives another order of the parameters.
    """
    match state:
        case Part():
            return pack(state.state, state.layout)
        case History():
            columns = state.pack()
            return dict(zip(layout.names, columns, strict=True)) if len(columns) > 1 else columns
        case Tensor():
            return state.item() if state.ndim == 0 else dict(zip(layout.names, state.tolist(), strict=True))
        case tuple():
            return {key: pack(value, layout) for key, value in _items(state)}
        case _:
            return state


def unpack(template: Any, packed: Any, layout: Layout, path: str = "policy") -> Any:
    """Return the state that was packed, in the form of a template that `init` made.

    Raises:
        ValueError: If the names differ, of parameters or of what the policy learns.
    """
    if isinstance(template, (History, Tensor)) and not _holds_numbers(packed):
        refuse_state(path, ["numbers"], packed)
    match template:
        case Part():
            return template._replace(state=unpack(template.state, packed, template.layout, path))
        case History():
            one = isinstance(packed, list) and len(packed) == 1  # that of the total norm
            columns = packed if one else _in_order(packed, layout, path)
            if len(columns) != len(template.columns):
                refuse_state(path, layout.names if len(template.columns) > 1 else ["one history"], packed)
            return History.unpack(template.window, columns)
        case Tensor() if template.ndim:
            return torch.tensor(_in_order(packed, layout, path), dtype=template.dtype, device=template.device)
        case tuple():
            expected = dict(_items(template))
            if not isinstance(packed, Mapping) or set(packed) != set(expected):
                refuse_state(path, expected, packed)
            values = [unpack(value, packed[key], layout, f"{path}.{key}") for key, value in expected.items()]
            return type(template)(*values) if hasattr(template, "_fields") else tuple(values)
        case _:
            if not isinstance(packed, (int, float)):
                refuse_state(path, ["a number"], packed)
            return float(packed)


def _holds_numbers(packed: Any) -> bool:
    """Whether a number, or a list or a dict of such, holds nothing else."""
    if isinstance(packed, (list, Mapping)):
        return all(map(_holds_numbers, packed.values() if isinstance(packed, Mapping) else packed))
    return isinstance(packed, (int, float)) and not isinstance(packed, bool)


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
