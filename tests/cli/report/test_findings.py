"""What is found out about a run, before any of it is written."""

import math
from pathlib import Path

import pytest
import torch

from cli.report.made import training, write
from gradclip.analysis.reading import read_series
from gradclip.analysis.series import Event, Series
from gradclip.cli.events import described
from gradclip.cli.page.run import REPLAYED, Run
from gradclip.cli.page.tensors import Tensors
from gradclip.cli.page.verdict import verdict
from gradclip.policies import AutoClip, FixedNorm, MedianClip, ZClip
from gradclip.records.alarms import MEANINGS

NAN, INF = math.nan, math.inf


def series(norms: list[float], **more: object) -> Series:
    values = torch.tensor(norms, dtype=torch.float64)
    return Series("run", torch.arange(1, len(norms) + 1), values, **more)


def bound(value: float, steps: int) -> torch.Tensor:
    return torch.full((steps,), value, dtype=torch.float64)


def test_facts_of_a_run_with_everything() -> None:
    norms = [1.0, 4.0, NAN, 2.0, INF]
    after = torch.tensor([1.0, 2.0, NAN, 2.0, NAN], dtype=torch.float64)
    clipped = torch.tensor([False, True, False, False, False])
    skipped = torch.tensor([False, False, True, False, True])
    found = Run(series(norms, norms_after=after, clipped=clipped, skipped=skipped))
    assert (found.steps, found.first, found.last) == (5, 1, 5)
    assert (found.share_clipped, found.skipped, found.nonfinite) == (0.2, 2, 2)
    assert (found.median, found.percentiles[99], found.largest) == (2.0, pytest.approx(3.96), 4.0)
    assert (found.largest_step, found.largest_after) == (2, 2.0)


def test_facts_of_a_run_with_nothing() -> None:
    found = Run(series([NAN, NAN]))
    assert (found.share_clipped, found.skipped, found.nonfinite, found.largest_step) == (None, None, 2, 0)
    assert all(map(math.isnan, (found.median, found.largest, found.largest_after)))


def test_the_threshold_is_the_one_of_all_steps() -> None:
    bounds = torch.tensor([NAN, 2.0, 2.0], dtype=torch.float64)
    assert Run(series([1.0] * 3, thresholds=bounds)).threshold == 2.0
    assert Run(series([1.0] * 3, thresholds=bounds * torch.tensor([1, 1, 2]))).threshold is None
    assert Run(series([1.0] * 3, thresholds=bounds * NAN)).threshold is None
    assert Run(series([1.0] * 3)).threshold is None


def test_percentiles_are_interpolated() -> None:
    found = Run(series([float(i) for i in range(101)] + [NAN])).percentiles
    assert found == {1: 1.0, 10: 10.0, 50: 50.0, 90: 90.0, 99: 99.0, 99.9: pytest.approx(99.9), 100: 100.0}


def test_stretches_cover_all_steps() -> None:
    run = Run(series([float(i) for i in range(1, 26)], thresholds=bound(20.0, 25)))
    found = run.stretches
    assert len(found) == 10
    assert [found[0].first, found[-1].last] == [1, 25]
    assert sum(each.last - each.first + 1 for each in found) == 25
    first = found[0]
    assert (first.last, first.median, first.largest, first.share_clipped) == (3, 2.0, 3.0, 0.0)
    assert found[-1].share_clipped == 1.0
    assert len(Run(series([1.0])).stretches) == 1


@pytest.mark.parametrize(
    ("norms", "threshold", "tone", "words"),
    [
        ([NAN] * 3, 1.0, "bad", "No norm is finite, in 3 steps."),
        ([1.0] * 97 + [NAN] * 3, 2.0, "bad", "The norm is NaN or infinite on 3.0 % of the steps (3)"),
        ([1.0, 2.0] * 50, None, "note", "What clipping did was not recorded: the largest norm was 2, the median 1.5."),
        (
            [1.0, 2.0, 2.0] * 50,
            1.5,
            "look",
            "67 % of the steps were clipped: the threshold, more than the learning rate",
        ),
        ([1.0, 2.0] * 50, 3.0, "good", "None of 100 steps was clipped: the largest norm was 2"),
        (
            [1.0] * 98 + [5.0] * 2,
            2.0,
            "good",
            "Clipping acted on 2.0 % of the steps and let no norm above 2 through; the",
        ),
    ],
)
def test_the_verdict_is_a_sentence(norms: list[float], threshold: float | None, tone: str, words: str) -> None:
    known = torch.tensor(norms, dtype=torch.float64)
    more = {}
    if threshold is not None:
        more = {"thresholds": bound(threshold, len(norms)), "norms_after": known.clamp(max=threshold)}
    found, sentence = verdict(Run(series(norms, **more)))
    assert found == tone
    assert sentence.startswith(words)


