"""Recordings from which no threshold should be taken: too short, of norms after clipping, or of an explosion."""

from gradclip.analysis.advice.course import Course, course
from gradclip.analysis.advice.finding import MOSTLY, Finding
from gradclip.analysis.advice.judged import Judged
from gradclip.analysis.advice.signs import LEAST_TAIL_INDEX, MOST_GROWTH, MOST_SPREAD, TAIL, Signs
from gradclip.analysis.amounts import digits, percent, several
from gradclip.analysis.series import Series

FEWEST = 100
"""Steps that are needed: the 99th percentile of fewer is a guess."""

MOST_AT_MAXIMUM, NEAR_MAXIMUM = 0.1, 1e-3
"""The share of norms that may be within this of the largest: more are the norms after clipping."""

MOST_LEAP, MOST_LOSS = 10.0, 1.5
"""How many times what they begin with norms may be, and the loss in the end."""

RISES, MOST_GROWTH_THEN = 1.1, 3.0
"""How many times its beginning a loss ends at that rises, and how far norms may grow then."""

HEALTHY = (
    "Record a run that stays healthy: at a quarter of the learning rate or less, or clipped at any bound that holds, "
    "since it is the norms before clipping that are recorded."
)


def too_few(chosen: Judged) -> Finding:
    """Return the refusal of a recording that is too short."""
    lost = chosen.nonfinite + chosen.zero
    remedy = "Record more of them." if lost < FEWEST else f"{lost:,} are not finite or 0: find out why first."
    usable = several(len(chosen.norms), "usable step")
    return Finding("too few steps", f"No advice: {usable}, where {FEWEST} are needed. {remedy}")


def refuse(series: Series, chosen: Judged, signs: Signs) -> Finding | None:
    """Return the refusal of a recording from which no threshold should be taken; None where there is none."""
    largest = signs.largest
    at_largest = (chosen.norms > (1.0 - NEAR_MAXIMUM) * largest).double().mean().item()
    if at_largest > MOST_AT_MAXIMUM:
        headline = f"No advice: {percent(at_largest)} of the norms are the same and the largest, {digits(largest)}."
        reason = "So are norms after clipping, which do not say what was clipped. Record those before it."
        return Finding("already clipped", headline, (reason,))
    reasons = _explosion(signs, course(series, chosen))
    if reasons:
        headline = "No advice: the recording looks exploded, and a threshold from it would let explosions through."
        return Finding("exploded", headline, (*reasons, HEALTHY))
    return None


def _explosion(signs: Signs, run: Course) -> list[str]:
    reasons: list[str] = []
    if signs.explosive_tail:
        reasons.append(
            f"The tail is heavy: the index of the largest {percent(TAIL)} is {digits(signs.tail)}, below "
            f"{LEAST_TAIL_INDEX:g}. Healthy training has 4 and more."
        )
    if signs.explosive_spread:
        reasons.append(f"The largest norm is {digits(signs.spread)} times the median, more than {MOST_SPREAD:g}.")
    far_off = bool(reasons)
    growth = MOST_GROWTH_THEN if run.loss_rise > RISES else MOST_GROWTH
    if signs.growth > growth:
        reasons.append(
            f"The norms grow: the median of the last quarter is {digits(signs.growth)} times that of the first, more "
            f"than {growth:g}."
        )
    if run.leap > MOST_LEAP:
        reasons.append(
            f"The norms leapt at once: their median is {digits(run.leap)} times that of the first steps, more than "
            f"{MOST_LEAP:g}. A run that is lost may look calm."
        )
    if reasons and not far_off:
        reasons.append("If the run is well all the same, leave out the steps before the rise: only later ones count.")
    if run.loss_rise > MOST_LOSS:
        reasons.append(f"The loss rises: it ends {digits(run.loss_rise)} times as high as it begins.")
    if far_off and signs.early > MOSTLY and not run.loss_rise > MOST_LOSS:
        reasons.append("Most of the largest norms are early. If the run was only settling, leave out more as warm-up.")
    return reasons
