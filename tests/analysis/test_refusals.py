"""Recordings from which no threshold is taken, and healthy ones that look like them."""

import math

import pytest
import torch

from analysis.norms import INF, NAN, constant, exploded, lognormal, series
from gradclip.analysis import advise
from gradclip.analysis.advice.signs import signs
from gradclip.analysis.series import Series


@pytest.mark.parametrize(
    ("kind", "speaks"),
    [
        ("heavy tail", "The tail is heavy: the index of the largest 10 % is 0.7"),
        ("new level", "The norms grow: the median of the last quarter is"),
        ("many spikes", "The tail is heavy"),
        ("many spikes", "times the median, more than 100"),
        ("growth", "The norms grow: the median of the last quarter is"),
    ],
)
def test_an_exploded_recording_is_refused_by_the_criterion_that_speaks(kind: str, speaks: str) -> None:
    advice = advise(exploded(kind))
    assert advice.verdict == "exploded"
    assert any(speaks in reason for reason in advice.reasons)
    assert advice.suggestions == () and advice.max_norm is None and advice.code is None
    assert any("a quarter of the learning rate" in reason for reason in advice.reasons)


def test_criteria_that_are_met_do_not_speak() -> None:
    reasons = " ".join(advise(exploded("growth")).reasons)
    assert "tail" not in reasons and "largest" not in reasons


def test_norms_as_uneven_as_those_of_agents_are_refused_with_what_is_usual_there() -> None:
    """Whether the tail says it or, as where most batches have no advantage, how far they are spread."""
    uneven = torch.where(torch.arange(1000) % 5 < 2, lognormal(1000) * 0.3, lognormal(1000) * 0.002)
    advice = advise(uneven)
    assert advice.verdict == "exploded" and "times the median, more than 100" in advice.reasons[0]
    assert advice.reasons[1].startswith("Reinforcement learning has norms as uneven in runs that are well")


