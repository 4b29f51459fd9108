"""What all integrations do alike."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, final

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from gradclip.clipper import GradClipper
from gradclip.clipper.arguments import unwrapped
from gradclip.parameters import Parameters, named_parameters, parameters_of
from gradclip.policies import FixedNorm, Policy
from gradclip.records import ClipRecord, Memory, Sink


def policy_of(function: str, policy: Policy | float | None, inherited: float | None) -> Policy:
    """Return a policy: as it is, of a bound, or of the bound that the framework would have clipped at.

    Raises:
        TypeError: If it is something else.
        ValueError: If there is neither a policy nor a bound.
    """
    if isinstance(policy, Policy):
        return policy
    bound = inherited if policy is None else policy
    if not bound:
        msg = f"`{function}(policy=...)` must be a policy or a bound, as the framework has none. Pass for instance 1.0."
        raise ValueError(msg)
    if isinstance(bound, bool) or not isinstance(bound, (int, float)):
        msg = f"`{function}(policy=...)` must be a policy or a number, got {type(bound).__name__}."
        raise TypeError(msg)
    return FixedNorm(float(bound))


def clipper_of(
    model: Module | None, optimizer: Any, policy: Policy, sinks: Sequence[Sink], options: dict[str, Any]
) -> GradClipper:
    """Return a clipper of what an optimizer updates, now and later, by the names that the model has for it."""

    def named(own: Optimizer) -> Parameters:
        names = {} if model is None else {id(p): name for name, p in parameters_of(model)}
        places = iter(named_parameters(own))
        return [
            {"params": group["params"], "param_names": [names.get(id(p), next(places)[0]) for p in group["params"]]}
            for group in own.param_groups
        ]

    inner = unwrapped(optimizer)
    clipper = GradClipper(named(inner), policy, sinks=sinks, **options)
    clipper._take_from(inner, named)
    return clipper


def refuse_twice(function: str, clippers: Sequence[GradClipper], parameters: Iterable[Tensor]) -> None:
    """Raise where a framework is to clip what a clipper clips."""
    if any(clipper._attachments and clipper._trust.covers(p) for p in parameters for clipper in clippers):
        raise RuntimeError(
            f"`{function}` was called, and gradclip clips these parameters before every step. Remove the call; "
            "`clipper.last.total_norm` is the norm before clipping."
        )


_LOGGED: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()
"""How many clippers have their numbers go to the loggers of an engine."""


@final
class Logging:
    """A sink that has an engine log the numbers of records, those of each clipper but the first by another name.

    Args:
        engine: The engine.
        log: Logs numbers by name, of a step.
    """

    def __init__(self, engine: Any, log: Callable[[dict[str, float], int], object]) -> None:
        place = _LOGGED.get(engine, 0)
        _LOGGED[engine] = place + 1
        self._prefix = f"optimizer{place}/" if place else ""
        self._log = log

    def __call__(self, record: ClipRecord) -> None:
        """Log a record."""
        self._log({f"{self._prefix}{name}": number for name, number in record.metrics().items()}, record.step)


@final
class OfOptimizer:
    """A sink whose records say which of several optimizers they are of, as their steps are counted alike.

    Args:
        name: What their `group` is.
        sink: What takes them then.
    """

    def __init__(self, name: str, sink: Sink) -> None:
        self._name = name
        self._sink = sink

    def __call__(self, record: ClipRecord) -> None:
        """Take a record."""
        self._sink(replace(record, group=self._name))

    def __repr__(self) -> str:
        return repr(self._sink)


def metrics_of(clipper: GradClipper, memory: Memory) -> dict[str, float]:
    """Return what to log of the last clip, for which this waits: nothing before the first."""
    clipper._sinks.flush()  # or it would be of a step before, where numbers are on a device
    return memory.records[-1].metrics() if memory.records else {}
