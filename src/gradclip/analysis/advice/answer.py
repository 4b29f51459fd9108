"""Advice: which threshold to clip at, from the norms of a run, or why there is none to be had."""

import math
from dataclasses import asdict, dataclass
from typing import Any, final

from gradclip.analysis.advice import refusals, verdicts
from gradclip.analysis.advice.certainty import Grade, certainty
from gradclip.analysis.advice.dominance import dominating
from gradclip.analysis.advice.finding import Verdict
from gradclip.analysis.advice.held_against import recorded_bound, shortened
from gradclip.analysis.advice.judged import Judged, Recorded, judged, series_of
from gradclip.analysis.advice.optimizers import trained
from gradclip.analysis.advice.settling import settled
from gradclip.analysis.advice.signs import signs
from gradclip.analysis.advice.suggestions import Suggestion, suggest
from gradclip.analysis.amounts import digits, percent, several
from gradclip.analysis.series import Series
from gradclip.sending import on_the_host
from gradclip.validation import check_number

CAUTION = (
    "The table is about the recorded run: at a higher learning rate, or later, far more steps may be clipped. "
    "Thresholds are in units of its norms: another batch size, number of accumulated batches or loss asks for another "
    "recording."
)
"""What clip rates and thresholds hold for."""


@final
@dataclass(frozen=True)
class Advice:
    """What a recording says about clipping, in plain numbers and words.

    Attributes:
        source: Where the recording comes from.
        steps: How many steps were recorded.
        usable: How many of them are judged.
        warmup: How many are left out at the beginning.
        nonfinite: How many of the others are left out because their norm is not finite.
        zero: How many are left out because their norm is 0.
        verdict: `"clip"`, `"drifting"`, `"lower the learning rate"` or `"clipping is idle"`; or a refusal: `"too few
            steps"`, `"already clipped"`, `"not finite"`, `"vanished"` or `"exploded"`. It does not depend on a
            threshold that no norm reached.
        headline: The verdict in a sentence.
        reasons: The reasons for the verdict, and what else is worth knowing.
        suggestions: The thresholds, the tightest first; empty if advice is refused, or is to change nothing.
        max_norm: The threshold to use, rounded to three digits; if clipping is idle, the recorded threshold, to keep.
            None if advice is refused, or if what to keep is not a constant.
        dominating: The parameters with the largest mean shares of the squared norm, if they were recorded.
        median: The median of the judged norms; NaN, like the next four, if too few norms are usable.
        largest: The largest of them.
        tail: The tail index of the largest tenth: below 2 in an explosion.
        growth: The median of the last quarter, divided by the median of the first.
        drift: The factor by which the median moves over the run.
        spikes: How many norms are spikes: above six robust deviations, and above three medians.
        recorded_bound: The threshold that was recorded; NaN if it moved, None if there was none.
        recorded_share: The share of judged steps above that threshold; None if there was none.
        certainty: How certain the balanced threshold is: `"firm"`, `"fair"` or `"rough"`; None without thresholds.
        sure: The same in a sentence, with the reasons; empty without thresholds.
        remarks: What a reader should know about how the file was read.
    """

    source: str
    steps: int
    usable: int
    warmup: int
    nonfinite: int
    zero: int
    verdict: Verdict
    headline: str
    reasons: tuple[str, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    max_norm: float | None = None
    dominating: tuple[tuple[str, float], ...] = ()
    median: float = math.nan
    largest: float = math.nan
    tail: float = math.nan
    growth: float = math.nan
    drift: float = math.nan
    spikes: int = 0
    recorded_bound: float | None = None
    recorded_share: float | None = None
    certainty: Grade | None = None
    sure: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def code(self) -> str | None:
        """The policy to write, or to keep; None if there is no threshold."""
        if self.max_norm is None:
            return None
        return f"FixedNorm(max_norm={self.max_norm:g})"

    @property
    def usage(self) -> str:
        """The code to write, or to keep, in one line; empty if there is none."""
        if self.code is None:
            return ""
        what = "Keep" if self.verdict == "clipping is idle" else "In code"
        return f"{what}: {self.code}, or clip_grad_norm_(parameters, max_norm={self.max_norm:g})"

    @property
    def notes(self) -> list[str]:
        """The notes that follow the thresholds, one or more sentences each."""
        listed = ", ".join(f"{name} {percent(share)}" for name, share in self.dominating)
        counted = (
            f"Judged: {self.usable:,} of {several(self.steps, 'step')} of {self.source}. Left out: {self.warmup:,} of "
            f"warm-up, {self.nonfinite:,} not finite, {self.zero:,} of norm 0."
        )
        shares = f"Shares of the squared norm: {listed}." if listed else ""
        caution = CAUTION if self.suggestions else ""
        return [*filter(None, [self.sure, *self.reasons, shares, caution]), counted, *self.remarks]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name and the code, ready for JSON: None for values that are unknown or not finite."""
        return {name: _plain(value) for name, value in (asdict(self) | {"code": self.code}).items()}

    def __str__(self) -> str:
        lines = [self.headline, self.usage]
        if self.suggestions:
            shares = f"{'recorded steps clipped':>22}{'recorded norm cut off':>24}"
            lines.append(f"{'':<14}{'max_norm':>9}  {'95 % interval':<20}{shares}")
            lines += [
                f"{each.name:<14}{digits(each.max_norm):>9}  {digits(each.low) + ' to ' + digits(each.high):<20}"
                f"{percent(each.share_clipped):>22}{percent(each.share_removed):>24}"
                for each in self.suggestions
            ]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(line for line in lines if line)


@on_the_host
def advise(run: Recorded, *, warmup: int | None = None, optimizer: str | None = None, seed: int = 0) -> Advice:
    """Advise on the threshold at which to clip the total norm.

    The norms are those before clipping, from a run that trained well: unclipped at a low learning rate, or clipped at
    any threshold that kept it stable. A threshold is in units of the norms, so another batch size, accumulation or loss
    needs another recording. Gradients that a scaler has multiplied have to be unscaled before they are recorded.

    Args:
        run: A series, a file of any supported form, or total norms step by step.
        warmup: How many steps to leave out at the beginning. None leaves out 20, or 5 % if that is more, but at most a
            third; it leaves out more if norms fall from a high beginning.
        optimizer: The class of the optimizer, such as `"AdamW"`, if the recording does not name it. The effect of a
            threshold that most steps reach depends on it.
        seed: The random seed for resampling the intervals.

    Returns:
        The advice. If no threshold should be taken from the recording, it says why.

    Raises:
        TypeError: If `run` is not a recording, or `optimizer` is not a name.
        ValueError: If norms are negative, a file cannot be read, or `warmup` is negative.

    Example:
        >>> import torch
        >>> from gradclip.analysis import advise
        >>> norms = torch.randn(5000, generator=torch.Generator().manual_seed(0)).mul(0.3).exp()
        >>> advice = advise(norms)
        >>> advice.code
        'FixedNorm(max_norm=1.99)'
        >>> advise(norms[:25]).headline
        'No advice: 17 usable steps, where 20 are needed. Record more.'

    References:
        Godbole, Dahl, Gilmer, Shallue and Nado, Deep Learning Tuning Playbook, 2023: the threshold should be just above
        the typical norm, with the 90th percentile to start with; if more than half of the updates are clipped, lower
        the learning rate instead.
    """
    seed = int(check_number("advise", "seed", seed, at_least=0, integer=True))
    series = series_of(run)
    chosen = judged(series, warmup)
    how = trained(series, chosen, optimizer)
    if len(chosen.norms) < refusals.FEWEST:
        verdict, headline, _ = refusals.too_few(series, chosen)
        return Advice(verdict=verdict, headline=headline, **_counts(series, chosen))
    found = signs(chosen.norms)
    refusal = refusals.refuse(series, chosen, found)
    late = settled(series, chosen, found) if warmup is None and refusal is not None else None
    if late is not None:
        chosen, found, refusal = late, signs(late.norms), None
    bound = recorded_bound(series, chosen)
    shares = dominating(series, int(series.steps[chosen.places[0]]))
    suggestions = suggest(chosen.norms, seed, drifting=found.drifting) if refusal is None else ()
    evidence = verdicts.Evidence(chosen, found, bound, shortened(series, chosen), how, suggestions, shares)
    verdict, headline, reasons = refusal or verdicts.judge(evidence)
    if verdict == "clipping is idle":
        suggestions = ()
    sure = certainty(series, chosen, found, suggestions[1]) if suggestions else None
    left_out = int(series.steps[chosen.warmup] - series.steps[0])
    settling = f"The norms had to settle: the first {left_out:,} steps are left out as warm-up."
    return Advice(
        verdict=verdict,
        headline=headline,
        reasons=(*reasons, *([settling] if late else [])),
        suggestions=suggestions,
        max_norm=suggestions[1].max_norm if suggestions else verdicts.kept(verdict, bound),
        dominating=shares,
        median=found.median,
        largest=found.largest,
        tail=found.tail,
        growth=found.growth,
        drift=found.drift,
        spikes=found.spikes,
        recorded_bound=None if bound is None else bound.value,
        recorded_share=None if bound is None else bound.share,
        certainty=None if sure is None else sure.grade,
        sure="" if sure is None else sure.words,
        **_counts(series, chosen),
    )


def _counts(series: Series, chosen: Judged) -> dict[str, Any]:
    return {
        "source": series.source,
        "steps": len(series),
        "usable": len(chosen.norms),
        "warmup": chosen.warmup,
        "nonfinite": chosen.nonfinite,
        "zero": chosen.zero,
        "remarks": series.remarks,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
