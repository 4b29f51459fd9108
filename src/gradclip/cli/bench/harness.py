"""How it is measured, here and in `benchmarks/`: all calls in every round, in turn, with caches emptied in between."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from gradclip.cli.bench.cases import FLOOR, TORCH, Provider, Shapes, gradients

CACHE_BYTES = 64 * 2**20
"""Twice the last-level cache of a large core complex: touched before every call, as a backward pass would."""

TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 2e-2}
"""Relative error that a provider's norm may have before its time means nothing; torch's own sums need this much."""


class Timing(NamedTuple):
    """The times of one provider in one case, in microseconds."""

    shapes: str
    dtype: str
    clipping: bool
    provider: str
    median_us: float
    p20_us: float
    p80_us: float
    ratio_to_torch: float
    percent_of_read: float | None


class WrongAnswerError(Exception):
    """A provider that is to be timed returns a wrong norm, or gradients that are not clipped."""


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 0.0,
    rounds: int = 5,
    before: Callable[[str], object] = lambda _: None,
    after: Callable[[str], object] = lambda _: None,
) -> dict[str, list[float]]:
    """Return the times of calls by their names, in microseconds, one of each a round.

    Args:
        calls: What is timed.
        seconds: How long all rounds take, about.
        rounds: How many there are at least.
        before: What comes before the call of a name, and is not timed.
        after: What comes after it.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name in in_turn(calls, seconds=seconds, rounds=rounds):
        before(name)
        start = time.perf_counter_ns()
        calls[name]()
        times[name].append((time.perf_counter_ns() - start) / 1e3)
        after(name)
    return times


def in_turn(names: Iterable[str], *, seconds: float = 0.0, rounds: int = 5) -> Iterator[str]:
    """Return names again and again: each once a round, in an order that rotates: nobody always follows the same."""
    order = list(names)
    end, turn = time.perf_counter() + seconds, 0
    while turn < rounds or time.perf_counter() < end:
        shift = turn % len(order)
        yield from order[shift:] + order[:shift]
        turn += 1


def emptier() -> Callable[[], object]:
    """Return what empties the caches of the CPU, as a backward pass would: it reads and writes 64 MiB."""
    cache = torch.zeros(CACHE_BYTES // 4)
    return lambda: cache.add_(1.0)


def measure(
    shapes: Shapes,
    dtype: torch.dtype,
    providers: list[Provider],
    *,
    clipping: bool,
    seconds: float,
) -> list[Timing]:
    """Time all providers on one model's gradients for about `seconds`, at least five rounds.

    Raises:
        WrongAnswerError: If a provider's answer is wrong.
    """
    parameters: list[Tensor] = [torch.nn.Parameter(torch.empty(shape, dtype=dtype)) for shape in shapes.shapes]
    originals = [torch.randn(parameter.shape, dtype=dtype) for parameter in parameters]
    for parameter, original in zip(parameters, originals, strict=True):
        parameter.grad = original.clone()

    def restore() -> None:
        for gradient, original in zip(gradients(parameters), originals, strict=True):
            gradient.copy_(original)

    norm = exact_norm(originals)
    for provider in providers:
        check(provider, parameters, norm, TOLERANCE[dtype])
        restore()
    max_norm = norm / 2 if clipping else norm * 2
    clear = emptier()

    def before(_: str) -> None:
        if clipping:
            restore()
        clear()

    calls = {provider.name: partial(provider.clip, parameters, max_norm) for provider in providers}
    times = interleaved(calls, seconds=seconds, before=before)
    return [_timing(shapes, dtype, provider.name, times, clipping=clipping) for provider in providers]


def check(provider: Provider, parameters: list[Tensor], norm: float, tolerance: float) -> None:
    """Raise unless a provider returns the right norm and clips to half of it."""
    if provider is FLOOR:
        return
    answer = provider.clip(parameters, norm / 2)
    after = exact_norm(gradients(parameters))
    error = max(abs(float(answer) / norm - 1), abs(2 * after / norm - 1)) if answer is not None else math.inf
    if not error <= tolerance:
        msg = f"{provider.name} is wrong by {error:.1e}: norm {norm:.6g}, answer {answer}, after clipping {after:.6g}"
        raise WrongAnswerError(msg)


def exact_norm(tensors: list[Tensor]) -> float:
    """Return the norm in float64, by operations that no provider uses."""
    return math.sqrt(math.fsum(float(x.to(torch.float64).square().sum()) for x in tensors))


def _timing(shapes: Shapes, dtype: torch.dtype, name: str, times: dict[str, list[float]], *, clipping: bool) -> Timing:
    quantiles = {
        key: torch.tensor(value).quantile(torch.tensor([0.2, 0.5, 0.8])).tolist() for key, value in times.items()
    }
    p20, median, p80 = quantiles[name]
    floor = quantiles.get(FLOOR.name)
    return Timing(
        shapes=shapes.name,
        dtype=str(dtype).removeprefix("torch."),
        clipping=clipping,
        provider=name,
        median_us=median,
        p20_us=p20,
        p80_us=p80,
        ratio_to_torch=quantiles[TORCH.name][1] / median,
        percent_of_read=None if floor is None else 100 * floor[1] / median,
    )
