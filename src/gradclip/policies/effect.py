"""What a decision does to the norms it was made from."""

import math

from gradclip.numbers import Condition, any_of, as_float64, is_one, where
from gradclip.policies.measured import Norms
from gradclip.policies.policy import Decision


def after(norms: Norms, decision: Decision) -> Norms:
    """Return the norms that gradients have once a decision is applied; NaN where the step is skipped."""
    if decision.scope == "parameter" and not is_one(decision.coef):
        norms = norms.scaled_each(as_float64(decision.coef))
    elif decision.scope == "unit" and not is_one(decision.coef):
        norms = norms.scaled_units(as_float64(decision.coef))
    else:
        norms = norms.scaled(decision.coef)
    if decision.clamp is not None:
        norms = norms.clamped(decision.clamp)
    if decision.skip is False:
        return norms
    return norms.scaled(where(decision.skip, math.nan, 1.0))


def shrinks(norms: Norms, decision: Decision) -> Condition:
    """Whether a decision makes any gradient smaller: for sure, but for limits below norms that are not maxima."""
    smaller = any_of(decision.coef < 1.0)  # false for a NaN, which stands for a parameter without a gradient
    if decision.clamp is None:
        return smaller
    scaled = after(norms, decision._replace(clamp=None, skip=False))
    over = any_of((scaled.total if scaled.each is None else scaled.each) > decision.clamp)
    if not norms.complete and is_one(decision.clamp):  # on another rank then
        over = over | (scaled.total > decision.clamp)
    return smaller | over
