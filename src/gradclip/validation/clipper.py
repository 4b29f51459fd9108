"""Checks of what makes a clipper: policies, parameters, optimizers, saved states."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeAlias, get_args

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import LBFGS, Optimizer

from gradclip.validation.numbers import check_number, check_word, real

NonFiniteStep: TypeAlias = Literal["skip", "raise", "sanitize", "propagate"]
"""What a clipper does with a total norm that is NaN or infinite."""


def check_nonfinite_step(function: str, value: NonFiniteStep) -> NonFiniteStep:
    """Return what a clipper does with a total norm that is NaN or infinite."""
    check_word(function, "nonfinite", value, get_args(NonFiniteStep))
    return value


def check_loss(function: str, value: object) -> float | Tensor:
    """Return a loss as a float, or as a float64 tensor where it is on another device."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            msg = f"`{function}(loss=...)` must hold one real number, got shape {tuple(value.shape)}. Pass its mean."
            raise ValueError(msg)
        value = value.detach().reshape(())
        return value.item() if value.device.type == "cpu" else value.to(torch.float64)
    return real(function, "loss", value)


def check_attachable(optimizer: object, scaler: object, *, attached: bool) -> None:
    """Check what a clipper is attached to."""
    if not isinstance(optimizer, Optimizer):
        hint = " If it wraps an optimizer, pass that one." if hasattr(optimizer, "optimizer") else ""
        msg = f"`GradClipper.attach(optimizer=...)` must be a torch optimizer, got {type(optimizer).__name__}.{hint}"
        raise TypeError(msg)
    if isinstance(optimizer, LBFGS):
        msg = (
            "`GradClipper.attach(optimizer=...)` must evaluate its closure once a step, got LBFGS, whose line search "
            "needs gradients that fit the loss. Call `clip()` in the closure, after `backward()`, if you want it so."
        )
        raise TypeError(msg)
    if scaler is not None and not isinstance(scaler, GradScaler):
        msg = f"`GradClipper.attach(scaler=...)` must be a torch.amp.GradScaler, got {type(scaler).__name__}."
        raise TypeError(msg)
    if attached:
        msg = (
            "`GradClipper.attach(optimizer=...)` must be attached once, got an optimizer that is. Call `detach` first."
        )
        raise ValueError(msg)


def check_max_skips(value: object) -> float:
    """Return the number of steps in a row that may be skipped; infinite for any number."""
    return check_number(
        "GradClipper",
        "max_consecutive_skips",
        value,
        at_least=0,
        integer=value != math.inf,
        advice="For no limit, pass `math.inf`.",
    )


def check_sinks(sinks: Any) -> tuple[Callable[[Any], object], ...]:
    """Return the sinks; a single one is a mistake."""
    if callable(sinks) or not isinstance(sinks, Sequence):
        msg = f"`GradClipper(sinks=...)` must be a list of callables, got {sinks!r}. Pass `[sink]`."
        raise TypeError(msg)
    for i, sink in enumerate(sinks):
        if not callable(sink):
            msg = f"`GradClipper(sinks=...)` must hold callables that take a record, got {sink!r} at sinks[{i}]."
            raise TypeError(msg)
    return tuple(sinks)


def check_pattern_list(argument: str, patterns: Any) -> tuple[str, ...]:
    """Return patterns of names; one may be given by itself."""
    listed = (patterns,) if isinstance(patterns, str) else patterns
    if not isinstance(listed, Sequence) or not all(isinstance(pattern, str) for pattern in listed):
        msg = (
            f"`GradClipper({argument}=...)` must be a list of patterns of names, got {patterns!r}. "
            'Pass for instance `["*.bias"]`; `model.named_parameters()` has the names.'
        )
        raise TypeError(msg)
    return tuple(listed)


def check_hooked(optimizer: Optimizer) -> None:
    """Check that an optimizer runs hooks: one that never called `Optimizer.__init__` does not."""
    if not getattr(type(optimizer).step, "hooked", False):
        msg = (
            f"`GradClipper.attach(optimizer=...)` must be an optimizer whose `step` runs hooks, got "
            f"{type(optimizer).__name__}, which never called `Optimizer.__init__`. Pass the optimizer that it wraps."
        )
        raise TypeError(msg)


def check_attached(optimizer: object, *, attached: bool) -> None:
    """Check that there is something to detach."""
    if not attached:
        msg = (
            f"`GradClipper.detach(optimizer=...)` must be an optimizer that the clipper is attached to, got "
            f"{type(optimizer).__name__} that it is not. To detach it from all, pass none."
        )
        raise ValueError(msg)


def refuse_optimizer(optimizer: object) -> NoReturn:
    """Raise for an optimizer that updates nothing of what a clipper clips."""
    msg = (
        f"`GradClipper.attach(optimizer=...)` must update parameters of the clipper, got {type(optimizer).__name__} of "
        "none of them. Make the clipper from the optimizer: `GradClipper(optimizer, ...)`."
    )
    raise ValueError(msg)


def refuse_no_parameters(function: str, given: object) -> NoReturn:
    """Raise for an object without a parameter, such as an exhausted iterator."""
    msg = (
        f"`{function}(parameters=...)` must hold at least one parameter, got {type(given).__name__} without any. "
        "An iterator can be walked once: pass the module, or a list."
    )
    raise ValueError(msg)