def test_an_explosion_is_said_first() -> None:
    generator = torch.Generator().manual_seed(0)
    norms = torch.rand(2000, generator=generator, dtype=torch.float64).pow(-1.5)
    run = Series("run", torch.arange(2000), norms, thresholds=bound(1e9, 2000))
    tone, sentence = verdict(Run(run))
    assert (tone, sentence[:29]) == ("bad", "The gradients look exploded: ")


def test_a_run_with_an_alarm_is_not_in_order() -> None:
    """Being idle is no fault; and what is worse stays so."""
    idle = Run(series([1.0, 2.0] * 3000, thresholds=bound(3.0, 6000)))
    drifting = Run(series([0.1] * 600 + [2.0] * 600, thresholds=bound(3.0, 1200)))
    broken = Run(series([0.1] * 600 + [2.0] * 600 + [NAN] * 600, thresholds=bound(3.0, 1800)))
    assert [list(run.alarms) for run in (idle, drifting, broken)] == [
        ["idle"],
        ["drifting norm"],
        ["drifting norm"],
    ]
    assert [verdict(run)[0] for run in (idle, drifting, broken)] == ["good", "look", "bad"]
    assert verdict(drifting)[1].startswith("None of 1,200 steps was clipped")


def test_events_are_those_recorded_and_those_that_norms_tell_of() -> None:
    recorded = (Event(2, "skipped_spike"), Event(4, "skipped_nonfinite", {"w": (1, 0)}))
    skipped = torch.tensor([False, True, True, True, False])
    run = Run(series([1.0, 9.0, 1.0, NAN, INF], skipped=skipped, events=recorded))
    found = run.events
    assert [(event.step, event.status) for event in found] == [
        (2, "skipped_spike"),
        (3, "skipped"),
        (4, "skipped_nonfinite"),
        (5, "nonfinite"),
    ]
    assert [described(event) for event in found] == [
        "skipped by the policy: a spike",
        "skipped",
        "skipped: the norm is not finite",
        "norm not finite",
    ]
    assert described(Event(1, "odd")) == "odd"


@pytest.mark.parametrize("status", ["ok", "clipped"])
def test_a_step_that_happened_on_a_norm_that_is_not_finite_was_not_ok(status: str, tmp_path: Path) -> None:
    """As under `nonfinite="propagate"`, and where a script clips by torch's functions."""
    records = training(60, every=0)
    records[29] |= {"status": status, "total_norm": None, "total_norm_after": None, "nonfinite": {"w": [1, 0]}}
    (event,) = Run(read_series(write(tmp_path / "run.jsonl", records))).events
    assert (event.step, described(event)) == (30, "norm not finite")


def test_culprits_are_those_that_were_not_finite_most_often() -> None:
    events = (Event(1, "x", {"b": (2, 2)}), Event(2, "x", {"w": (1, 0), "b": (0, 1)}))
    found = Run(series([NAN, NAN, 1.0], events=events))
    assert found.culprits == [("b", 2), ("w", 1)]


def test_alarms_are_those_of_training() -> None:
    """Two of three steps are clipped up to step 600, then none; one tensor has it all at step 700.

    The norm has drifted once 251 of the last 500 norms are 0.5, where most of steps 101 to 600 were 2.
    """
    norms = [2.0 if i % 3 else 0.5 for i in range(600)] + [0.5] * 600
    each = ((700, {"a": 0.5, "b": 0.01}), (800, {"a": 0.3, "b": 0.3}))
    known = torch.tensor(norms, dtype=torch.float64)
    more = {"thresholds": bound(1.0, 1200), "norms_after": known.clamp(max=1.0), "each": each}
    found = Run(series(norms, **more)).alarms
    assert list(found.items()) == [("mostly clipped", [500]), ("one tensor dominates", [700]), ("drifting norm", [727])]
    assert set(found) <= set(MEANINGS)
    assert Run(series([1.0] * 6000)).alarms == {}  # nothing is known of thresholds


