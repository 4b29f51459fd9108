"""What is measured: lists of gradient shapes from real models, and the ways to clip them."""

import json
import math
from collections.abc import Callable
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor

import gradclip
from gradclip.ops import registry


class Shapes(NamedTuple):
    """The gradients of one model."""

    name: str
    source: str
    shapes: list[list[int]]

    @property
    def elements(self) -> int:
        """The number of elements of all gradients."""
        return sum(math.prod(shape) for shape in self.shapes)


def load_shapes() -> dict[str, Shapes]:
    """Return all shape lists that ship with the package, by name, the largest first."""
    texts = [path.read_text("utf-8") for path in files("gradclip.cli.bench").joinpath("shapes").iterdir()]
    lists = sorted((Shapes(**json.loads(text)) for text in texts), key=lambda shapes: -shapes.elements)
    return {shapes.name: shapes for shapes in lists}


def gradients(parameters: list[Tensor]) -> list[Tensor]:
    """Return the gradients of parameters that all have one."""
    return [p.grad for p in parameters if p.grad is not None]


class Provider(NamedTuple):
    """One way to clip: takes parameters and a bound, returns the norm; `floor` only reads the gradients."""

    name: str
    clip: Callable[[list[Tensor], float], Tensor | None]


def _reference(parameters: list[Tensor], max_norm: float) -> Tensor:
    with registry.forced("reference"):
        return gradclip.clip_grad_norm_(parameters, max_norm)


def _loop(parameters: list[Tensor], max_norm: float) -> Tensor:
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=False)


def _read(parameters: list[Tensor], max_norm: float) -> None:
    from gradclip.ops import _native  # noqa: PLC0415 -- it is there where this is a provider

    del max_norm
    _native.read(gradients(parameters))


TORCH = Provider("torch", torch.nn.utils.clip_grad_norm_)
NATIVE = Provider("gradclip native", gradclip.clip_grad_norm_)
FLOOR = Provider("plain read", _read)


def providers() -> list[Provider]:
    """Return the ways to clip that this machine has; torch's default path comes first."""
    native = [NATIVE, FLOOR] if registry.native() is not None else []
    return [TORCH, Provider("torch foreach=False", _loop), *native, Provider("gradclip reference", _reference)]
