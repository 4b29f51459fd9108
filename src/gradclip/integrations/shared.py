"""What all integrations do alike."""

from collections.abc import Callable, Sequence
from typing import Any, final

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from gradclip.clipper import GradClipper
from gradclip.clipper.arguments import unwrapped
from gradclip.parameters import Parameters
from gradclip.policies import FixedNorm, Policy
from gradclip.records import ClipRecord, Sink


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
        owned = {id(p) for group in own.param_groups for p in group["params"]}
        known = iter(()) if model is None else model.named_parameters()
        pairs = [(name, p) for name, p in known if id(p) in owned]
        return pairs if len(pairs) == len(owned) else own

    inner = unwrapped(optimizer)
    clipper = GradClipper(named(inner), policy, sinks=sinks, **options)
    clipper._take_from(inner, named)
    return clipper


@final
class Latest:
    """A sink that keeps the numbers of the last record, for the logger of a framework."""

    def __init__(self) -> None:
        self.record: ClipRecord | None = None

    def __call__(self, record: ClipRecord) -> None:
        """Keep a record."""
        self.record = record

    def metrics(self) -> dict[str, float]:
        """Return what to log: nothing before the first clip."""
        return {} if self.record is None else self.record.metrics()


def refusing(function: str) -> Callable[..., Tensor]:
    """Return what stands for a framework's own clip, where both would clip."""

    def clip(*args: object, **kwargs: object) -> Tensor:  # noqa: ARG001 -- whatever it is called with
        msg = (
            f"`{function}` was called, and gradclip clips before every step already. Remove the call; "
            "`clipper.last.total_norm` is the norm before clipping."
        )
        raise RuntimeError(msg)

    return clip