@pytest.mark.parametrize("steps", [150, 400, 5000])
@pytest.mark.parametrize("height", [20.0, 1e3, 1e6])
def test_a_healthy_run_with_a_spike_is_no_explosion(steps: int, height: float) -> None:
    """One norm far off tells nothing of the others, nor does it move the thresholds."""
    norms = lognormal(steps, 0.4, seed=7)
    quiet = advise(norms)
    norms[steps // 2] = height
    advice = advise(norms)
    assert (quiet.verdict, advice.verdict) == ("clip", "clip")
    assert advice.spikes == 1
    assert advice.reasons[0].startswith("1 spike, the largest ")
    for before, after in zip(quiet.suggestions, advice.suggestions, strict=True):
        assert after.max_norm == pytest.approx(before.max_norm, rel=0.04 if steps > 150 else 0.35)


@pytest.mark.parametrize("steps", [150, 400])
@pytest.mark.parametrize("batches", [1, 2, 3])
def test_a_few_corrupted_batches_are_set_aside_with_what_trails_them(steps: int, batches: int) -> None:
    """Each throws the run off for a dozen steps, as under Adam."""
    norms = lognormal(steps, 0.3, seed=9)
    quiet = advise(norms)
    trail = 1e4 * 0.3 ** torch.arange(min(12, steps // 40), dtype=torch.float64)
    for place in range(1, batches + 1):
        start = steps * place // 4
        norms[start : start + len(trail)] += trail
    advice = advise(norms)
    assert advice.verdict == "clip" and advice.spikes >= 2 * batches
    assert advice.suggestions[1].max_norm == pytest.approx(quiet.suggestions[1].max_norm, rel=0.15)


def test_a_spell_that_does_not_end_is_no_spell() -> None:
    norms = lognormal(400, 0.3, seed=9)
    norms[300:] *= 1e4
    assert advise(norms).verdict == "exploded"
    norms = lognormal(400, 0.3, seed=9)
    norms[340:] *= 1e4
    assert advise(norms).verdict == "exploded"


@pytest.mark.parametrize("kind", ["all zeros later", "zeros everywhere", "fading"])
def test_norms_that_vanish_are_refused(kind: str) -> None:
    """A policy that collapsed: it always acts the same, and has no gradient."""
    norms = lognormal(1000)
    if kind == "all zeros later":
        norms[700:] = 0.0
    elif kind == "zeros everywhere":
        norms[torch.arange(1000) % 5 < 3] = 0.0
    else:
        norms *= 1e-4 ** torch.linspace(0.0, 1.0, 1000, dtype=torch.float64)
    advice = advise(norms)
    assert advice.verdict == "vanished"
    assert advice.headline.startswith("No advice: the norms vanish: ")
    words = {"all zeros later": "100 % of the last quarter of the steps", "zeros everywhere": "60 % of the steps have"}
    assert words.get(kind, "the last quarter's median is 0.0014") in advice.headline
    assert (advice.suggestions, advice.code) == ((), None)


@pytest.mark.parametrize("value", [NAN, INF])
def test_half_of_the_norms_not_finite_is_the_headline(value: float) -> None:
    norms = lognormal(1000)
    norms[101::2] = value
    advice = advise(norms)
    assert advice.verdict == "not finite"
    assert advice.headline == "No advice: 47 % of the norms are NaN or infinite. No bound helps against these."
    assert "The first is at step 102." in advice.reasons[0]
    norms[141::2] = 1.0  # a scaler that looks for its scale
    assert advise(norms).verdict == "clip"


def test_a_run_that_broke_after_a_few_steps_is_not_to_record_more() -> None:
    norms = lognormal(34)
    norms[8:] = NAN
    assert advise(norms).headline == (
        "No advice: 0 usable steps, where 20 are needed. 26 are not finite or 0: find out why first."
    )


def test_a_heavy_tail_says_what_is_known_of_reinforcement_learning() -> None:
    assert any("0.5 for PPO" in reason for reason in advise(exploded("heavy tail")).reasons)
    assert not any("PPO" in reason for reason in advise(exploded("new level")).reasons)


def test_one_spike_in_a_hundred_is_no_explosion_but_three_are() -> None:
    norms = lognormal(2020, 0.3, seed=8)
    few, many = norms.clone(), norms.clone()
    few[150::120] *= 1000.0
    many[25::34] *= 1000.0
    assert (advise(few).verdict, advise(few).spikes) == ("clip", 16)
    assert advise(many).verdict == "exploded"


@pytest.mark.parametrize(("sd", "steps", "most"), [(0.3, 120, 0), (0.7, 120, 1), (0.9, 120, 3), (1.0, 20_000, 0)])
def test_noisy_but_healthy_norms_are_hardly_ever_refused(sd: float, steps: int, most: int) -> None:
    """The tail index of a short series is a rough estimate: it speaks where it is low beyond doubt."""
    found = [signs(lognormal(steps, sd, seed=seed)) for seed in range(30)]
    assert sum(each.explosive_tail or each.explosive_spread for each in found) <= most


@pytest.mark.parametrize(("count", "aside"), [(15, True), (30, False)])
def test_what_becomes_of_spikes_is_said(count: int, aside: bool) -> None:
    """Many are norms of the run, and do move the thresholds."""
    norms = lognormal(2000, 0.2, seed=3)
    quiet = advise(norms)
    norms[200 :: 1800 // count] = torch.linspace(6.0, 7.0, count, dtype=torch.float64)
    advice = advise(norms)
    assert advice.verdict == "clip" and advice.spikes == count
    moved = advice.suggestions[1].max_norm / quiet.suggestions[1].max_norm
    said = "Such steps, and those that trail them, are left out" if aside else "too many, or too early, to be left"
    assert said in advice.reasons[0] and (moved < 1.01) == aside


def test_a_run_that_was_clipped_at_nothing_took_no_step() -> None:
    """To multiply its learning rate by what gradients were multiplied by would be to learn nothing."""
    norms = lognormal(200)
    held, learning = (series(norms, thresholds=torch.full_like(norms, bound)) for bound in (0.0, 0.5))
    assert advise(held).headline == "No advice: the run was clipped at 0, so it took no step."
    assert advise(held).suggestions == () and advise(held).verdict == "already clipped"
    assert advise(learning).verdict == "lower the learning rate"


def test_a_recording_that_ends_in_spikes_says_so() -> None:
    norms = lognormal(1000)
    norms[-4:] = torch.tensor([30.0, 400.0, 1e4, 1e6], dtype=torch.float64)
    advice = advise(norms)
    assert advice.verdict == "clip"
    ending = "The recording ends in spikes: the run may have diverged there."
    assert ending in advice.reasons
    norms[-2] = 1.0
    assert ending not in advise(norms).reasons


HINT = "Most of the largest norms are early. If the run was only settling, leave out more as warm-up."


@pytest.mark.parametrize("settling", [30, 40, 50])
def test_a_run_that_has_to_settle_gets_a_longer_warm_up(settling: int) -> None:
    """Its norms fall from thirty times what they come to; the loss need not be known."""
    norms = lognormal(800) * (1.0 + 29.0 * (-torch.arange(800, dtype=torch.float64) / settling).exp())
    quiet = advise(lognormal(800))
    advice = advise(norms)
    assert advice.verdict == "clip"
    assert 40 < advice.warmup <= 400
    assert f"The norms had to settle: the first {advice.warmup} steps are left out as warm-up." in advice.reasons
    assert advice.usable == 800 - advice.warmup
    sampled = advise(Series("run", 10 * torch.arange(1, 801), norms)).reasons  # of rows ten steps apart
    assert f"The norms had to settle: the first {10 * advice.warmup:,} steps are left out as warm-up." in sampled
    for found, expected in zip(advice.suggestions, quiet.suggestions, strict=True):
        assert found.max_norm == pytest.approx(expected.max_norm, rel=0.15)
    assert advise(norms, warmup=20).verdict == "exploded"  # as asked for
    assert HINT in advise(norms, warmup=20).reasons


def test_a_run_that_settles_all_the_while_is_drift() -> None:
    norms = lognormal(800) * (1.0 + 29.0 * (-torch.arange(800, dtype=torch.float64) / 120).exp())
    assert advise(norms).verdict == "drifting"


@pytest.mark.parametrize("kind", ["leap", "later", "loss"])
def test_large_norms_at_the_beginning_of_a_run_that_is_lost_are_no_settling(kind: str) -> None:
    norms = lognormal(800) * (1.0 + 29.0 * (-torch.arange(800, dtype=torch.float64) / 60).exp())
    losses = None
    if kind == "leap":  # far above the first three steps, and never down to them
        norms[:3] = 0.3
    elif kind == "later":  # calm until then
        norms[100:] = norms[:-100].clone()
        norms[:100] = lognormal(100)
        norms[:3] = 3.0
    else:
        losses = torch.linspace(2.0, 9.0, 800, dtype=torch.float64)
    advice = advise(series(norms, losses=losses))
    assert advice.verdict == "exploded"
    assert (HINT in advice.reasons) == (kind != "loss")
    assert advice.warmup == 40


def test_norms_that_grow_are_judged_the_same_with_losses_and_without() -> None:
    """Fivefold is drift, fiftyfold an explosion; that the loss falls, or is not known, changes nothing."""
    falling = torch.linspace(9.0, 2.0, 3000, dtype=torch.float64)
    falling[::10] = NAN
    for factor, verdict, words in ((5.0, "drifting", "rises by a factor of"), (50.0, "exploded", "looks exploded")):
        norms = lognormal(3000) * factor ** torch.linspace(0.0, 1.0, 3000, dtype=torch.float64)
        alone = advise(norms)
        assert (alone.verdict, words in alone.headline) == (verdict, True)
        for losses in (falling, constant(norms, NAN), -falling):
            advice = advise(series(norms, losses=losses))
            assert (advice.verdict, advice.headline, advice.code) == (verdict, alone.headline, alone.code)
            assert (advice.reasons, advice.suggestions) == (alone.reasons, alone.suggestions)


@pytest.mark.parametrize(("leap", "verdict"), [(9.0, "clip"), (14.0, "exploded")])
def test_a_run_that_was_lost_at_once_is_told_by_its_first_steps(leap: float, verdict: str) -> None:
    """Its norms are calm: a network whose units are saturated has large gradients that hardly vary."""
    norms = lognormal(400, 0.1)
    norms[5:] *= leap
    advice = advise(norms)
    assert advice.verdict == verdict
    assert any("The norms leapt at once: their median is" in reason for reason in advice.reasons) == (leap > 10.0)
    learning = torch.linspace(6.7, 2.0, 400, dtype=torch.float64)
    assert advise(series(norms, losses=learning)).verdict == verdict


@pytest.mark.parametrize(("end", "verdict"), [(3.0, "clip"), (6.7, "clip"), (9.0, "clip"), (12.0, "exploded")])
def test_a_loss_that_ends_far_above_its_beginning_is_that_of_a_lost_run(end: float, verdict: str) -> None:
    """Though it may have fallen from where it was in between."""
    losses = torch.full((400,), end, dtype=torch.float64)
    losses[:3], losses[3:150] = 6.7, 40.0
    losses[380::4] = INF
    advice = advise(series(lognormal(400), losses=losses))
    assert advice.verdict == verdict
    if verdict == "exploded":
        assert advice.reasons[0] == "The loss rises: it ends 1.79 times as high as it begins."
        assert advise(series(lognormal(400), losses=-losses)).verdict == "clip"  # the reward of an agent, say


def test_a_loss_that_hovers_about_zero_says_nothing_by_its_size() -> None:
    """That of an agent may begin at 0, as where a policy is its own reference, and be a hundred times as high later."""
    for losses in (torch.linspace(0.0, 0.05, 400), torch.linspace(1e-4, 0.05, 400) * torch.arange(400).cos()):
        advice = advise(series(lognormal(400), losses=losses.double()))
        assert advice.verdict == "clip"


def test_a_loss_that_falls_back_but_not_down_does_not_excuse_norms_that_grow() -> None:
    norms = lognormal(3000) * 5.0 ** torch.linspace(0.0, 1.0, 3000, dtype=torch.float64)
    losses = torch.linspace(9.0, 7.0, 3000, dtype=torch.float64)
    losses[:3] = 6.0
    assert advise(series(norms, losses=losses)).verdict == "exploded"


@pytest.mark.parametrize("usable", [0, 1, 19])
def test_too_few_steps_are_an_answer(usable: int) -> None:
    norms = lognormal(20 + usable)
    advice = advise(norms, warmup=20)
    assert advice.verdict == "too few steps"
    assert advice.headline == (
        f"No advice: {usable} usable step{'' if usable == 1 else 's'}, where 20 are needed. Record more."
    )
    assert advice.usable == usable
    assert math.isnan(advice.median)


@pytest.mark.parametrize("sd", [0.1, 0.3])
def test_thirty_rows_are_enough_for_a_rough_answer(sd: float) -> None:
    advice = advise(lognormal(30, sd))
    assert (advice.verdict, advice.usable, advice.certainty) == ("clip", 20, "rough")
    assert advice.sure.startswith("How sure: rough, because 20 steps are few")
    assert all(each.low < 0.97 * each.max_norm and 1.03 * each.max_norm < each.high for each in advice.suggestions)


def test_too_few_rows_of_a_long_run_say_what_to_set() -> None:
    norms = lognormal(20)
    advice = advise(Series("run", 500 * torch.arange(1, 21), norms))
    assert advice.headline == (
        "No advice: 19 usable steps, where 20 are needed. "
        "Log every step (`logging_steps=1` in a Trainer), not one in 500."
    )


def test_too_few_because_most_are_not_finite() -> None:
    norms = lognormal(1000)
    norms[60:] = NAN
    assert "940 are not finite or 0: find out why first" in advise(norms).headline
    assert advise([]).headline.startswith("No advice: 0 usable steps")


def test_norms_after_clipping_are_told_by_their_maximum() -> None:
    norms = lognormal(1000).clamp(max=1.2)
    advice = advise(norms)
    assert advice.verdict == "already clipped"
    assert "28 % of the norms are the same and the largest, 1.2." in advice.headline
    assert advise(lognormal(1000).mul(100).round().div(100)).verdict == "clip"  # logged with two decimals


@pytest.mark.parametrize(("decimals", "bound"), [(15, 1.5), (15, 1.7), (4, 1.5), (2, 1.5)])
def test_a_bound_that_few_norms_reached_is_told_by_the_pile_below_it(decimals: int, bound: float) -> None:
    norms = lognormal(2000)
    whole = (norms.clamp(max=bound) * 10.0**decimals).round() / 10.0**decimals
    assert advise(whole).verdict == "already clipped"
    assert advise(norms.clamp(max=bound * 2.0)).verdict == "clip"


@pytest.mark.parametrize(("median", "decimals"), [(0.3, 1), (0.3, 2), (1.0, 1), (1.0, 2), (30.0, 0)])
def test_norms_that_were_rounded_are_no_pile(median: float, decimals: int) -> None:
    for seed in range(5):
        norms = (lognormal(2000, 0.2, seed=seed) * median).mul(10**decimals).round().div(10**decimals)
        assert advise(norms).verdict != "already clipped"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_norms_from_one_end_of_all_numbers_to_the_other(sign: float) -> None:
    """They are no error."""
    norms = [10.0 ** (sign * (2.0 * i - 200.0)) for i in range(250)]
    assert advise(norms).verdict == ("exploded" if sign > 0.0 else "vanished")
