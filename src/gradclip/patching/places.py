"""Where torch's functions are held, by whatever name, and what holds them where no name can be exchanged."""

import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CellType, ModuleType
from typing import Any, NamedTuple, TypeAlias

from torch.nn import utils
from torch.nn.utils import clip_grad

NAMES = ("clip_grad_norm_", "clip_grad_norm", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm")
"""The functions of `torch.nn.utils` that have one of the same name here."""

CLIPPING = ("clip_grad_norm_", "clip_grad_norm", "clip_grads_with_norm_", "clip_grad_value_")
"""Those that clippers have a part in, where there are any: torch's, and ours."""

HOME = (utils, clip_grad)

Function: TypeAlias = Callable[..., Any]


class Place(NamedTuple):
    """A name in a module, or in a class."""

    owner: ModuleType | type
    name: str

    def __str__(self) -> str:
        return f"{self.owner.__name__}.{self.name}"


OWN = {clip_grad.__name__, "typing_extensions", "warnings", "_py_warnings", "gradclip.patching.replacement"}
"""The modules of torch's functions: their own, what marks one as deprecated, and that of a patch which holds."""


def fsdp1() -> type | None:
    """Return the class of FSDP1's models, of which `clip_grad_norm_` is a method, if a script has imported it."""
    return getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)


def originals() -> dict[str, Function]:
    """Return torch's functions by name, those that this version of it has; not what others have put in their place."""
    found: list[tuple[str, Any]] = [
        (name, vars(home).get(own)) for name in NAMES for home in HOME for own in (name, f"_{name}")
    ]
    return {name: x for name, x in reversed(found) if getattr(x, "__globals__", {}).get("__name__") in OWN}


def ours() -> dict[str, Function]:
    """Return those of this package that clip, as it has them: another patch may have replaced them."""
    package = sys.modules["gradclip"]
    return {name: getattr(package, name) for name in CLIPPING}


def places_of(functions: Iterable[Function]) -> list[tuple[Place, Function]]:
    """Return the names by which modules have functions: torch's own first, then those of whoever imported them.

    And the class of FSDP1, where it is imported, whose method is among them.
    """
    wanted = {id(function) for function in functions}
    modules = {id(module): module for module in (*HOME, *sys.modules.values()) if isinstance(module, ModuleType)}
    classes = [kind] if (kind := fsdp1()) is not None else []
    return [
        (Place(owner, name), value)
        for owner in (*modules.values(), *classes)
        if not owner.__name__.startswith("gradclip.")
        for name, value in list(vars(owner).items())
        if id(value) in wanted
    ]


def holders_of(functions: dict[str, Function]) -> Iterator[str]:
    """Say what else holds functions, but for this dictionary: whatever calls them by that goes on to call torch's."""
    modules = {id(vars(module)) for module in list(sys.modules.values()) if isinstance(module, ModuleType)}
    holders = [x for x in gc.get_referrers(*functions.values()) if id(x) not in modules and x is not functions]
    # Once for all holders, since it looks at every object that there is.
    owners = gc.get_referrers(*[x for x in holders if isinstance(x, (tuple, dict))])
    for holder in holders:
        if isinstance(holder, CellType):
            yield "a closure"
        elif isinstance(holder, tuple):
            if any(getattr(x, "__defaults__", None) is holder for x in owners):
                yield "a default argument"
        elif isinstance(holder, staticmethod):
            yield "an attribute of a class"
        elif isinstance(holder, dict):
            if any(isinstance(x, type) and _is_of(x, holder) for x in owners):
                yield "an attribute of a class"
                continue
            owner = next((x for x in owners if getattr(x, "__dict__", None) is holder), None)
            if owner is not None and all(owner is not function for function in functions.values()):
                yield f"an attribute of {getattr(owner, '__name__', type(owner).__name__)}"
        elif hasattr(holder, "func"):
            yield f"a {type(holder).__name__}"


def _is_of(kind: type, attributes: dict[Any, Any]) -> bool:
    """Whether a class has these attributes, of which it shows a proxy alone."""
    shown = vars(kind)
    return len(shown) == len(attributes) and all(attributes.get(name) is value for name, value in shown.items())
