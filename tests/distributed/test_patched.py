"""Under `patch()` all ranks clip alike, whichever of them have gradients."""

from collections.abc import Callable

import pytest

import patched_workers as workers
from gradclip.policies import AdaGC, AutoClip, FixedNorm, Policy, ZClip
from gradclip.testing import RankPool

POLICIES = [None, FixedNorm(1.0), ZClip(max_norm=1.0, warmup=2), AdaGC(max_norm=1.0, warmup=2)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_rank_without_gradients_comes_all_the_same(
    pool_of: Callable[[int], RankPool], policy: Policy | None, calls: int
) -> None:
    """As where FSDP1 trains a head alone, whose elements are all on the last rank."""
    records, norms = workers.one_lacks(policy, calls, sharded=False)
    assert len(records) == workers.STEPS * (max(calls, 1) if policy is None else 1)
    for found, returned in pool_of(2).run(workers.one_lacks, policy, calls):
        assert [(*x[:1], *x[2:]) for x in found] == [(*x[:1], *x[2:]) for x in records]
        assert [x[1] for x in found] == pytest.approx([x[1] for x in records], rel=1e-12)
        assert returned == pytest.approx(norms, rel=1e-6)


def test_a_rank_has_gradients_of_others_alone(pool_of: Callable[[int], RankPool]) -> None:
    """Which does not mean that the clipper was made of parameters that are gone."""
    assert pool_of(2).run(workers.clip_a_part) == [[5.0] * workers.STEPS] * 2


@pytest.mark.parametrize("policy", [None, AutoClip(max_norm=9.0)], ids=lambda policy: type(policy).__name__)
def test_those_with_gradients_are_others_at_each_step(
    pool_of: Callable[[int], RankPool], policy: Policy | None
) -> None:
    """As where a script lists them by itself: they are clipped, counted and learned of together, sharded or not."""
    records = workers.list_those_with_gradients(policy, sharded=False)
    assert [step for step, *_ in records] == [*range(1, workers.STEPS + 1)]
    assert pool_of(2).run(workers.list_those_with_gradients, policy, sharded=True) == [records] * 2
