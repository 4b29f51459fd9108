"""How an adaptive rule finds out of a lock: statistics that follow a lasting change of level.

A rule that learns from the norms it let through never learns of norms that it does not let through: after a lasting
threefold rise, ZClip as published clips every step for ever. The *pressure* of a rule counts clipped steps up and
others down, never below 0 (Page's cumulative sum, 1954). Once it reaches the *patience* of the rule, clipping has
become the normal case, and the rule is *locked*: it then learns from the norms before clipping, until it lets a step
through. A burst shorter than the patience teaches it nothing.
"""

from gradclip.numbers import Condition, Scalar, maximum, where

PATIENCE = 20.0
"""Steps that a burst may last; `math.inf` never unlocks, as published."""


def press(pressure: Scalar, patience: float, clipped: Condition) -> Scalar:
    """Return the pressure after one more step."""
    relieved = where(pressure >= patience, 0.0, maximum(pressure - 1.0, 0.0))
    return where(clipped, pressure + 1.0, relieved)
