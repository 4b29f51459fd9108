"""Recordings from which no threshold should be taken: too short, already clipped, or of a run that went wrong."""

from gradclip.analysis.advice.course import Course, course
from gradclip.analysis.advice.finding import MOSTLY, Finding
from gradclip.analysis.advice.judged import Judged
from gradclip.analysis.advice.signs import LEAST_TAIL_INDEX, MOST_GROWTH, MOST_SPREAD, TAIL, Signs
from gradclip.analysis.amounts import digits, percent, several
from gradclip.analysis.series import Series, spacing

FEWEST = 20
"""Norms that are needed besides the warm-up: 30 in all. Of few, intervals are wide, and the advice is graded rough."""

MOST_AT_MAXIMUM, NEAR_MAXIMUM = 0.1, 1e-3
"""The share of norms that may be within this of the largest: more are the norms after clipping."""

FEW_AT_MAXIMUM, LEAST_PILE, MOST_MODES = 0.01, 5, 2.0
"""The share, and number, of norms that are a pile there, where each other value has at most half as many.
Norms that were rounded are often the same too, but seldom the largest."""

MOST_LEAP, MOST_LOSS = 10.0, 1.5
"""How many times what they begin with norms may be, and the loss in the end."""

MOST_LOST = 0.1
"""The share of norms that may be NaN or infinite: of more, something is broken that no bound mends."""

MOST_FALL = 100.0
"""How far the median of the last quarter may be below that of the first: further down, nothing is left to clip."""

RISES, MOST_GROWTH_THEN = 1.1, 3.0
"""How many times its beginning a loss ends at that rises, and how far norms may grow then."""

HEALTHY = (
    "Record a run that stays healthy: at a quarter of the learning rate or less, or clipped at any bound that holds, "
    "since it is the norms before clipping that are recorded."
)

IN_RL = (
    "Reinforcement learning has norms as uneven in runs that are well: there the return says how a run is, and bounds "
    "are taken by custom, 0.5 for PPO."
)


def too_few(series: Series, chosen: Judged) -> Finding:
    """Return the refusal of a recording that is too short, or that broke before it was long enough."""
    lost = int((~series.finite | (series.norms == 0.0)).sum())
    is_broken = lost > MOST_LOST * len(series)
    apart = spacing(series.steps)
    more = f"Log every step (`logging_steps=1` in a Trainer), not one in {apart:,}." if apart > 1 else "Record more."
    remedy = f"{lost:,} are not finite or 0: find out why first." if is_broken else more
    usable = several(len(chosen.norms), "usable step")
    return Finding("too few steps", f"No advice: {usable}, where {FEWEST} are needed. {remedy}")


def refuse(series: Series, chosen: Judged, signs: Signs) -> Finding | None:
    """Return the refusal of a recording from which no threshold should be taken; None where there is none."""
    return (
        _already_clipped(chosen, signs)
        or _held_still(series, chosen)
        or _broken(series, chosen)
        or _vanished(series, chosen, signs)
        or _exploded(signs, course(series, chosen))
    )


def _already_clipped(chosen: Judged, signs: Signs) -> Finding | None:
    at_maximum = chosen.norms > (1.0 - NEAR_MAXIMUM) * signs.largest
    share, count = at_maximum.double().mean().item(), int(at_maximum.sum())
    others = chosen.norms[~at_maximum].unique(return_counts=True)[1]
    is_pile = share > FEW_AT_MAXIMUM and count >= max(LEAST_PILE, MOST_MODES * int(others.max() if len(others) else 0))
    if share <= MOST_AT_MAXIMUM and not is_pile:
        return None
    headline = f"No advice: {percent(share)} of the norms are the same and the largest, {digits(signs.largest)}."
    reason = "So are norms after clipping, which do not say what was clipped. Record those before it."
    return Finding("already clipped", headline, (reason,))


def _held_still(series: Series, chosen: Judged) -> Finding | None:
    if series.thresholds is None or bool((series.thresholds[chosen.places] != 0.0).any()):
        return None
    reason = "Its norms are those of a model that does not learn. Record a run with a bound above 0, or with none."
    return Finding("already clipped", "No advice: the run was clipped at 0, so it took no step.", (reason,))


def _broken(series: Series, chosen: Judged) -> Finding | None:
    share = chosen.nonfinite / (len(series) - chosen.warmup)
    if share <= MOST_LOST:
        return None
    headline = f"No advice: {percent(share)} of the norms are NaN or infinite. No bound helps against these."
    first = int(series.steps[chosen.warmup :][~series.finite[chosen.warmup :]][0])
    reason = f"The first is at step {first:,}. Find out why, and record again; the steps before it may be judged alone."
    return Finding("not finite", headline, (reason,))


def _vanished(series: Series, chosen: Judged, signs: Signs) -> Finding | None:
    norms = series.norms[chosen.warmup :]
    zeros = {
        "the steps": chosen.zero / len(norms),
        "the last quarter of the steps": (norms[-(len(norms) // 4) :] == 0.0).double().mean().item(),
    }
    lost = [f"{percent(share)} of {which} have a norm of 0" for which, share in zeros.items() if share > MOSTLY]
    if not lost and signs.growth < 1.0 / MOST_FALL:
        lost = [f"the last quarter's median is {digits(signs.growth)} times that of the first"]
    if not lost:
        return None
    reason = (
        "A run whose gradients are gone has learned all that it can, or has collapsed, as a policy does that always "
        "acts the same. If it was well until then, judge the steps before that alone."
    )
    return Finding("vanished", f"No advice: the norms vanish: {lost[0]}.", (reason,))


def _exploded(signs: Signs, run: Course) -> Finding | None:
    reasons: list[str] = []
    if signs.explosive_tail:
        reasons.append(
            f"The tail is heavy: the index of the largest {percent(TAIL)} is {digits(signs.tail)}, below "
            f"{LEAST_TAIL_INDEX:g}. Healthy training has 4 and more."
        )
    if signs.explosive_spread:
        reasons.append(f"The largest norm is {digits(signs.spread)} times the median, more than {MOST_SPREAD:g}.")
    far_off = bool(reasons)
    if far_off:
        reasons.append(IN_RL)
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
    headline = "No advice: the recording looks exploded, and a threshold from it would let explosions through."
    return Finding("exploded", headline, (*reasons, HEALTHY)) if reasons else None