def test_alarms_go_by_the_shares_that_were_recorded() -> None:
    """As those of training do: a policy may measure other parameters than those whose norms were recorded."""
    each, worst = ((1, {"a": 3.0, "b": 4.0}), (2, {"a": 0.0, "b": 1.0})), ((1, (("c", 0.95),)), (2, (("b", 0.5),)))
    found = Run(series([5.0, 1.0], each=each, worst=worst)).alarms
    assert found == {"one tensor dominates": [1]}
    assert Run(series([5.0, 1.0], each=each)).alarms == {"one tensor dominates": [2]}


def test_shares_are_of_the_sum_of_squares() -> None:
    norms = [(3.0, 4.0), (1e300, 1e300), (NAN, 2.0), (INF, 1.0), (0.0, 0.0)]
    shares = Tensors([(step, {"a": a, "b": b}) for step, (a, b) in enumerate(norms)]).norms["share"].to_list()
    assert shares[:6] == [pytest.approx(0.36), pytest.approx(0.64), 0.5, 0.5, 0.0, 1.0]
    assert shares[6:] == [None] * 4


def test_the_worst_tensor_is_the_one_with_the_largest_share_where_shares_are_known() -> None:
    rows = ({"a": 3.0, "b": 4.0}, {"a": INF, "b": 1.0}, {"a": 0.0, "b": 0.0}, {"a": NAN, "b": 2.0})
    found = Tensors(list(enumerate(rows, start=1)))
    assert found.worst == {1: (("b", pytest.approx(0.64)),), 4: (("b", 1.0),)}


def test_tensors_are_listed_by_their_share() -> None:
    each = ((1, {"a": 3.0, "b": 4.0}), (5, {"a": 6.0, "b": 8.0, "c": 0.0}))
    found = Tensors(each)
    assert found.table["name"].to_list() == ["a", "b", "c"]
    first, second, third = found.listed
    assert (first["name"], first["largest"], first["largest_step"], first["median"]) == ("b", 8.0, 5, 6.0)
    assert first["share"] == pytest.approx(0.64) == first["largest_share"]
    assert (second["name"], second["share"]) == ("a", pytest.approx(0.36))
    assert (third["name"], third["share"], third["largest"]) == ("c", 0.0, 0.0)
    assert Run(series([5.0])).tensors is None


def test_a_tensor_without_a_finite_norm_has_no_largest() -> None:
    found = Tensors([(1, {"a": NAN, "b": 1.0}), (2, {"a": INF, "step": 2.0})])
    last = found.listed[-1] if found.listed[-1]["name"] == "a" else found.listed[1]
    assert (last["name"], last["share"], last["median"], last["largest_step"]) == ("a", 0.0, None, None)
    assert (found.steps, found.worst) == (2, {1: (("b", 1.0),)})


def suggesting(thresholds: dict[str, float], norms: list[float]) -> Run:
    """A run for which these thresholds are advised."""
    run = Run(series(norms))
    vars(run)["suggested"] = thresholds
    return run


def test_candidates_are_fixed_at_suggestions_and_adaptive_below_the_largest() -> None:
    found = suggesting({"tight": 1.0, "conservative": 3.0}, [1.0, 2.0]).tried
    assert [each.policy for each in found] == [
        FixedNorm(1.0),
        FixedNorm(3.0),
        ZClip(3.0),
        AutoClip(3.0, percentile=90.0),
        MedianClip(3.0),
    ]
    assert [type(each.policy) for each in suggesting({}, [1.0, 2.0]).tried] == [ZClip, AutoClip, MedianClip]


def test_the_last_steps_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = [9.0] * 100 + [0.5, 2.0] * 50
    monkeypatch.setattr("gradclip.cli.page.run.REPLAYED", 100)
    found = suggesting({"tight": 1.0}, norms).tried
    assert found[0].replayed.share_clipped == 0.5
    assert [each.fixed for each in found] == [True, False, False, False]
    assert [len(each.replayed.thresholds) for each in found] == [100] * 4
    assert REPLAYED == 50_000
