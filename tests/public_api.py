"""The public names of gradclip and their signatures, a module a section: `make api` writes them to `public_api.txt`.

Every version of Python writes them alike: types by their names alone, and of enumerations and exceptions only what this
package says of them.
"""

import enum
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from gradclip.parameters import Parameters

LIST = Path(__file__).with_name("public_api.txt")

OURS = {"builtins", "gradclip"}
"""Where the bases of a class are said: those of frameworks depend on which are installed."""

MODULES = (
    "gradclip",
    "gradclip.analysis",
    "gradclip.distributed",
    "gradclip.integrations.accelerate",
    "gradclip.integrations.lightning",
    "gradclip.integrations.transformers",
    "gradclip.numbers",
    "gradclip.policies",
    "gradclip.records",
    "gradclip.testing",
)


def section(name: str) -> str:
    """Return the public names of a module: those in its `__all__`, else those it makes itself."""
    module = importlib.import_module(name)
    own = [x for x, value in vars(module).items() if getattr(value, "__module__", None) == name and x[0] != "_"]
    lines = [line for x in sorted(getattr(module, "__all__", own)) for line in _lines(x, getattr(module, x))]
    return "\n".join([f"[{name}]", *lines, ""])


def recorded(name: str) -> str:
    """Return what the list says of a module."""
    sections = {x.partition("]")[0][1:]: x for x in LIST.read_text("utf-8").split("\n\n")}
    return sections.get(name, "").rstrip("\n") + "\n"


def _lines(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, types.FunctionType):
        yield name + _signature(value)
    elif isinstance(value, type) and get_origin(value) is None:
        yield from _class(name, value)
    else:
        yield f"{name}: module" if isinstance(value, types.ModuleType) else f"{name} = {_Words(value)}"


def _class(name: str, kind: type) -> Iterator[str]:
    ours = [x for x in kind.__mro__ if x.__module__.startswith("gradclip.")]
    is_made_by_us = any({"__init__", "_fields"} & set(vars(x)) for x in ours)
    bases = ", ".join(x.__name__ for x in kind.__bases__ if x is not object and x.__module__.partition(".")[0] in OURS)
    yield f"class {name}{_signature(kind) if is_made_by_us else ''}{f' is {bases}' if bases else ''}"
    if issubclass(kind, enum.Enum):
        yield from (f"  {x.name} = {x.value!r}" for x in kind)
        return
    for member in sorted({x for base in ours for x in vars(base) if x[0] != "_"}):
        value = getattr(kind, member, None)
        yield f"  {member}{_signature(value) if callable(value) else ''}"


def _signature(made: Any) -> str:
    signature = inspect.signature(made)
    parameters = [
        x.replace(
            annotation=x.annotation if x.annotation is x.empty else _Words(x.annotation),
            default=x.default if x.default is x.empty else _Words(x.default),
        )
        for x in signature.parameters.values()
    ]
    has_answer = not isinstance(made, type) and signature.return_annotation is not inspect.Signature.empty
    answer = _Words(signature.return_annotation) if has_answer else inspect.Signature.empty
    return str(signature.replace(parameters=parameters, return_annotation=answer))


def _short(x: Any) -> str:
    """Return a type or a default without the modules of its names, and a union as it is written."""
    if get_origin(x) in {Union, types.UnionType}:
        return " | ".join("None" if kind is types.NoneType else _short(kind) for kind in get_args(x))
    is_named = isinstance(x, (type, types.FunctionType)) and get_origin(x) is None
    return re.sub(r"\b([A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", x.__name__ if is_named else repr(x))


PARAMETERS = _short(Parameters)


class _Words:
    """What a signature prints as it is."""

    def __init__(self, x: Any) -> None:
        self.words = _short(x).replace(PARAMETERS, "Parameters")

    def __repr__(self) -> str:
        return self.words


if __name__ == "__main__":
    LIST.write_text("\n".join(map(section, MODULES)), "utf-8")