def check_policies(function: str, policies: tuple[object, ...], *, one_stage: bool = False) -> None:
    """Check that there are policies, and that each needs no second measurement where that cannot be."""
    if not policies:
        msg = f"`{function}()` must be given one policy or more, got none."
        raise TypeError(msg)
    for policy in policies:
        stages = getattr(policy, "stages", None)
        if stages is None or isinstance(policy, type):
            hint = f"Write `{policy.__name__}(...)`." if isinstance(policy, type) else "See `gradclip.policies`."
            msg = f"`{function}()` must be given policies, got {policy!r} ({type(policy).__name__}). {hint}"
            raise TypeError(msg)
        if one_stage and len(stages) > 1:
            msg = (
                f"`{function}()` must be given policies that take one measurement, got {policy!r}, whose second part "
                f"needs the norms after the first. Write a `chain` of two `{function}` instead."
            )
            raise ValueError(msg)


def check_pattern_map(policies: object) -> None:
    """Check that what is given to `by_name` maps names to something."""
    if not isinstance(policies, Mapping) or not all(isinstance(pattern, str) for pattern in policies):
        msg = f"`by_name(policies=...)` must map patterns of names to policies, got {policies!r}. Pass a dict."
        raise TypeError(msg)


def check_listed(function: str, policies: object) -> tuple[Any, ...]:
    """Return policies as a tuple."""
    if not isinstance(policies, Iterable) or isinstance(policies, (str, Mapping)):
        msg = f"`{function}(policies=...)` must be a policy or a list of policies, got {policies!r}."
        raise TypeError(msg)
    return tuple(policies)


def check_schedule(policy_of: object) -> None:
    """Check that what is given to `schedule` can be asked for the policy of a step."""
    if not callable(policy_of):
        msg = (
            f"`schedule(policy_of=...)` must map a step to a policy, got {policy_of!r}. Write for instance "
            "`schedule(lambda step: FixedNorm(1.0))`."
        )
        raise TypeError(msg)


def check_same_kind(step: int, policy: Any, first: Any) -> None:
    """Check that the policy of a step can go on from what that of step 0 began."""
    traits = [(type(x), x.norm_type, x.scope, x.units, x.clamps) for x in (policy, first)]
    if traits[0] != traits[1]:
        msg = (
            f"`schedule(policy_of=...)` must give policies of one type, norm_type and scope, got {policy!r} at step "
            f"{step} and {first!r} at step 0. To change the rule, make a `chain` of `warmup`."
        )
        raise ValueError(msg)


def refuse_norm_types(policy: object, orders: Iterable[float | None]) -> NoReturn:
    """Raise for parts of a model that would be measured in norms of different orders."""
    listed = ", ".join(f"{order:g}" for order in sorted(order for order in orders if order is not None))
    msg = f"`{type(policy).__name__}` must have policies of one `norm_type`, got {listed}. Make a `chain` of two."
    raise ValueError(msg)


def refuse_axes(policy: object, axes: list[str]) -> NoReturn:
    """Raise for parts of a model that would be cut into different units."""
    msg = (
        f"`{type(policy).__name__}` must have policies of one `axis`, got {' and '.join(axes)}. Make a `chain` of two."
    )
    raise ValueError(msg)


def refuse_pattern(function: str, pattern: str, names: tuple[str, ...]) -> NoReturn:
    """Raise for a pattern that matches no parameter that is left."""
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")  # noqa: PLR2004
    msg = (
        f"`{function}` must be given patterns that match a parameter, got {pattern!r}, which matches none that an "
        f"earlier one does not. The names are {shown}."
    )
    raise ValueError(msg)


def refuse_groups(groups: int, policies: int) -> NoReturn:
    """Raise for a policy by groups where there are no groups, or others than it is for."""
    if groups:
        msg = f"`by_group` must have one policy for each parameter group, or one for all, got {policies} for {groups}."
    else:
        msg = "`by_group` must know the parameter groups. Make the clipper from them: `GradClipper(optimizer, ...)`."
    raise ValueError(msg)


def refuse_sparse_units(name: str) -> NoReturn:
    """Raise for a sparse gradient where every unit has a norm of its own."""
    msg = (
        f"A policy per unit must be given dense gradients, got a sparse one at {name}. Give that parameter another "
        f"policy: `by_name({{{name!r}: FixedNorm(1.0)}}, ...)` with a policy per parameter for the rest, or ignore it."
    )
    raise TypeError(msg)


def refuse_number(path: str, expected: str, given: object) -> NoReturn:
    """Raise for a saved state with an entry that no run has left."""
    msg = (
        f"`load_state_dict(state_dict=...)` must have {expected} at {path}, got {given!r:.60}. No run leaves this: "
        "load an earlier state, or begin anew without one."
    )
    raise ValueError(msg)


def refuse_state(path: str, expected: Iterable[str], given: object) -> NoReturn:
    """Raise for a saved state that belongs to other parameters or another policy."""
    wanted, found = set(expected), set(given) if isinstance(given, Mapping) else {type(given).__name__}
    missing = ", ".join(sorted(wanted - found)[:3]) or "nothing"
    unknown = ", ".join(sorted(map(str, found - wanted))[:3]) or "nothing else"
    msg = (
        f"`load_state_dict(state_dict=...)` must come from a clipper of the same parameters and policy, got a "
        f"state that at {path} lacks {missing} and holds {unknown}. Make the clipper as for the run that saved it."
    )
    raise ValueError(msg)
