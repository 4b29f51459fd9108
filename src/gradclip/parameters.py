"""What may be passed as `parameters`, as one list of tensors with a name for each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import GeneratorType
from typing import Any, NoReturn, TypeAlias

from torch import Tensor
from torch.__future__ import get_swap_module_params_on_conversion
from torch.nn import Module, Parameter
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from gradclip import callers

Parameters: TypeAlias = (
    Tensor
    | Module
    | Optimizer
    | Iterable[Tensor]
    | Iterable[tuple[str, Tensor]]
    | Iterable[Module]
    | Iterable[Iterable[Tensor]]
    | Iterable[dict[str, Any]]
)
"""A tensor, a module (all its parameters), an optimizer (all its groups), or an iterable of tensors or named pairs; or
a list of modules, of iterables of tensors, or of parameter groups as an optimizer has them."""


SHOWN = 3
"""How many names a message has, where there are more."""

Owners: TypeAlias = tuple[list[Tensor], list[str] | None]
"""Tensors that own gradients, or are gradients, in the order given, and their names; without names, None."""


def flatten(function: str, parameters: Parameters, *, argument: str = "parameters") -> Owners:
    """List the tensors of any accepted input once, so that an iterator serves all later passes.

    Raises:
        TypeError: If the input is a mapping, a string or not iterable, or a pair holds something else than its two.
    """
    if type(parameters) is list and all(isinstance(x, Tensor) for x in parameters):
        return parameters, None  # pyrefly: ignore[bad-return] -- they are tensors
    if isinstance(parameters, Tensor):
        return [parameters], None
    if isinstance(parameters, Module):
        return _from_pairs(function, parameters_of(parameters), argument)
    if isinstance(parameters, Optimizer):
        return _from_pairs(function, named_parameters(parameters), argument)
    if isinstance(parameters, (Mapping, str, bytes)) or not isinstance(parameters, Iterable):
        advice = "its `.values()` or `.items()`" if isinstance(parameters, Mapping) else "`model.parameters()`"
        raise TypeError(
            f"`{function}({argument}=...)` must be a Tensor, an iterable of Tensors or (name, Tensor) pairs, a Module "
            f"or an Optimizer, got {type(parameters).__name__}. Pass {advice}."
        )
    tensors: list[Tensor] = list(parameters)  # type: ignore[arg-type] -- checked where the gradients are read
    if not all(isinstance(x, Tensor) for x in tensors):
        return _from_pairs(function, _pairs_in(tensors, argument), argument)
    if not tensors:
        _warn_if_exhausted(argument, parameters)
    return tensors, None


def named(function: str, parameters: Parameters) -> tuple[list[Tensor], list[str]]:
    """List the tensors of any accepted input, with a name for each.

    Raises:
        TypeError: If something else is among them.
    """
    tensors, names = flatten(function, parameters)
    names = [name_at(names, place) for place in range(len(tensors))]
    check_tensors(function, tensors, names)
    return tensors, names


def check_tensors(function: str, tensors: list[Tensor], names: list[str] | None, argument: str = "parameters") -> None:
    """Check that a list holds tensors alone, as its type promises."""
    for place, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            refuse_element(function, argument, name_at(names, place, argument), x)


def name_at(names: list[str] | None, place: int, argument: str = "parameters") -> str:
    """Return the name of a tensor; where there are none, its place."""
    return names[place] if names else f"{argument}[{place}]"


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern, with the wildcards of a shell or a name as it is, means the parameter of a name."""
    return name == pattern or fnmatchcase(name, pattern)  # brackets are wildcards, and part of `parameters[0]`


WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""What those that wrap a module call it: `torch.compile`, FSDP1, activation checkpointing, and Lightning's Fabric."""


REPLICATED = (DataParallel, DistributedDataParallel)
"""What calls its only part `module`."""


def bare(names: list[str]) -> list[str]:
    """Return names without those of wrappers, and without `module.` where all begin with it, as in `DataParallel`."""
    if not any(wrapper in name for name in names for wrapper in WRAPPERS) and not _are_in_module(names):
        return names
    found = [".".join(part for part in name.split(".") if part not in WRAPPERS) for name in names]
    while _are_in_module(found):
        found = [name.removeprefix("module.") for name in found]
    return found if len(set(found)) == len(set(names)) else names


def _are_in_module(names: list[str]) -> bool:
    return len(names) > 0 and all(name.startswith("module.") for name in names)


def parameters_of(module: Module) -> list[tuple[str, Tensor]]:
    """Return the parameters of a module with its names for them, without the `module` of a part that is replicated."""
    pairs: list[tuple[str, Tensor]] = list(module.named_parameters())
    if any("module" in name.split(".") for name, _ in pairs):
        parts = [f"{name}." if name else "" for name, part in module.named_modules() if isinstance(part, REPLICATED)]
        for outer in reversed(parts):  # one within another first
            inner = f"{outer}module."
            pairs = [(outer + name.removeprefix(inner) if name.startswith(inner) else name, p) for name, p in pairs]
    return pairs


def named_parameters(optimizer: Optimizer) -> list[tuple[str, Tensor]]:
    """Return the parameters of an optimizer with the names it knows, or places like `param_groups[0][3]`."""
    return [pair for g, group in enumerate(optimizer.param_groups) for pair in _named_in(group, f"param_groups[{g}]")]


