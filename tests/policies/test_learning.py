"""The rules that learn, driven by series of norms: on the host, as tensors, and as tensors of another device."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from conftest import take_elsewhere, take_here
from gradclip.policies import AdaGC, FixedNorm, Layout, Norms, Policy, SpikeSkip, ZClip, chain
from gradclip.policies.effect import after
from gradclip.policies.saving import pack, unpack
from policies.cases import CASES, LAYOUT, LEARNING, decide_all, is_clipped, norms_of, numbers, series

learning = pytest.mark.parametrize("policy", LEARNING.values(), ids=LEARNING)

SPIKES = (5, 60, 61, 100, 150, 151, 152, 153, 154, 155, 156, 157, 158, 159)

Maker = Callable[..., Norms]


@pytest.fixture(params=["host", "tensor", "device"])
def of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Makes norms: as Python floats, as CPU tensors, or as tensors that are taken to be somewhere else."""
    if request.param == "device":
        take_elsewhere(monkeypatch)
    return functools.partial(norms_of, on_host=request.param == "host")


@learning
@pytest.mark.parametrize("of", ["tensor", "device"], indirect=True)
def test_numbers_agree_wherever_they_are(policy: Policy, of: Maker) -> None:
    """Floats take the paths of the host and tensors those of a device; both decide the same."""
    norms = series(300, spread=0.3, spikes=SPIKES)
    with pytest.MonkeyPatch.context() as back:  # the other side of the comparison is on the host
        take_here(back)
        expected = numbers(decide_all(policy, norms)[0])
    coefs, thresholds, skips = numbers(decide_all(policy, norms, of=of)[0])
    torch.testing.assert_close(coefs, expected[0], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(thresholds, expected[1], rtol=1e-12, atol=0.0)
    assert skips == expected[2]


@learning
@pytest.mark.parametrize("exponent", [-60, 60])
def test_nothing_depends_on_the_scale(policy: Policy, exponent: int) -> None:
    """Without absolute numbers, gradients 2**k times as large have thresholds 2**k times as large, to the bit."""
    norms = series(200, spread=0.3, spikes=SPIKES)
    coefs, thresholds, skips = numbers(decide_all(policy, norms)[0])
    scaled = numbers(decide_all(policy, [n * 2.0**exponent for n in norms])[0])
    assert torch.equal(scaled[0], coefs)
    assert torch.equal(scaled[1], thresholds * 2.0**exponent)
    assert scaled[2] == skips
    assert bool((coefs < 1.0).any()) or any(skips)


@learning
def test_what_is_not_finite_teaches_nothing(policy: Policy, of: Maker) -> None:
    """Even where it is decided upon, the state stays what it was, and later steps are what they would have been."""
    norms = series(120, spread=0.3, spikes=(40, 78, 79, 90))
    expected = numbers(decide_all(policy, norms, of=of)[0])
    state, decisions = policy.init(LAYOUT), []
    for step, total in enumerate(norms):
        if step in {3, 80}:
            before = pack(state, LAYOUT)
            _, state = decide_all(policy, [math.nan, math.nan, math.inf, math.inf], state, of)
            assert pack(state, LAYOUT) == before
            assert not any(math.isnan(x) for x in leaves(pack(state, LAYOUT)))
        decision, state = policy.decide(of(total), state)
        decisions.append(decision)
    got = numbers(decisions)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert got[2] == expected[2]


@pytest.mark.parametrize("policy", [*LEARNING.values(), *(CASES[name].policy for name in LEARNING)], ids=repr)
def test_one_bad_parameter_spoils_no_other(policy: Policy, of: Maker) -> None:
    """Where one parameter has a norm that is not finite, all statistics stay numbers, and no level breaks down."""
    norms = [*series(60, spread=0.1), *(3.0 * n for n in series(30, spread=0.1)), *([3.0] * 30)]
    state = policy.init(LAYOUT)
    for step, total in enumerate(norms):
        if step in {3, 50, 85}:  # in the warm-up, after it, and where a rise has locked the rule
            for bad in (math.nan, math.inf):
                _, state = policy.decide(of(total, bad=bad), state)
                assert not any(math.isnan(x) for x in leaves(pack(state, LAYOUT)))
        decision, state = policy.decide(of(total), state)
        assert float(numbers([decision])[0].min()) > 0.1


def leaves(packed: Any) -> Iterator[float]:
    if isinstance(packed, dict):
        packed = list(packed.values())
    if isinstance(packed, list):
        for item in packed:
            yield from leaves(item)
    else:
        yield packed


@learning
def test_a_state_survives_packing(policy: Policy, of: Maker) -> None:
    """Packed and unpacked at any step, a run goes on bit for bit."""
    norms = series(200, spread=0.3, spikes=SPIKES)
    expected = numbers(decide_all(policy, norms, of=of)[0])
    state, decisions = policy.init(LAYOUT), []
    for part in (norms[:1], norms[1:140], norms[140:]):
        decided, state = decide_all(policy, part, unpack(policy.init(LAYOUT), pack(state, LAYOUT), LAYOUT), of)
        decisions += decided
    got = numbers(decisions)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert got[2] == expected[2]


@pytest.mark.parametrize("name", LEARNING)
def test_a_lasting_rise_unlocks(name: str) -> None:
    """After norms have become three times as large for good, a rule soon clips about as rarely as before."""
    case = CASES[name]
    assert case.free is not None and case.unlocks is not None
    decisions, _ = decide_all(case.free, series(650, spread=0.1, rise=300))
    clipped = [is_clipped(decision) for decision in decisions]
    usual = sum(clipped[200:300])
    assert sum(clipped[300:310]) >= 5  # it is a rise that the rule notices
    assert sum(clipped[300 + case.unlocks : 400 + case.unlocks]) <= usual + 15


def test_as_published_a_rise_locks() -> None:
    """Without patience, ZClip clips every step after a rise, and AdaGC for as long as its level takes to grow."""
    norms = series(900, spread=0.1, rise=300)
    zclip, _ = decide_all(ZClip(math.inf, patience=math.inf), norms)
    assert all(is_clipped(decision) for decision in zclip[300:])
    adagc, _ = decide_all(AdaGC(math.inf, patience=math.inf), norms)
    assert all(is_clipped(decision) for decision in adagc[300:])


@pytest.mark.parametrize("policy", [ZClip(math.inf, alpha=0.0, warmup=1), AdaGC(math.inf, beta=0.0, warmup=1)])
def test_an_average_of_one_norm_is_that_norm(policy: Policy) -> None:
    """Even after one that is larger by more than float64 has digits for."""
    layout = Layout(("p",), (1,), (1,))
    state = policy.init(layout)
    for n in (1e18, 1.0):
        norms = Norms(layout, 2.0, n, torch.tensor([n], dtype=torch.float64))
        _, state = policy.decide(norms, state)
    assert float(state[0]) == 1.0


def test_a_variance_beyond_float64_is_forgotten_again(of: Maker) -> None:
    """Norms of float64 gradients have such ones; the state can be loaded, and spikes are found some time after."""
    policy = ZClip(math.inf, alpha=0.5, warmup=2)
    _, state = decide_all(policy, [1e200, 3e200, 1e201], of=of)
    assert unpack(policy.init(LAYOUT), pack(state, LAYOUT), LAYOUT).var > 1e300
    usual = [1.0, 1.1, 0.9] * 1000
    decisions, _ = decide_all(policy, [*usual, 100.0], state, of=of)
    assert is_clipped(decisions[-1])


def test_a_minority_of_spikes_locks_nothing() -> None:
    """Three steps of nine, for 300 steps: each is clipped to what is usual, and none is learned."""
    norms = series(400, spread=0.1, spikes=[t for t in range(100, 400) if t % 9 < 3])
    for policy in (ZClip(math.inf), SpikeSkip(math.inf)):
        state = policy.init(LAYOUT)
        for step, total in enumerate(norms):
            decision, state = policy.decide(norms_of(total), state)
            if total > 10.0:
                assert step >= 100
                assert decision.skip or decision.threshold < 2.0


def test_a_gradient_of_zero_is_no_level() -> None:
    """AdaGC does not hold a parameter at 0 that had no gradient to speak of at first, or once in a while."""
    for zeros in ({3}, {50}, set(range(40))):
        policy, state = AdaGC(math.inf, warmup=20), AdaGC(math.inf, warmup=20).init(LAYOUT)
        for step, total in enumerate(series(60, spread=0.1)):
            decision, state = policy.decide(norms_of(0.0 if step in zeros else total), state)
            assert float(torch.as_tensor(decision.coef).min()) > 0.5


@learning
def test_a_burst_teaches_little(policy: Policy) -> None:
    """Of four spikes in a row, a hundred times too high, the last still ends at what is usual."""
    norms = series(200, spread=0.1, spikes=range(150, 154))
    _, state = decide_all(policy, norms[:153])
    decision, _ = policy.decide(norms_of(norms[153]), state)
    assert decision.skip or after(norms_of(norms[153]), decision).total < 2.5


@pytest.mark.parametrize("on_host", [True, False])
def test_a_ceiling_where_others_have_parameters_of_their_own(on_host: bool) -> None:
    """What single coefficients leave of the total is not known: what needs it is refused, wherever numbers are."""
    norms = norms_of(3.0, on_host=on_host)._replace(complete=False)
    refused = pytest.raises(ValueError, match="must not need the norm of some parameters together")
    for policy in (AdaGC(2.0, warmup=5), chain(AdaGC(math.inf, warmup=5), FixedNorm(2.0))):
        state = policy.init(LAYOUT)
        for step in range(6):  # on a device nobody knows how long it warms up, nor whether the norm is above the bound
            with refused if step == (5 if on_host else 1) else contextlib.nullcontext():
                _, state = policy.decide(norms, state)
            if not on_host and step == 1:
                break
    bounded = chain(FixedNorm(2.0), AdaGC(math.inf, warmup=1))
    coefs, _, _ = numbers(decide_all(bounded, [3.0] * 3, of=lambda _: norms)[0])
    assert float(coefs.max()) == pytest.approx(2.0 / 3.0)
