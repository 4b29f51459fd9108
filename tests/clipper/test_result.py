"""What a clip reports: numbers against an oracle, words, norms, and the records that sinks get."""

import copy
import dataclasses
import json
import math
import time
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import gradclip
import reference
from clipper.training import backward, batches, gradients, network
from gradclip import ClipRecord, GradClipper, Status
from gradclip.policies import AGC, AdaGC, FixedNorm, FixedValue, Policy, SpikeSkip, ZClip, by_name, chain


def parameters_of(*given: list[float] | None) -> list[tuple[str, nn.Parameter]]:
    """Parameters a, b, ... with gradients."""
    named = [("abcdef"[i], nn.Parameter(torch.zeros(len(x or [0.0])))) for i, x in enumerate(given)]
    for (_, p), x in zip(named, given, strict=True):
        p.grad = None if x is None else torch.tensor(x)
    return named


POLICIES: dict[str, Policy] = {
    "total": FixedNorm(0.5),
    "total p=1": FixedNorm(0.5, 1.0),
    "total p=inf": FixedNorm(0.5, math.inf),
    "parameter": FixedNorm(0.5, scope="parameter"),
    "unit": AGC(),
    "adaptive": ZClip(0.5),
    "adaptive each": AdaGC(0.5),
    "parts": by_name({"0.*": FixedNorm(0.1)}),
    "chain": chain(FixedNorm(0.5, scope="parameter"), FixedNorm(0.1)),
    "chain of two orders": chain(FixedNorm(0.5, math.inf), FixedNorm(0.1)),
    "limit": FixedValue(0.1),
    "limit, then total": chain(FixedValue(0.1), FixedNorm(0.2)),
    "limit between": chain(FixedNorm(0.5), FixedValue(0.1), FixedNorm(0.2)),
    "another order between": chain(FixedNorm(0.5), FixedNorm(0.05, math.inf, scope="parameter"), FixedNorm(0.1)),
}


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("name", POLICIES)
def test_norms_before_and_after(name: str, every: int) -> None:
    """Against float64 loops, whatever the policy does to the gradients."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    clipper = GradClipper(net, POLICIES[name], norms_every=every)
    first, last = clipper._pipeline._stages[0].order, clipper._pipeline._stages[-1].order
    for batch in batches(3):
        backward(net, optimizer, batch)
        found = [x for x in gradients(net) if x is not None]
        before, each = reference.norm(found, first), [reference.norm([x], first) for x in found]
        result = clipper.clip()
        after = reference.norm(found, last)
        assert result.total_norm == pytest.approx(before, rel=1e-12)
        assert result.total_norm_after == pytest.approx(after, rel=1e-6)
        assert result.coefficient == pytest.approx(after / before, rel=1e-6) or first != last
        assert (result.status, result.clipped) == (Status.CLIPPED, True)
        assert result.has_norms or every == 0
        if result.has_norms:
            assert list(result.norms().values()) == pytest.approx(each, rel=1e-12)
        optimizer.step()


def test_statuses() -> None:
    """Each compares equal to its own name, and only a skip says why."""
    assert f"{Status.OK} {Status.SKIPPED_SCALER}" == "ok skipped_scaler" == f"{'ok'} {Status.SKIPPED_SCALER!s}"
    assert {status: status.value for status in Status} == {
        "ok": "ok",
        "clipped": "clipped",
        "skipped_nonfinite": "skipped_nonfinite",
        "skipped_spike": "skipped_spike",
        "skipped_scaler": "skipped_scaler",
    }
    ok = GradClipper(parameters_of([3.0], [4.0]), FixedNorm(6.0)).clip()
    assert (ok.status, ok.skipped, ok.clipped, ok.coefficient, ok.threshold) == ("ok", None, False, 1.0, 6.0)
    assert ok.total_norm == ok.total_norm_after == 5.0
    clipped = GradClipper(parameters_of([3.0], [4.0]), FixedNorm(1.0, eps=0.0)).clip()
    assert (clipped.status, clipped.skipped, clipped.clipped, clipped.threshold) == ("clipped", None, True, 1.0)
    assert clipped.coefficient == pytest.approx(0.2) and clipped.total_norm_after == pytest.approx(1.0)
    bad = GradClipper(parameters_of([3.0], [math.nan])).clip()
    assert bad.status == bad.skipped == "skipped_nonfinite" and math.isnan(bad.total_norm)
    assert (bad.clipped, bad.coefficient, bad.threshold) == (False, 1.0, None)


def test_a_spike() -> None:
    """Its norm is reported as it is: the gradients were left alone."""
    ((_, p),) = named = parameters_of([1.0])
    clipper = GradClipper(named, SpikeSkip(math.inf, window=4, warmup=2))
    for size in (1.0, 1.1, 100.0):
        p.grad = torch.tensor([size])
        result = clipper.clip()
    assert (result.status, result.step, result.total_norm, result.total_norm_after) == (
        "skipped_spike",
        3,
        100.0,
        100.0,
    )


def test_a_bound_that_is_exactly_met() -> None:
    """Nothing is clipped at it; one rounding above it is."""
    assert GradClipper(parameters_of([3.0, 4.0]), FixedNorm(5.0, eps=0.0)).clip().status == "ok"
    assert (
        GradClipper(parameters_of([3.0, 4.0]), FixedNorm(math.nextafter(5.0, 0.0), eps=0.0)).clip().status == "clipped"
    )


# The norms of parameters.


def test_norms_come_every_so_often() -> None:
    """And a result without them says how to get them."""
    named = parameters_of([3.0], None, [4.0])
    clipper = GradClipper(named, FixedNorm(10.0), norms_every=3)
    results = [clipper.clip() for _ in range(7)]
    assert [result.has_norms for result in results] == [False, False, True, False, False, True, False]
    assert results[2].norms() == {"a": 3.0, "c": 4.0}
    assert results[0].worst() == []
    with pytest.raises(RuntimeError, match="were not measured. Pass `norms_every=1` to `GradClipper`"):
        results[0].norms()


def test_norms_do_not_change_what_is_done() -> None:
    """Measured with or without them, the same bits are left."""
    left = []
    for every in (0, 1):
        named = [(f"p{i}", nn.Parameter(torch.zeros(100))) for i in range(5)]
        draw = torch.Generator().manual_seed(3)
        for _, p in named:
            p.grad = torch.randn(100, generator=draw)
        GradClipper(named, FixedNorm(1.0), norms_every=every).clip()
        left.append(torch.cat([p.grad for _, p in named if p.grad is not None]))
    torch.testing.assert_close(left[0], left[1], rtol=2e-7, atol=0.0)


@pytest.mark.parametrize("every", [0, 1])
def test_norms_do_not_change_what_is_done_beyond_float64(every: int) -> None:
    """Sanitized gradients are clipped in units of the largest element, whether the norm of each overflows or not."""
    named = [("a", nn.Parameter(torch.zeros(3, dtype=torch.float64)))]
    named[0][1].grad = torch.tensor([3e200, math.nan, -4e200], dtype=torch.float64)
    result = GradClipper(named, FixedNorm(1.0), nonfinite="sanitize", norms_every=every).clip()
    assert named[0][1].grad.tolist() == pytest.approx([0.6, 0.0, -0.8])
    assert (result.total_norm, result.total_norm_after) == (pytest.approx(5e200), pytest.approx(1.0))


def test_the_worst_by_their_share_of_the_squares() -> None:
    """The largest first, as many as asked for."""
    result = GradClipper(parameters_of([1.0], [2.0], None, [2.0, 4.0], [0.0]), norms_every=1).clip()
    shares = {"a": 1 / 25, "b": 4 / 25, "d": 20 / 25}
    assert [name for name, _ in result.worst()] == ["d", "b", "a"]
    assert dict(result.worst(10)) == pytest.approx(shares) and dict(result.worst(1)) == pytest.approx({"d": 0.8})
    assert result.worst(0) == []


@pytest.mark.parametrize("unit", [1e-310, 1e-200, 1e-160, 1e160, 1e300])
def test_the_worst_of_extreme_norms(unit: float) -> None:
    """Shares are right where squares leave float64."""
    named = [(name, nn.Parameter(torch.zeros(1, dtype=torch.float64))) for name in "abc"]
    for (_, p), size in zip(named, (3.0, 4.0, 0.0), strict=True):
        p.grad = torch.tensor([size * unit], dtype=torch.float64)
    result = GradClipper(named, FixedNorm(math.inf, math.inf), norms_every=1).clip()
    assert dict(result.worst()) == pytest.approx({"b": 0.64, "a": 0.36})


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_the_worst_of_bad_norms(bad: float) -> None:
    """A norm that is not finite is worse than any other; its share is no number."""
    result = GradClipper(parameters_of([1.0], [bad], None, [2.0]), norms_every=1).clip()
    ((name, share),) = result.worst(1)
    assert (name, result.status) == ("b", "skipped_nonfinite") and math.isnan(share)
    assert repr(result.norms()) == repr({"a": 1.0, "b": bad, "d": 2.0})


def test_a_result_says_what_it_is() -> None:
    """In a word or two of each number."""
    result = GradClipper(parameters_of([3.0], [4.0]), FixedNorm(1.0)).clip()
    assert repr(result) == "ClipResult(step=1, status='clipped', total_norm=5, total_norm_after=1)"


def test_a_result_is_of_its_step() -> None:
    """Later clips do not change it, nor do they share anything with it."""
    named = parameters_of([3.0], [4.0])
    clipper = GradClipper(named, FixedNorm(10.0), norms_every=1)
    first = clipper.clip()
    for _, p in named:
        assert p.grad is not None
        p.grad.mul_(0.5)
    assert clipper.clip().total_norm == 2.5 and clipper.last is not first
    assert first.total_norm == 5.0 and first.norms() == {"a": 3.0, "b": 4.0}


# Records.


def test_a_record_of_every_clip() -> None:
    """Plain numbers and words, of the moment."""
    records: list[ClipRecord] = []
    clipper = GradClipper(parameters_of([3.0], [4.0]), FixedNorm(1.0, eps=0.0), norms_every=2, sinks=[records.append])
    before = time.time()
    clipper.clip()
    clipper.clip()
    assert [record.step for record in records] == [1, 2]
    assert before <= records[0].time <= records[1].time <= time.time()
    assert records[0] == ClipRecord(
        step=1,
        time=records[0].time,
        status="clipped",
        total_norm=5.0,
        total_norm_after=1.0,
        threshold=1.0,
        coefficient=0.2,
        policy="FixedNorm(max_norm=1.0, norm_type=2.0, eps=0.0, scope='total')",
    )
    assert [name for name, _ in records[1].worst] == ["b", "a"]
    assert json.loads(json.dumps(records[1].to_dict()))["worst"][0][0] == "b"
    with pytest.raises(dataclasses.FrozenInstanceError):
        records[0].step = 2  # type: ignore[misc]


def test_records_of_skips() -> None:
    """They have the reason for a status, and the norm that was found."""
    records: list[ClipRecord] = []
    GradClipper(parameters_of([math.inf]), sinks=[records.append]).clip()
    assert [(record.status, record.total_norm, record.threshold) for record in records] == [
        ("skipped_nonfinite", math.inf, None)
    ]


def test_every_sink_gets_it_and_one_that_fails_is_dropped() -> None:
    """With one warning; the others go on, and so does training."""
    first: list[ClipRecord] = []
    last: list[ClipRecord] = []
    calls: list[int] = []

    def fragile(record: ClipRecord) -> None:
        calls.append(record.step)
        if record.step == 2:
            msg = "disk full"
            raise OSError(msg)

    clipper = GradClipper(parameters_of([3.0]), sinks=[first.append, fragile, last.append])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            clipper.clip()
    assert [str(warning.message) for warning in caught] == [
        f"The sink {fragile!r} failed at step 2 and is dropped: OSError('disk full')"
    ]
    assert calls == [1, 2] and len(first) == len(last) == 4


def test_nobody_listens() -> None:
    """Then no record is made."""
    clipper = GradClipper(parameters_of([3.0]))
    assert not clipper._sinks.wanted and clipper.clip().step == 1


def test_sinks_stay_with_the_clipper_they_were_given_to() -> None:
    """A copy has none."""
    records: list[ClipRecord] = []
    clipper = GradClipper(parameters_of([3.0]), sinks=[records.append])
    copy.deepcopy(clipper).clip()
    assert records == []
    clipper.clip()
    assert len(records) == 1


def test_interrupts_are_not_swallowed() -> None:
    """Whoever stops the program from a sink stops it."""

    def stop(record: ClipRecord) -> Any:
        raise KeyboardInterrupt

    clipper = GradClipper(parameters_of([3.0]), sinks=[stop])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            clipper.clip()
    assert gradclip.ClipResult.__name__ == "ClipResult"