def groups_of(parameters: Parameters) -> Sequence[Mapping[str, Any]] | None:
    """Return the parameter groups that an optimizer has, or that were passed as such; else None."""
    if isinstance(parameters, Optimizer):
        return parameters.param_groups
    listed: Any = parameters
    is_groups = isinstance(listed, (list, tuple)) and len(listed) > 0 and all(map(_is_group, listed))
    return listed if is_groups else None


def _is_group(given: object) -> bool:
    return isinstance(given, Mapping) and isinstance(given.get("params"), (list, tuple))


def _named_in(group: Mapping[str, Any], name: str) -> list[tuple[str, Tensor]]:
    places = [f"{name}[{i}]" for i in range(len(group["params"]))]
    return list(zip(group.get("param_names", places), group["params"], strict=True))


def _pairs_in(elements: list[Any], argument: str) -> Iterator[object]:
    """Yield what a list holds as named pairs, where each element has one meaning, or as it is."""
    for i, element in enumerate(elements):
        name = f"{argument}[{i}]"
        # Asked one by one, as the compiler of torch 2.6 follows no `match`.
        if isinstance(element, Tensor):
            yield name, element
        elif isinstance(element, (Module, Optimizer)):
            pairs = parameters_of(element) if isinstance(element, Module) else named_parameters(element)
            for own, tensor in pairs:
                yield f"{name}.{own}", tensor
        elif _is_group(element):
            yield from _named_in(element, f"param_groups[{i}]")
        elif _is_named(element) or isinstance(element, (str, bytes, Mapping)) or not isinstance(element, Iterable):
            yield element
        else:
            inner = list(element)
            if not inner:
                _warn_if_exhausted(name, element)
            for j, x in enumerate(inner):
                yield (f"{name}[{j}]", x) if isinstance(x, Tensor) else x


def _from_pairs(function: str, pairs: Iterable[object], argument: str) -> Owners:
    tensors: list[Tensor] = []
    names: list[str] = []
    for i, pair in enumerate(pairs):
        given: Any = pair
        if not _is_named(given) or not isinstance(given[1], Tensor):
            refuse_element(function, argument, f"{argument}[{i}]", pair)
        names.append(given[0])
        tensors.append(given[1])
    return tensors, bare(names)


def _is_named(given: Any) -> bool:
    """Whether something is a pair that begins with a name."""
    return isinstance(given, (tuple, list)) and len(given) == 2 and isinstance(given[0], str)  # noqa: PLR2004


def _warn_if_exhausted(argument: str, given: object) -> None:
    """Warn of an empty iterator, which was walked before perhaps; another empty input is just empty."""
    if isinstance(given, GeneratorType):
        callers.warn(f"`{argument}` is an empty generator, no gradient clipping will occur.")  # torch's own words
    elif isinstance(given, Iterator):
        callers.warn(
            f"`{argument}` is an exhausted {type(given).__name__}, no gradient clipping will occur. "
            "An iterator can be walked once: pass a list, or the module."
        )


def may_be_swapped(parameter: Tensor) -> bool:
    """Whether `model.to(...)` swaps a parameter and its gradient: DTensors and their like, and all where that is set.

    Torch raises then, where anybody refers to one of them weakly.
    """
    return get_swap_module_params_on_conversion() or hasattr(parameter, "__tensor_flatten__")


def some(names: Sequence[str]) -> str:
    """Return the first of names, and a sign that there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def refuse_element(function: str, argument: str, name: str, given: object) -> NoReturn:
    """Raise for an element that is not a tensor."""
    advice = "Pass `itertools.chain(...)` of the parameters of each." if hasattr(given, "__iter__") else ""
    if isinstance(given, Mapping):
        advice = "Make its `params` a list." if "params" in given else "Pass its `.values()` or `.items()`."
    msg = f"`{function}({argument}=...)` must hold Tensors, got {type(given).__name__} at {name}. {advice}".rstrip()
    raise TypeError(msg)


def check_ownership(function: str, tensors: list[Tensor]) -> None:
    """Check that some of these can have gradients: torch returns 0 and clips nothing where gradients are passed."""
    if tensors and not any(x.requires_grad or isinstance(x, Parameter) for x in tensors):
        raise TypeError(
            f"`{function}(parameters=...)` must hold parameters, got tensors that neither have nor can get a gradient. "
            "To work on gradients themselves, call `get_total_norm(gradients)`; to clip them, as those of "
            "`torch.autograd.grad`, multiply each by `clip_coefficient(total_norm, max_norm)`, or pass the parameters "
            "that own them."
        )


def refuse_same_name(function: str, name: str) -> NoReturn:
    """Raise for two parameters of one name, where results go by name."""
    msg = f"`{function}(parameters=...)` must name every parameter differently, got {name!r} twice. Prefix the names."
    raise ValueError(msg)


def refuse_no_parameters(function: str, given: object) -> NoReturn:
    """Raise for an object without a parameter, such as an exhausted iterator."""
    msg = (
        f"`{function}(parameters=...)` must hold at least one parameter, got {type(given).__name__} without any. "
        "An iterator can be walked once: pass the module, or a list."
    )
    raise ValueError(msg)


def refuse_pattern(function: str, pattern: str, names: tuple[str, ...]) -> NoReturn:
    """Raise for a pattern that matches no parameter that is left."""
    msg = (
        f"`{function}` must be given patterns that match a parameter, got {pattern!r}, which matches none but those "
        f"that earlier patterns match, or none at all. The names are {some(names)}."
    )
    raise ValueError(msg)
