"""What is advised, from what, and in which words."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import reference_advice as oracle
from analysis.norms import INF, NAN, constant, exploded, lognormal, series
from gradclip.analysis import Advice, advise
from gradclip.analysis.advice.held_against import recorded_bound
from gradclip.analysis.advice.judged import judged
from gradclip.analysis.amounts import percent
from gradclip.analysis.series import Series


def test_a_threshold_that_is_the_balanced_one_is_not_called_stricter() -> None:
    wide, narrow = advise(lognormal(2000, 0.7)), advise(lognormal(2000, 0.2))
    assert wide.suggestions[0].max_norm == wide.suggestions[1].max_norm
    assert re.fullmatch(r"Clip at [\d.]+\. Only against spikes: [\d.]+\.", wide.headline)
    assert re.fullmatch(r"Clip at [\d.]+\. Stricter: [\d.]+; only against spikes: [\d.]+\.", narrow.headline)
    same = torch.ones(1000, dtype=torch.float64)
    same[::20] = torch.linspace(1.01, 1.1, 50, dtype=torch.float64)
    assert advise(same).headline == "Clip at 1."


@pytest.mark.parametrize(
    ("factor", "words"),
    [(8.0, "falls by a factor of"), (0.26, "rises by a factor of"), (0.4, None), (2.5, None)],
    ids=["falls", "rises", "rises little", "falls little"],
)
def test_a_level_that_moves_more_than_threefold_is_drift(factor: float, words: str | None) -> None:
    steps = torch.linspace(0.0, 1.0, 3000, dtype=torch.float64)
    advice = advise(lognormal(3000) * factor**-steps)
    if words is None:
        assert advice.verdict == "clip"
        return
    assert advice.verdict == "drifting"
    assert words in advice.headline
    assert advice.code == f"FixedNorm(max_norm={advice.suggestions[1].max_norm:.3g})"
    assert "MedianClip" not in str(advice)
    assert advice.drift == pytest.approx(factor**-0.9, rel=0.1)  # without the warm-up, between the middles of pieces
    assert len(advice.suggestions) == 3


def test_a_fast_fall_in_the_beginning_is_no_drift() -> None:
    steps = torch.arange(3000, dtype=torch.float64)
    assert advise(lognormal(3000) * (1.0 + 3.0 * (-steps / 100.0).exp())).verdict == "clip"


def test_a_bound_below_most_norms_asks_for_a_lower_learning_rate() -> None:
    norms = 20.0 * lognormal(1000)
    advice = advise(series(norms, thresholds=constant(norms, 1.0), clipped=norms > 1.0))
    assert advice.verdict == "lower the learning rate"
    assert advice.headline == "Lower the learning rate instead: 100 % of the steps are above the bound of 1."
    mean = np.mean(1.0 / norms[50:].numpy())
    assert f"multiplied by {mean:.3g} on average" in advice.reasons[0]
    assert (advice.recorded_bound, advice.recorded_share) == (1.0, 1.0)
    assert advice.max_norm == float(f"{advice.suggestions[1].max_norm:.3g}")


def test_the_optimizer_decides_whether_a_lower_learning_rate_is_the_remedy() -> None:
    """Steps of SGD are as long as its gradients, those of Adam are not; an unknown optimizer hears of both."""
    norms = 20.0 * lognormal(1000)
    rates = constant(norms, 0.1)
    run = series(norms, thresholds=constant(norms, 1.0), lrs=rates)
    for name in ("SGD", "sgd with momentum"):
        advice = advise(run, optimizer=name)
        assert advice.verdict == "lower the learning rate"
        mean = np.mean(1.0 / norms[50:].numpy())
        assert f"lower by as much, {0.1 * mean:.3g} and not 0.1: multiply yours by it" in advice.reasons[0]
        assert "Adam" not in str(advice)
    for name in ("AdamW", "FusedAdam", "Adafactor", "RMSprop", "Lion"):
        advice = advise(run, optimizer=name)
        assert (advice.verdict, advice.code) == ("clip", f"FixedNorm(max_norm={advice.suggestions[1].max_norm:.3g})")
        assert f"Under {name} that hardly shortens them" in advice.reasons[0]
        assert advice.headline == advise(norms).headline
    recorded = series(norms, thresholds=constant(norms, 1.0), optimizer="AdamW")
    assert advise(recorded).verdict == "clip"
    assert advise(recorded, optimizer="SGD").verdict == "lower the learning rate"  # who is told knows better
    assert "Under Adam and its like" in advise(run).reasons[1]
    with pytest.raises(TypeError, match=re.escape("`advise(optimizer=...)` must be the name of a class, got type.")):
        advise(run, optimizer=torch.optim.SGD)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", ["removed", "guard", "idle"])
def test_nothing_is_printed_that_needs_the_documentation(words: str) -> None:
    for _, advice in texts():
        assert words not in str(advice)


def test_shares_are_those_of_the_recorded_run_and_say_so() -> None:
    """1.1 % were promised and 88 % seen, at four times the learning rate."""
    text = str(advise(lognormal(1000)))
    assert "recorded steps clipped" in text and "recorded norm cut off" in text
    assert "at a higher learning rate, or later, far more steps may be clipped" in text
    assert "number of accumulated batches" in text
    assert "recorded" not in str(advise(lognormal(25))).split("Judged")[0]


@pytest.mark.parametrize(("bound", "verdict"), [(0.99, "lower the learning rate"), (1.02, "clip"), (1.5, "clip")])
def test_more_than_half_is_the_limit(bound: float, verdict: str) -> None:
    norms = lognormal(10_000)
    advice = advise(series(norms, thresholds=constant(norms, bound)))
    assert advice.verdict == verdict
    assert advice.recorded_share == oracle.share_clipped(norms[500:].tolist(), bound)


@pytest.mark.parametrize("factor", [1.0, 5.0], ids=["steady", "rising"])
def test_a_bound_that_was_never_reached_changes_nothing(factor: float) -> None:
    """The same norms, the same answer: nobody knows why it was so high."""
    norms = lognormal(4000) * factor ** torch.linspace(0.0, 1.0, 4000, dtype=torch.float64)
    alone = advise(norms)
    assert alone.code == f"FixedNorm(max_norm={alone.suggestions[1].max_norm:.3g})"
    for bound in (35.0, 1000.0):
        advice = advise(series(norms, thresholds=constant(norms, bound)))
        assert (advice.verdict, advice.headline, advice.code) == (alone.verdict, alone.headline, alone.code)
        assert advice.suggestions == alone.suggestions
        assert any(reason.startswith(f"No norm reached the bound of {bound:g}.") for reason in advice.reasons)


@pytest.mark.parametrize("moves", [False, True])
def test_a_bound_that_is_hardly_reached_is_to_be_kept(moves: bool) -> None:
    """Do nothing: no threshold to use is printed, and no code but what to keep."""
    norms = lognormal(4000)
    bounds = constant(norms, norms.sort().values[-2].item())
    if moves:
        bounds[-1] *= 1.5
    advice = advise(series(norms, thresholds=bounds))
    assert advice.verdict == "clipping is idle"
    what = "the moving bound" if moves else f"the bound of {bounds[0]:.3g}"
    assert advice.headline == f"Do nothing: 0.026 % of the steps are above {what}, and none is a spike."
    assert advice.suggestions == ()
    assert advice.max_norm == (None if moves else bounds[0])
    assert advice.usage == (
        "" if moves else f"Keep: {advice.code}, or clip_grad_norm_(parameters, max_norm={bounds[0]:g})"
    )
    assert str(advice).count("max_norm") == (0 if moves else 2)
    norms[2000] = 30.0  # a spike
    assert advise(series(norms, thresholds=bounds)).verdict == "clip"


def test_without_a_recorded_bound_nothing_is_idle() -> None:
    norms = lognormal(4000)
    for thresholds in (None, constant(norms, INF), constant(norms, NAN)):
        advice = advise(series(norms, thresholds=thresholds))
        assert (advice.verdict, advice.recorded_bound, advice.recorded_share) == ("clip", None, None)


def test_a_rule_that_means_to_clip_most_steps_is_no_reason_for_another_learning_rate() -> None:
    norms = lognormal(1000)
    bounds = norms * torch.linspace(0.5, 1.05, 1000, dtype=torch.float64)
    advice = advise(series(norms, thresholds=bounds))
    assert advice.verdict == "clip"
    assert math.isnan(advice.recorded_bound or 0.0)
    assert advice.recorded_share == pytest.approx(0.904, abs=0.002)
    assert any("are above the moving bound" in reason for reason in advice.reasons)


def test_a_rule_that_bounds_spikes_alone_has_no_bound_on_other_steps() -> None:
    """A file has no number where a bound is infinite."""
    norms = lognormal(1000)
    norms[500] = 50.0
    bounds = constant(norms, NAN)
    bounds[500] = 2.0
    assert advise(series(norms, thresholds=bounds)).recorded_share == 1 / 950
    bound = recorded_bound(series(norms, thresholds=bounds), judged(series(norms), None))
    assert bound is not None
    assert bound.coefficient == pytest.approx((949 + 2.0 / 50.0) / 950)


@pytest.mark.parametrize("warmup", [0, 200], ids=["never", "while it warms up"])
def test_steps_that_were_shortened_by_parts_are_told_of(warmup: int) -> None:
    """A threshold lets steps be as long as they were not in the recorded run, by `by_group` or `AdaGC` for instance."""
    norms = lognormal(1000)
    bounds = constant(norms, NAN)
    bounds[:warmup] = 0.2
    known = {"thresholds": bounds, "norms_after": 0.2 * norms}
    for name in ("SGD", None):
        run = series(norms, clipped=torch.ones(1000, dtype=torch.bool), optimizer=name, **known)
        said = next(reason for reason in advise(run).reasons if "no recorded bound" in reason)
        share = (950 - max(0, warmup - 50)) / 950
        assert said.startswith(f"{percent(share)} of the steps were clipped by no recorded bound on the total norm, ")
        assert "and multiplied by 0.2 on average. With SGD, these steps can be longer by as much" in said
    run = series(norms, clipped=torch.ones(1000, dtype=torch.bool), optimizer="AdamW", **known)
    assert "Under AdamW that hardly shortens them." in str(advise(run)) and "With SGD" not in str(advise(run))
    unknown = series(norms, clipped=torch.ones(1000, dtype=torch.bool))
    assert "no recorded bound on the total norm. With SGD" in str(advise(unknown))
    few = series(norms, clipped=torch.arange(1000) % 3 == 0, **known)
    assert "no recorded bound" not in str(advise(few))


def test_the_parameters_that_make_up_the_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    norms = lognormal(1000)
    each = [
        (step, dict(zip(("head", "body", "scale"), (torch.rand(3, generator=generator) + 1e-3).tolist(), strict=True)))
        for step in range(1, 1001, 10)
    ]
    each[0][1]["head"] = 1e300  # in the warm-up
    each[50][1]["body"] = NAN
    each[60] = (each[60][0], {"head": 0.0, "body": 0.0})
    advice = advise(series(norms, each=tuple(each)))
    counted = [row for step, row in each if step > 50 and all(0.0 < x < INF for x in row.values())]
    expected = sorted(oracle.dominating(counted).items(), key=lambda pair: -pair[1])
    assert [name for name, _ in advice.dominating] == [name for name, _ in expected]
    assert [share for _, share in advice.dominating] == pytest.approx([share for _, share in expected], rel=1e-12)
    assert sum(share for _, share in advice.dominating) == pytest.approx(1.0)


def test_one_parameter_that_is_most_of_the_norm_is_named() -> None:
    norms = lognormal(500)
    row = {"embedding": 3e200, "head": 1e200}
    advice = advise(series(norms, each=tuple((step, row) for step in range(1, 501))))
    assert advice.dominating == (("embedding", pytest.approx(0.9)), ("head", pytest.approx(0.1)))
    assert any(reason.startswith("embedding has 90 % of the squared norm") for reason in advice.reasons)
    assert "Shares of the squared norm: embedding 90 %, head 10 %." in str(advice)


def test_a_run_that_went_on_elsewhere_is_judged_as_one() -> None:
    """Steps of a resumed run go on, here after a gap; the beginning is that of the recording."""
    norms = lognormal(1000)
    steps = torch.cat([torch.arange(1, 501), torch.arange(9001, 9501)])
    resumed = advise(Series("run", steps, norms))
    assert resumed.suggestions == advise(norms).suggestions
    each = tuple((int(step), {"early" if step < 9001 else "late": 1.0}) for step in steps)
    later = Series("run", steps[500:], norms[500:], each=each)
    assert advise(later).dominating == (("late", 1.0),)


def test_a_warm_up_is_of_steps_and_not_of_rows() -> None:
    """Of a run of which every 500th step was recorded, a twentieth is left out, and no 20 rows."""
    norms = lognormal(119)
    sparse = Series("run", torch.arange(500, 60_000, 500), norms)
    assert (advise(sparse).warmup, advise(sparse).verdict) == (5, "clip")
    assert advise(sparse, warmup=1000).warmup == 2
    assert advise(norms).warmup == 20


def test_accepts_what_people_have() -> None:
    norms = lognormal(300)
    expected = advise(norms)
    assert expected.source == "norms"
    for same in (
        norms.tolist(),
        tuple(norms.tolist()),
        iter(norms.tolist()),
        norms.numpy(),
        list(norms),
        series(norms),
    ):
        assert advise(same).suggestions == expected.suggestions
    assert advise(norms.float()).suggestions[0].max_norm == pytest.approx(expected.suggestions[0].max_norm, rel=1e-6)


def test_reads_files(tmp_path: Path) -> None:
    norms = lognormal(300)
    path = tmp_path / "run.jsonl"
    lines = [{"step": step, "total_norm": norm} for step, norm in enumerate(norms.tolist(), start=1)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    for name in (path, str(path)):
        advice = advise(name)
        assert advice.source == str(path)
        assert advice.suggestions == advise(norms).suggestions
    with pytest.raises(ValueError, match="there is no such file"):
        advise(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    ("run", "error", "words"),
    [
        ([1.0, -1.0], ValueError, "`advise(run=...)` must hold norms >= 0, got a negative one at step 2"),
        (torch.tensor([1.0, -1.0]), ValueError, "Pass norms, not logarithms"),
        (3.0, TypeError, "`advise(run=...)` must be a recording, got float. Pass one total norm for each step."),
        ([1.0, None], TypeError, "`advise(run=...)` must be a number, got None"),
        ([{"a": 1.0}], TypeError, "must be a number, got {'a': 1.0}"),
        (torch.ones(200, 3), ValueError, "got rows of several. Pass the total norms."),
    ],
)
def test_refuses_what_is_no_recording(run: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        advise(run)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"warmup": -1}, "`advise(warmup=...)` must be an integer and >= 0, got -1"),
        ({"warmup": 0.5}, "`advise(warmup=...)` must be an integer"),
        ({"seed": -1}, "`advise(seed=...)` must be an integer and >= 0, got -1"),
    ],
)
def test_checks_its_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        advise(lognormal(300), **arguments)


def test_warmup_is_what_it_is_asked_to_be() -> None:
    norms = lognormal(300)
    for warmup, expected in ((0, 300), (100, 200), (1000, 0), (None, 280)):
        assert advise(norms, warmup=warmup).usable == expected


def texts() -> Sequence[tuple[str, Advice]]:
    norms = lognormal(4000)
    reached = constant(norms, norms.sort().values[-2].item())
    bounded = series(norms, thresholds=reached, remarks=("The last line is torn.",))
    return [
        ("clip", advise(lognormal(1000))),
        ("clipping is idle", advise(bounded)),
        ("too few steps", advise(lognormal(25))),
        ("exploded", advise(exploded("heavy tail"))),
    ]


@pytest.mark.parametrize(("verdict", "advice"), texts(), ids=[verdict for verdict, _ in texts()])
def test_text_and_dictionary_say_the_same(verdict: str, advice: Advice) -> None:
    """JSON that is strict, and lines that people read: the verdict first."""
    found = json.loads(json.dumps(advice.to_dict(), allow_nan=False))
    lines = str(advice).splitlines()
    assert found["verdict"] == advice.verdict == verdict
    assert lines[0] == found["headline"]
    assert found["code"] == advice.code
    assert ("In code: " in str(advice)) == bool(found["suggestions"])
    assert ("Keep: " in str(advice)) == (verdict == "clipping is idle")
    assert bool(advice.usage) == (advice.max_norm is not None)
    for suggestion, line in zip(found["suggestions"], lines[3:6], strict=False):
        assert line.split()[:2] == [suggestion["name"], f"{suggestion['max_norm']:.3g}"]
    assert found["median"] is None if verdict == "too few steps" else found["median"] > 0
    assert f"Judged: {advice.usable:,} of {advice.steps:,} steps of {advice.source}." in str(advice)
    assert str(advice).endswith("The last line is torn.") == (verdict == "clipping is idle")
