"""What to make of a recording that may be trusted: one verdict, and the reasons for it."""

import math
from typing import NamedTuple, final

from gradclip.analysis.advice.finding import MOSTLY, Finding, Verdict
from gradclip.analysis.advice.held_against import Bound, Shortened
from gradclip.analysis.advice.judged import Judged
from gradclip.analysis.advice.optimizers import Trained
from gradclip.analysis.advice.signs import Signs
from gradclip.analysis.advice.suggestions import Suggestion
from gradclip.analysis.advice.thresholds import share_clipped
from gradclip.analysis.amounts import digits, percent, several

IDLE = 0.001
"""The share of steps above a bound that clips next to nothing."""

MUCH_NONFINITE, WIDE = 0.01, 1.5
"""What is worth a remark: a share of norms that are not finite, and the upper end of an interval in lower ends."""

SET_ASIDE = "Such steps, and those that trail them, are left out of the thresholds."
COUNTED = "They are too many, or too early, to be left out of the thresholds."
"""What becomes of spikes."""


@final
class Evidence(NamedTuple):
    """All that a verdict rests on.

    Attributes:
        chosen: The norms that are judged.
        signs: The signs in them.
        bound: What they were held against.
        shortened: What was done to them without such a bound.
        trained: How the run took its steps.
        suggestions: Tight, balanced and conservative.
        shares: The parameters with the largest shares of the squared norm.
    """

    chosen: Judged
    signs: Signs
    bound: Bound | None
    shortened: Shortened | None
    trained: Trained
    suggestions: tuple[Suggestion, ...]
    shares: tuple[tuple[str, float], ...]


def judge(evidence: Evidence) -> Finding:
    """Return the first verdict that applies, and what else is worth knowing."""
    found = _too_tight(evidence) or _drifting(evidence) or _idle(evidence) or _clip(evidence)
    return found._replace(reasons=(*found.reasons, *_remarks(evidence)))


def _too_tight(evidence: Evidence) -> Finding | None:
    bound = evidence.bound
    how = evidence.trained
    if bound is None or bound.moves or bound.share <= MOSTLY or how.follows_scale is False:
        return None
    headline = (
        f"Lower the learning rate instead: {percent(bound.share)} of the steps are above the bound of "
        f"{digits(bound.value)}."
    )
    rates = "" if how.lr is None else f", {digits(how.lr * bound.coefficient)} and not {digits(how.lr)}"
    reason = (
        f"Gradients were multiplied by {digits(bound.coefficient)} on average. With SGD the learning rate was lower by "
        f"as much{rates}: multiply yours by it, and clip at the balanced threshold."
    )
    if how.follows_scale:
        return Finding("lower the learning rate", headline, (reason,))
    other = (
        "Under Adam and its like, whose steps hardly depend on the scale of gradients, steps were not shorter: there "
        "leave the learning rate, and clip at the balanced threshold. Which optimizer it was is not recorded; say so "
        "with optimizer= (on the command line: --optimizer AdamW)."
    )
    return Finding("lower the learning rate", headline, (reason, other))


def _drifting(evidence: Evidence) -> Finding | None:
    if not evidence.signs.drifting:
        return None
    rise, fall = max(evidence.signs.drift, evidence.signs.growth), 1.0 / evidence.signs.drift
    way = f"rises by a factor of {digits(rise)}" if rise > fall else f"falls by a factor of {digits(fall)}"
    norms, balanced = evidence.chosen.norms, evidence.suggestions[1].max_norm
    quarter = len(norms) // 4
    first, last = (percent(share_clipped(part, balanced)) for part in (norms[:quarter], norms[-quarter:]))
    headline = f"Clip at {digits(balanced)}, and look again later: the median norm {way} over the run."
    reason = (
        f"One bound does not fit both ends alike: this one would have clipped {first} of the first quarter of the "
        f"steps and {last} of the last."
    )
    return Finding("drifting", headline, (reason,))


def _idle(evidence: Evidence) -> Finding | None:
    bound = evidence.bound
    if bound is None or not 0.0 < bound.share < IDLE or evidence.signs.spikes:
        return None  # a bound that no norm reached says nothing: the answer is that of the norms alone
    headline = f"Do nothing: {percent(bound.share)} of the steps are above {bound.words}, and none is a spike."
    reason = "A bound that is hardly ever reached costs next to nothing, and holds what is to come."
    return Finding("clipping is idle", headline, (reason,))


def kept(verdict: Verdict, bound: Bound | None) -> float | None:
    """Return the bound to keep after a verdict; None where there is none, or it moves."""
    return None if verdict != "clipping is idle" or bound is None or bound.moves else bound.value


def _clip(evidence: Evidence) -> Finding:
    tight, balanced, conservative = (digits(each.max_norm) for each in evidence.suggestions)
    others = [("stricter", tight), ("only against spikes", conservative)]
    said = "; ".join(f"{what}: {bound}" for what, bound in others if bound != balanced)
    return Finding("clip", f"Clip at {balanced}.{said and f' {said[0].upper()}{said[1:]}.'}")


def _remarks(evidence: Evidence) -> list[str]:
    chosen, signs, bound, other, how, suggestions, shares = evidence
    lines: list[str] = []
    if signs.spikes:
        what = f"{several(signs.spikes, 'spike')}, the largest {digits(signs.spread)} times the median"
        lines.append(f"{what}. {SET_ASIDE if signs.aside else COUNTED}")
    if signs.ends_high:
        lines.append("The recording ends in spikes: the run may have diverged there.")
    if chosen.nonfinite > MUCH_NONFINITE * (len(chosen.norms) + chosen.nonfinite):
        lines.append(f"Not finite: {several(chosen.nonfinite, 'norm')}. No bound helps against these.")
    if bound is not None and bound.share > MOSTLY and how.follows_scale is False:
        lines.append(
            f"{percent(bound.share)} of the steps are above {bound.words}. Under {how.optimizer} that hardly shortens "
            "them, but gives all batches the same weight: it is no reason for another learning rate."
        )
    elif bound is not None and bound.share > MOSTLY and bound.moves:
        lines.append(
            f"{percent(bound.share)} of the steps are above the moving bound: it sets the length of most of them, as "
            "some rules mean to."
        )
    if other is not None and other.share > MOSTLY:
        lines.append(_without_bound(other, how))
    if bound is not None and bound.share == 0.0:
        lines.append(f"No norm reached {bound.words}. If the run trains well as it is, nothing needs to change.")
    if suggestions[-1].share_clipped < IDLE and not signs.spikes:
        lines.append("Hardly a norm is above the conservative threshold: there was no spike that it is for.")
    if shares and shares[0][1] > MOSTLY:
        lines.append(
            f"{shares[0][0]} has {percent(shares[0][1])} of the squared norm, so the total norm is mostly its own. "
            "`by_name` gives it a bound of its own."
        )
    wide = [each.name for each in suggestions if each.high > WIDE * each.low]
    if wide:
        lines.append(f"Wide intervals: {', '.join(wide)}. More steps would narrow them.")
    return lines


def _without_bound(other: Shortened, how: Trained) -> str:
    times = "" if math.isnan(other.coefficient) else f", and multiplied by {digits(other.coefficient)} on average"
    said = f"{percent(other.share)} of the steps were clipped by no recorded bound on the total norm{times}."
    if how.follows_scale is False:
        return f"{said} Under {how.optimizer} that hardly shortens them."
    return (
        f"{said} With SGD, these steps can be longer by as much under a threshold in place of that rule: lower the "
        "learning rate with it, or keep the rule."
    )
