"""A replay does to recorded norms what a clipper does to gradients of these norms."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradclip
from conftest import named
from gradclip.analysis import Replay, replay
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    BlockRMS,
    FixedNorm,
    FixedValue,
    MedianClip,
    Normalize,
    Policy,
    SmoothNorm,
    SpikeSkip,
    ZClip,
    by_group,
    by_name,
    chain,
    schedule,
    warmup,
)

INF, NAN = math.inf, math.nan
NAMES = ("encoder", "head", "scale")
SIZES = (40, 7, 1)

NONFINITE = {45: NAN, 61: INF}
"""Steps with an element that is not finite."""

OF_TOTAL: list[Policy] = [
    FixedNorm(5.0),
    SmoothNorm(5.0),
    Normalize(),
    AutoClip(20.0, percentile=90),
    AutoClip(INF, window=30),
    MedianClip(20.0),
    ZClip(20.0),
    ZClip(INF, patience=INF),
    SpikeSkip(20.0, window=32, warmup=16),
    chain(warmup(30, FixedNorm(3.0)), ZClip(INF)),
    schedule(lambda step: FixedNorm(4.0 + 4.0 * 0.9**step)),
]

OF_EACH: list[Policy] = [
    AdaGC(20.0, warmup=20),
    AdaGC(INF, patience=INF, warmup=20),
    FixedNorm(3.0, scope="parameter"),
    AutoClip(20.0, percentile=75, scope="parameter"),
    Normalize(scope="parameter"),
    by_name({"head": FixedNorm(1.0), "s*": ZClip(2.0)}, MedianClip(9.0)),
    chain(FixedNorm(6.0), AdaGC(INF, warmup=20), SpikeSkip(INF, window=32, warmup=16)),
]


class Trained:
    """What a clipper says of 140 steps: normal ones, a spike, a burst, a lasting rise, and two that are not finite."""

    def __init__(self, policy: Policy, *, missing: bool = False, losses: Sequence[float] | None = None) -> None:
        generator = torch.Generator().manual_seed(3)
        model = nn.ParameterDict({name: torch.ones(size) for name, size in zip(NAMES, SIZES, strict=True)})
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        clipper = gradclip.GradClipper(model, policy)
        self.results: list[gradclip.ClipResult] = []
        with clipper.attach(optimizer):
            for step in range(140):
                level = 30.0 if step in {60, *range(75, 82)} else 2.0 if step > 100 else 1.0
                level *= math.exp(0.2 * torch.randn((), generator=generator).item())
                slopes = {name: level * torch.randn(p.shape, generator=generator) for name, p in model.items()}
                if step in NONFINITE:
                    slopes["head"][0] = NONFINITE[step]
                if missing and step % 3 == 1:
                    slopes.pop("scale" if step % 2 else "encoder")
                optimizer.zero_grad()
                torch.stack([(model[name] * slope).sum() for name, slope in slopes.items()]).sum().backward()
                if losses is not None:
                    clipper.observe_loss(losses[step])
                optimizer.step()
                assert clipper.last is not None
                self.results.append(clipper.last)

    @property
    def totals(self) -> list[float]:
        return [result.total_norm for result in self.results]

    @property
    def each(self) -> list[dict[str, float]]:
        """The norms of parameters; `norms()` leaves out those that are NaN."""
        return [{"head": NAN, **result.norms()} if i == 45 else result.norms() for i, result in enumerate(self.results)]

    def is_what(self, replayed: Replay) -> None:
        """Check that a replay did the same."""
        skipped = [result.skipped is not None for result in self.results]
        left = [NAN if result.skipped else result.total_norm_after for result in self.results]
        assert skipped.count(True) >= len(NONFINITE)
        assert same(replayed.norms, self.totals)
        assert same(replayed.norms_after, left)
        assert replayed.clipped.tolist() == [result.clipped for result in self.results]
        assert replayed.skipped.tolist() == skipped


def same(found: Tensor, expected: Sequence[float]) -> bool:
    """Whether two series are the same bit for bit, NaN where NaN is."""
    return torch.equal(found.nan_to_num(nan=-1.0), torch.tensor(expected, dtype=torch.float64).nan_to_num(nan=-1.0))


@pytest.mark.parametrize("policy", OF_TOTAL, ids=named)
def test_total_norms_meet_the_decisions_of_training(policy: Policy) -> None:
    trained = Trained(policy)
    replayed = replay(policy, trained.totals)
    trained.is_what(replayed)
    assert same(replayed.thresholds, [NAN if x.threshold is None else x.threshold for x in trained.results])


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("policy", OF_EACH, ids=named)
def test_norms_of_parameters_meet_the_decisions_of_training(policy: Policy, missing: bool) -> None:
    trained = Trained(policy, missing=missing)
    replayed = replay(policy, trained.each)
    trained.is_what(replayed)
    assert replayed.thresholds.shape == (140, 3)
    assert replayed.thresholds.isnan().any(1).nonzero().flatten().tolist() == list(NONFINITE)


def test_elements_limited_by_the_largest_are_known() -> None:
    policy = FixedValue(2.0)
    trained = Trained(policy)
    replayed = replay(policy, trained.totals, norm_type=INF)
    trained.is_what(replayed)
    assert replayed.largest_after == 2.0


def test_losses_meet_the_decisions_of_training() -> None:
    policy = SpikeSkip(INF, window=32, warmup=16)
    losses = [2.0 + 0.1 * math.sin(step) for step in range(140)]
    losses[90] = 9.0
    trained = Trained(policy, losses=losses)
    replayed = replay(policy, trained.totals, losses=losses)
    trained.is_what(replayed)
    assert bool(replayed.skipped[90])
    without = replay(policy, trained.totals, losses=[None if step == 90 else loss for step, loss in enumerate(losses)])
    assert not bool(without.skipped[90])


def test_a_total_norm_is_that_of_one_parameter() -> None:
    norms = Trained(FixedNorm(INF)).totals
    policy = AdaGC(20.0, warmup=20)
    alone, named = replay(policy, norms), replay(policy, [{"weight": norm} for norm in norms])
    assert same(alone.norms_after, named.norms_after.tolist())
    assert same(alone.thresholds, named.thresholds.flatten().tolist())
    assert alone.thresholds.shape == (140,)
    assert alone.share_clipped > 0.2


def test_a_tensor_holds_what_mappings_hold() -> None:
    policy = AdaGC(20.0, warmup=20)
    each = Trained(policy).each
    rows = torch.tensor([[step[name] for name in NAMES] for step in each], dtype=torch.float64)
    by_mapping = replay(policy, each)
    for replayed in (replay(policy, rows), replay(policy, rows, names=NAMES), replay(policy, list(rows))):
        assert same(replayed.norms_after, by_mapping.norms_after.tolist())
        assert same(replayed.thresholds.flatten(), by_mapping.thresholds.flatten().tolist())
    assert replay(by_name({"head": FixedNorm(1e-9)}), rows, names=NAMES).share_clipped > 0.9


def test_a_policy_of_the_total_takes_norms_of_parameters() -> None:
    replayed = replay(FixedNorm(10.0), [{"a": 3.0, "b": 4.0}, {"b": 30.0}, {"a": 6.0, "b": 8.0}])
    assert replayed.norms.tolist() == [5.0, 30.0, 10.0]
    assert replayed.norms_after.tolist() == pytest.approx([5.0, 10.0, 10.0], rel=1e-6)
    assert replayed.thresholds.tolist() == [10.0] * 3


FORMS: list[Callable[[list[float]], Any]] = [
    tuple,
    iter,
    torch.tensor,
    np.array,
    lambda norms: torch.tensor(norms).requires_grad_(),
    lambda norms: [torch.tensor(norm) for norm in norms],
    lambda norms: [np.float32(norms[0]), torch.tensor(norms[1]), *norms[2:]],
]


@pytest.mark.parametrize("form", FORMS)
def test_norms_come_in_many_forms(form: Callable[[list[float]], Any]) -> None:
    norms = [0.5, 3.0, NAN, 1.25]
    replayed = replay(FixedNorm(2.0, eps=0.0), form(norms))
    assert same(replayed.norms, norms)
    assert same(replayed.norms_after, [0.5, 2.0, NAN, 1.25])


@pytest.mark.parametrize("policy", [*OF_TOTAL, *(x for x in OF_EACH if "ByName" not in repr(x))], ids=named)
def test_steps_that_are_not_finite_change_nothing_after(policy: Policy) -> None:
    norms = [norm for norm in Trained(FixedNorm(INF)).totals if math.isfinite(norm)]
    broken = [*norms[:70], NAN, *norms[70:90], *[INF] * 40, *norms[90:]]
    whole, replayed = replay(policy, norms), replay(policy, broken)
    taken = replayed.norms.isfinite()
    assert len(broken) - int(taken.sum()) == 41
    assert same(replayed.norms_after[taken], whole.norms_after.tolist())
    assert same(replayed.thresholds[taken], whole.thresholds.tolist())
    assert replayed.skipped[~taken].all() and replayed.norms_after[~taken].isnan().all()
    assert not replayed.clipped[~taken].any()


def test_the_figures_of_a_replay() -> None:
    norms = [1.0] * 20 + [9.0, 9.0, 1.0, NAN, 9.0, 9.0, 9.0, 1.0]
    replayed = replay(FixedNorm(2.0), norms)
    assert replayed.share_clipped == 5 / 28
    assert replayed.share_skipped == 1 / 28
    assert replayed.largest == 9.0
    assert replayed.largest_after == pytest.approx(2.0, rel=1e-6)
    assert replayed.longest_held == 4
    assert len(replayed) == 28
    assert repr(replayed) == ("Replay(28 steps, 17.9% clipped, 3.6% skipped, largest norm 9 before and 2 after)")


def test_a_step_that_the_policy_skips_leaves_no_norm() -> None:
    norms = [1.0, 1.1] * 10 + [50.0, 1.0]
    replayed = replay(SpikeSkip(INF, window=20, warmup=10), norms)
    assert replayed.skipped.nonzero().flatten().tolist() == [20]
    assert same(replayed.norms_after, [*norms[:20], NAN, 1.0])
    assert replayed.thresholds[20] == INF


def test_no_steps_have_no_figures() -> None:
    for norms in ([], torch.zeros(0), torch.zeros(0, 3)):
        replayed = replay(ZClip(1.0), norms)
        assert len(replayed) == 0
        assert replayed.longest_held == 0
        assert math.isnan(replayed.share_clipped) and math.isnan(replayed.largest_after)


def test_limited_elements_leave_norms_that_are_not_known() -> None:
    replayed = replay(FixedValue(2.0), [1.0, 3.0])
    assert replayed.clipped.tolist() == [False, True]
    assert replayed.norms_after.isnan().all()
    later = replay(chain(warmup(2, FixedValue(2.0)), FixedNorm(0.5, eps=0.0)), [1.0, 3.0, 1.0, 0.25])
    assert same(later.norms_after, [NAN, NAN, 0.5, 0.25])


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        (AGC(), "must decide from norms of total or parameters, got AGC(clip_factor=0.01, eps=0.001, norm_type=2"),
        (by_name({"a": AGC()}), "must decide from norms of total or parameters, got ByName("),
        (BlockRMS(), "must decide from norms alone, got BlockRMS(threshold=1.0), which has no answer"),
        (by_name({"a": BlockRMS()}), "must decide from norms alone, got ByName("),
        (schedule(lambda _: BlockRMS()), "must decide from norms alone, got Schedule("),
        (FixedNorm(1.0, INF), "must decide from norms of order 2, got FixedNorm(max_norm=1.0, norm_type=inf"),
        (chain(FixedNorm(1.0), FixedNorm(1.0, 1.0)), "must decide from norms of order 2, got Chain("),
        (by_group(FixedNorm(1.0)), "`by_group` must know the parameter groups"),
    ],
    ids=named,
)
def test_policies_that_need_more_than_norms_are_refused(policy: Policy, complaint: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        replay(policy, [{"a": 1.0, "b": 2.0}])
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("norms", "options", "complaint"),
    [
        ([1.0, "2"], {}, "`replay(norms=...)` must hold numbers, got '2' at step 1."),
        ([1.0, None], {}, "`replay(norms=...)` must hold numbers, got None at step 1."),
        ([1.0, -2.0], {}, "`replay(norms=...)` must be >= 0, got -2.0 at step 1."),
        ([{"a": 1.0}, {"a": -1.0}], {}, "`replay(norms=...)` must be >= 0, got -1.0 at step 1."),
        ([1.0, {"a": 1.0}], {}, "`replay(norms=...)` must hold steps of one kind"),
        ([[1.0, 2.0], [1.0]], {}, "`replay(norms=...)` must have rows of one length"),
        (torch.ones(2, 2, 2), {}, "`replay(norms=...)` must hold numbers, got [1.0, 1.0] at step 0."),
        ({"a": [1.0]}, {}, "`replay(norms=...)` must be a sequence of norms, got dict."),
        ("run.jsonl", {}, "`replay(norms=...)` must be a sequence of norms, got str."),
        (1.0, {}, "`replay(norms=...)` must be a sequence of norms, got float."),
        ([1.0, 2.0], {"losses": [1.0]}, "`replay(losses=...)` must hold one loss for each of 2 steps, got 1."),
        ([1.0], {"losses": ["1"]}, "`replay(losses=...)` must hold numbers, got '1' at step 0."),
        ([1.0], {"names": ["a"]}, "`replay(names=...)` must be given with norms of shape (steps, parameters)"),
        (torch.ones(1, 2), {"names": ["a"]}, "`replay(names=...)` must hold 2 different names, got ['a']."),
        (torch.ones(1, 2), {"names": ["a", "a"]}, "`replay(names=...)` must hold 2 different names"),
        ([1.0], {"norm_type": NAN}, "`replay(norm_type=...)` must be a number"),
    ],
)
def test_recordings_that_make_no_sense_are_refused(norms: Any, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        replay(FixedNorm(1.0), norms, **options)
    assert complaint in str(caught.value)


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(TypeError, match="must be given policies"):
        replay(FixedNorm, [1.0])
