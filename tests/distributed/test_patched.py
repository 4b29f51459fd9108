"""Under `patch()` all ranks clip alike, whichever of them have gradients."""

import functools
import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.modules import module

import gradclip
import patched_workers as workers
import reference
from framework_workers import ORDERS, fsdp1
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


BLOCKS = ("blocks.0", "blocks.1")

STRATEGIES = {
    "FULL_SHARD": (2, None),
    "SHARD_GRAD_OP": (2, None),
    "NO_SHARD": (2, None),
    "HYBRID_SHARD": (4, (2, 2)),
}
"""How many ranks each is tried on, and the mesh."""

PRECISIONS = {
    "float32": None,
    "bfloat16": {"param_dtype": torch.bfloat16, "reduce_dtype": torch.bfloat16},
    "bfloat16 kept": {"param_dtype": torch.bfloat16, "keep_low_precision_grads": True},
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("orig", [True, False], ids=["parameters", "flat"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_method_of_fsdp1_clips_as_the_functions_do(
    pool_of: Callable[[int], RankPool], strategy: str, orig: bool, precision: str
) -> None:
    """The norm is that of the whole model, in the method's dtype, and what it leaves is what the method leaves."""
    size, sizes = STRATEGIES[strategy]
    wrap = partial(fsdp1, strategy=strategy, orig=orig, units=BLOCKS, sizes=sizes, precision=PRECISIONS[precision])
    pool = pool_of(size)
    for order in ORDERS:
        own = pool.run(workers.clip_by_the_method, wrap, order, None, patched=False)
        for policy in (None, FixedNorm(0.1, norm_type=order)):
            found = pool.run(workers.clip_by_the_method, wrap, order, policy, patched=True)
            for ours, its in zip(found, own, strict=True):
                true, close = reference.norm([*ours.before.values()], order), 2.0**-7 if "kept" in precision else 1e-6
                assert ours.norm == (pytest.approx(true, rel=close), its.norm[1])
                assert ours.norm[0] == pytest.approx(its.norm[0], rel=close)
                assert ours.recorded == [pytest.approx(true, rel=1e-6)] == found[0].recorded
                for x, y in zip(ours.after, its.after, strict=True):
                    torch.testing.assert_close(x, y, rtol=2.0 * close, atol=1e-7)


def test_the_method_of_fsdp1_says_where_it_cannot_be_called(pool_of: Callable[[int], RankPool]) -> None:
    """In its own words, of a part of a model, and inside of what gathers it; and it is torch's after the patch."""
    for part, gathered in pool_of(2).run(workers.misuse_the_method, partial(fsdp1, orig=True, units=BLOCKS)):
        assert part.startswith("RuntimeError") and "only be called on the root FSDP instance" in part
        assert "SUMMON_FULL_PARAMS" in gathered


def test_the_method_of_fsdp1_knows_of_experts(pool_of: Callable[[int], RankPool]) -> None:
    """Which other ranks hold, and nobody has declared: it adds up over all ranks of the root, and is left to that."""
    answers = pool_of(4).run(workers.clip_experts_by_the_method)
    assert len({norm for norms in answers for norm in norms}) == 1


def test_the_method_of_fsdp1_is_replaced_once_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """By all patches that hold then, each of which gives back what it found, whichever ends first."""
    package = importlib.import_module("torch.distributed.fsdp")
    kind, place = package.FullyShardedDataParallel, "FullyShardedDataParallel.clip_grad_norm_"
    method, hooks = vars(kind)["clip_grad_norm_"], len(module._global_module_registration_hooks)
    monkeypatch.delitem(sys.modules, "torch.distributed.fsdp")
    with gradclip.patch() as first:
        inner = gradclip.patch(FixedNorm(1.0))
        nn.Sequential(nn.Linear(1, 1))
        assert place not in first.places and vars(kind)["clip_grad_norm_"] is method
        monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", package)
        nn.Sequential(nn.Linear(1, 1))
        assert place in first.places and place in inner.places
        assert vars(kind)["clip_grad_norm_"] is not method
    assert vars(kind)["clip_grad_norm_"] is not method
    inner.undo()
    assert vars(kind)["clip_grad_norm_"] is method
    assert len(module._global_module_registration_hooks) == hooks


@pytest.mark.parametrize("wrap", [lambda x: x, functools.wraps(FullyShardedDataParallel.clip_grad_norm_)])
def test_what_others_have_put_in_the_place_of_the_method_stays(wrap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with functions."""

    @wrap
    def other(model: nn.Module) -> None:
        """Clip otherwise."""

    monkeypatch.setattr(FullyShardedDataParallel, "clip_grad_norm_", other)
    with gradclip.patch() as patched:
        assert FullyShardedDataParallel.clip_grad_norm_ is other
        assert "FullyShardedDataParallel.clip_grad_norm_" not in patched.places
