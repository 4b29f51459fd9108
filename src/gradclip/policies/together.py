"""What several decisions come to: one after the other, or one of two; and what is learned of a step that is skipped."""

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from gradclip.numbers import Condition, Scalar, as_float64, is_known, is_one, minimum, truth, where
from gradclip.policies.layout import Layout, Scope, finest
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision, Policy
from gradclip.policies.state import unless

Rule: TypeAlias = Callable[[Norms, Any], tuple[Decision, Any]]
"""What decides about norms, and learns from them, as `Policy.decide` does."""


def decided(policy: Policy, norms: Norms, state: Any) -> tuple[Decision, Any]:
    """Return what one of several policies decides, which may say in many ways that it skips, and the state after it."""
    decision, new = policy.decide(norms, state)
    return (decision if decision.skip is False else decision._replace(skip=truth(decision.skip))), new


def both(first: Decision, second: Decision, layout: Layout) -> Decision:
    """Return what a decision comes to that follows another."""
    scope = finest((first.scope, second.scope))
    coefs, thresholds = _in_scope(first, second, scope, layout)
    return Decision(
        coef=coefs[0] * coefs[1],
        threshold=minimum(*thresholds),
        scope=scope,
        skip=first.skip | second.skip,
        clamp=second.clamp,  # nothing follows a limit on elements before the gradients are measured again
    )


def either(condition: Condition, yes: Rule, no: Rule, norms: Norms, state: Any) -> tuple[Decision, Any]:
    """Decide in one of two ways: on a device in both, as the host does not know in which."""
    if is_known(condition):
        return yes(norms, state) if condition else no(norms, state)
    (first, learned), (second, other) = yes(norms, state), no(norms, state)
    scope = finest((first.scope, second.scope))
    coefs, thresholds = _in_scope(first, second, scope, norms.layout)
    clamps = [math.inf if x.clamp is None else x.clamp for x in (first, second)]
    decision = Decision(
        coef=where(condition, *coefs),
        threshold=where(condition, *thresholds),
        scope=scope,
        skip=first.skip if first.skip is second.skip else (condition & first.skip) | (~condition & second.skip),
        clamp=None if first.clamp is second.clamp is None else where(condition, *clamps),
    )
    return decision, unless(condition, learned, other)


def taught(skip: Condition, decisions: Iterable[Decision], before: Iterable[Any], after: Iterable[Any]) -> Any:
    """Return the states after a step that may be skipped: it teaches only those then who asked for that."""
    if skip is False:
        return tuple(after)
    triples = zip(decisions, before, after, strict=True)
    return tuple(unless(skip ^ own.skip, old, new) for own, old, new in triples)  # what one asks for is what is done


def _in_scope(first: Decision, second: Decision, scope: Scope, layout: Layout) -> tuple[list[Scalar], list[Scalar]]:
    """Return coefficients and thresholds of two decisions, as those of a scope."""
    two = (first, second)
    coefs = [spread(x.coef, x.scope, scope, layout) for x in two]
    return coefs, [spread(x.threshold, x.scope, scope, layout) for x in two]


def spread(x: Scalar, scope: Scope, finer: Scope, layout: Layout) -> Scalar:
    """Repeat numbers of a scope for everything that a finer scope tells apart."""
    if not is_one(x) and scope == "parameter" and finer == "unit":
        return as_float64(x, layout.device)[layout.owners]
    return x
