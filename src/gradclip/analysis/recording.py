"""Recorded norms in the forms that people have them in, as what a policy sees of a step."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NoReturn, SupportsFloat, TypeAlias, cast

import torch
from torch import Tensor

from gradclip.policies.layout import Layout
from gradclip.policies.measured import Norms

Recording: TypeAlias = Tensor | Sequence[float] | Sequence[Tensor] | Sequence[Mapping[str, float]]
"""Total norms, step by step; or the norm of each parameter: a mapping a step, or a tensor of shape (steps, P)."""

ALONE = ("parameters[0]",)
"""The names of a model that only a total norm is known of: as of one parameter without a name."""


def read(
    norms: Recording, names: Sequence[str] | None, losses: Iterable[float | None] | None, order: float, *, each: bool
) -> tuple[Layout, Iterator[Norms]]:
    """Return the layout that norms belong to and the norms of each step, of each parameter where asked for."""
    steps = _listed(norms)
    kinds = {Mapping if isinstance(step, Mapping) else list if isinstance(step, list) else float for step in steps}
    if len(kinds) > 1:
        _refuse("norms", "hold steps of one kind", "several", "Pass total norms, or mappings, for all steps.")
    if names is not None and kinds != {list}:
        _refuse("names", "be given with norms of shape (steps, parameters)", "other norms", "Leave it out.")
    listed = repeat(None, len(steps)) if losses is None else _losses(losses, len(steps))
    if kinds <= {float}:
        layout = layout_of(ALONE)
        numbers = [_norm(norm, step) for step, norm in enumerate(steps)]
        return layout, totals(numbers, layout, order, losses=listed, each=each)
    if kinds == {Mapping}:
        layout = layout_of(tuple(dict.fromkeys(name for step in steps for name in step)))
        rows, present = _from_mappings(steps, layout)
    else:
        rows, present = _from_rows(steps), [None] * len(steps)
        layout = layout_of(_named(names, rows.shape[1]))
    empty = Norms(layout, order, math.nan)
    whole = (
        empty._replace(present=places, loss=loss).with_each(row)
        for row, places, loss in zip(rows, present, listed, strict=True)
    )
    return layout, whole if each else (norms._replace(each=None, present=None) for norms in whole)


def totals(
    norms: Iterable[float], layout: Layout, order: float, *, losses: Iterable[float | None] = repeat(None), each: bool
) -> Iterator[Norms]:
    """Return the norms of steps of a model with one parameter."""
    for norm, loss in zip(norms, losses, strict=False):
        whole = Norms(layout, order, norm, loss=loss)
        yield whole.with_each(torch.tensor([norm], dtype=torch.float64)) if each else whole


def layout_of(names: tuple[str, ...]) -> Layout:
    """Return the layout of parameters of which nothing but their names is known.

    Their numbers of elements are NaN, which makes NaN of the coefficients that depend on them.
    """
    unknown = cast("tuple[int, ...]", (math.nan,) * len(names))
    return Layout(names, numels=unknown, units=(1,) * len(names))


def _named(names: Sequence[str] | None, columns: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"parameters[{i}]" for i in range(columns))
    if len(names) != columns or len(set(names)) != columns:
        _refuse("names", f"hold {columns} different names", repr(names), "Name each column of the norms.")
    return tuple(names)


def _listed(norms: object) -> list[Any]:
    listed = norms.tolist() if hasattr(norms, "tolist") else norms  # a tensor, or what numpy and pandas make
    if isinstance(listed, (str, bytes, Mapping)) or not isinstance(listed, Iterable):
        given = type(norms).__name__
        _refuse("norms", "be a sequence of norms", given, "Pass one norm, or one mapping of norms, for each step.")
    return [step.tolist() if hasattr(step, "tolist") else step for step in listed]


def _losses(losses: Iterable[float | None], steps: int) -> list[float | None]:
    listed = list(losses)
    if len(listed) != steps:
        advice = "Write None where there was none."
        _refuse("losses", f"hold one loss for each of {steps} steps", str(len(listed)), advice)
    return [None if loss is None else _number(loss, step, "losses") for step, loss in enumerate(listed)]


def _from_mappings(steps: list[Any], layout: Layout) -> tuple[Tensor, list[list[int] | None]]:
    places = {name: place for place, name in enumerate(layout.names)}
    rows = torch.full((len(steps), len(places)), math.nan, dtype=torch.float64)
    present: list[list[int] | None] = []
    for step, (row, found) in enumerate(zip(rows, steps, strict=True)):
        found_at = [places[name] for name in found]
        row[found_at] = torch.tensor([_norm(x, step) for x in found.values()], dtype=torch.float64)
        present.append(None if len(found_at) == len(places) else sorted(found_at))
    return rows, present


def _from_rows(steps: list[Any]) -> Tensor:
    rows = [[_norm(x, step) for x in row] for step, row in enumerate(steps)]
    if any(len(row) != len(rows[0]) for row in rows):
        _refuse("norms", "have rows of one length", "several", "Pass mappings where gradients are missing.")
    return torch.tensor(rows, dtype=torch.float64)


def _norm(value: object, step: int) -> float:
    number = _number(value, step, "norms")
    if number < 0.0:
        _refuse("norms", "be >= 0", f"{value!r} at step {step}", "Pass norms, not their logarithms.")
    return number


def _number(value: object, step: int, argument: str) -> float:
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        _refuse(
            argument, "hold numbers", f"{value!r} at step {step}", "Steps are alike; a column of text is read first."
        )
    return float(cast("SupportsFloat", value))


def _refuse(argument: str, requirement: str, given: str, advice: str) -> NoReturn:
    msg = f"`replay({argument}=...)` must {requirement}, got {given}. {advice}"
    raise ValueError(msg)
