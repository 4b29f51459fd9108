"""What may be passed as `parameters`, as one list of tensors with a name for each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from gradclip import callers, validation

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
        return _from_pairs(function, parameters.named_parameters(), argument)
    if isinstance(parameters, Optimizer):
        return _from_pairs(function, named_parameters(parameters), argument)
    if isinstance(parameters, (Mapping, str, bytes)) or not isinstance(parameters, Iterable):
        validation.refuse_parameters(function, argument, parameters)
    tensors: list[Tensor] = list(parameters)  # type: ignore[arg-type] -- checked where the gradients are read
    if not all(isinstance(x, Tensor) for x in tensors):
        return _from_pairs(function, _pairs_in(tensors, argument), argument)
    if not tensors and (warning := validation.warn_if_exhausted(argument, parameters)):
        callers.warn(warning)
    return tensors, None


def named(function: str, parameters: Parameters) -> tuple[list[Tensor], list[str]]:
    """List the tensors of any accepted input, with a name for each.

    Raises:
        TypeError: If something else is among them.
    """
    tensors, names = flatten(function, parameters)
    names = [name_at(names, place) for place in range(len(tensors))]
    for name, tensor in zip(names, tensors, strict=True):
        if not isinstance(tensor, Tensor):
            validation.refuse_element(function, "parameters", name, tensor)
    return tensors, names


def name_at(names: list[str] | None, place: int, argument: str = "parameters") -> str:
    """Return the name of a tensor; where there are none, its place."""
    return names[place] if names else f"{argument}[{place}]"


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern, with the wildcards of a shell or a name as it is, means the parameter of a name."""
    return name == pattern or fnmatchcase(name, pattern)  # brackets are wildcards, and part of `parameters[0]`


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
        match element:
            case (str(), _) | str() | bytes():
                yield element
            case Tensor():
                yield name, element
            case Module() | Optimizer():
                pairs = element.named_parameters() if isinstance(element, Module) else named_parameters(element)
                yield from ((f"{name}.{own}", tensor) for own, tensor in pairs)
            case Mapping() if _is_group(element):
                yield from _named_in(element, f"param_groups[{i}]")
            case Iterable() if not isinstance(element, Mapping):
                inner = list(element)
                if not inner and (warning := validation.warn_if_exhausted(name, element)):
                    callers.warn(warning)
                for j, x in enumerate(inner):
                    is_pair = isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str)  # noqa: PLR2004
                    yield x if is_pair or not isinstance(x, Tensor) else (f"{name}[{j}]", x)
            case _:
                yield element


def _from_pairs(function: str, pairs: Iterable[object], argument: str) -> Owners:
    tensors: list[Tensor] = []
    names: list[str] = []
    for i, pair in enumerate(pairs):
        match pair:
            case (str() as name, Tensor() as tensor):
                tensors.append(tensor)
                names.append(name)
            case _:
                validation.refuse_element(function, argument, f"{argument}[{i}]", pair)
    return tensors, names
