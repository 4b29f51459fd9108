"""Models under torch's own parallel wrappers: the norm is that of the whole model, on every rank."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

import framework_workers as workers
import reference
import small_net
from framework_workers import Clip, Report
from gradclip.testing import RankError, RankPool
from small_net import Gradients


@dataclass(frozen=True)
class Layout:
    """A wrapper, and what is known of a clip under it.

    Attributes:
        wrap: Wraps a model.
        traits: What its parameters are, on some rank; see `Report`.
        collectives: How many a clip takes: one for each mesh, and one where there are partial gradients.
        sizes: On how many ranks it is tried: what is but another option of a wrapper, on one number.
        batches: How many batches are added up.
        close: How far its gradients are from those of one process, at most, in relation to their norm.
        without: The parameters that have no gradient.
    """

    wrap: Callable[[small_net.Net], workers.Wrapped]
    traits: str
    collectives: int = 1
    sizes: tuple[int, ...] = (2, 4)
    batches: int = 1
    close: float = 2e-6
    without: tuple[str, ...] = ()


BFLOAT16 = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.bfloat16}
BLOCKS = ("blocks.0", "blocks.1")
FROZEN = ("embed.weight", "blocks.1.up.bias")
IGNORED = ("embed.weight", "blocks.1.norm.bias")


def _fsdp1(traits: str, strategy: str = "FULL_SHARD", **arguments: Any) -> Layout:
    sizes = arguments.pop("over", (2,))
    collectives = int(strategy != "NO_SHARD")
    return Layout(partial(workers.fsdp1, strategy=strategy, **arguments), traits, collectives, sizes)


LAYOUTS: dict[str, Layout] = {
    "DDP": Layout(workers.ddp, "plain", 0),
    "DDP, bucket views": Layout(partial(workers.ddp, gradient_as_bucket_view=True), "plain", 0, sizes=(2,)),
    "DDP, accumulation": Layout(partial(workers.ddp, accumulate=True), "plain", 0, sizes=(2,), batches=3),
    "DDP, bucket views, accumulation": Layout(
        partial(workers.ddp, accumulate=True, gradient_as_bucket_view=True), "plain", 0, sizes=(2,), batches=3
    ),
    "DDP, static graph": Layout(partial(workers.ddp, static_graph=True), "plain", 0, sizes=(2,)),
    "FSDP1": _fsdp1("plain empty", orig=True, over=(2, 4)),
    "FSDP1, flat": _fsdp1("plain", orig=False, over=(2, 4)),
    "FSDP1, by block": _fsdp1("plain empty", orig=True, units=BLOCKS),
    "FSDP1, by block, flat": _fsdp1("plain", orig=False, units=BLOCKS),
    "FSDP1, the head apart": _fsdp1("plain empty", orig=True, units=("head",), over=(4,)),
    "FSDP1, the head apart, flat": _fsdp1("plain", orig=False, units=("head",), over=(4,)),
    "FSDP1, gradients only": _fsdp1("plain empty", "SHARD_GRAD_OP", orig=True, units=BLOCKS),
    "FSDP1, gradients only, flat": _fsdp1("plain", "SHARD_GRAD_OP", orig=False, units=BLOCKS),
    "FSDP1, not sharded": _fsdp1("plain", "NO_SHARD", orig=True, units=BLOCKS),
    "FSDP1, not sharded, flat": _fsdp1("plain", "NO_SHARD", orig=False, units=BLOCKS),
    "FSDP1, hybrid": _fsdp1("plain empty", "HYBRID_SHARD", orig=True, units=BLOCKS, sizes=(2, 2), over=(4,)),
    "FSDP1, hybrid, flat": _fsdp1("plain", "HYBRID_SHARD", orig=False, units=BLOCKS, sizes=(2, 2), over=(4,)),
    "FSDP2": Layout(workers.fsdp2, "Shard empty"),
    "FSDP2, bfloat16": Layout(partial(workers.fsdp2, policy=BFLOAT16), "Shard empty", sizes=(2,), close=0.05),
    "FSDP2, some ignored": Layout(partial(workers.fsdp2, ignored=IGNORED), "Shard empty plain", sizes=(4,)),
    "FSDP2, some frozen": Layout(partial(workers.fsdp2, frozen=FROZEN), "Shard empty", sizes=(2,), without=FROZEN),
    "FSDP2, accumulation": Layout(partial(workers.fsdp2, accumulate=True), "Shard empty", sizes=(2,), batches=3),
    "FSDP2, hybrid": Layout(partial(workers.fsdp2, sizes=(2, 2)), "Shard Replicate empty", sizes=(4,)),
    "FSDP2, two meshes": Layout(
        partial(workers.fsdp2, sizes=(2, 2), two_meshes=True), "Shard Replicate empty", sizes=(4,)
    ),
    "tensor parallel": Layout(workers.tensor_parallel, "Shard Replicate plain"),
    "tensor and sequence parallel": Layout(
        partial(workers.tensor_parallel, sequence=True), "Shard Replicate Partial empty", 2
    ),
    "tensor parallel, averaged": Layout(workers.averaged_tensor_parallel, "Shard Replicate plain", sizes=(4,)),
    "tensor and sequence parallel, averaged": Layout(
        partial(workers.averaged_tensor_parallel, sequence=True), "Shard Replicate Partial empty", 2, sizes=(4,)
    ),
    "tensor parallel, DDP": Layout(workers.ddp_over_tensor_parallel, "plain", sizes=(4,)),
    "tensor parallel, FSDP2": Layout(
        workers.fsdp2_over_tensor_parallel, "Shard Replicate _StridedShard empty", 2, sizes=(4,)
    ),
    "tensor and sequence parallel, FSDP2": Layout(
        partial(workers.fsdp2_over_tensor_parallel, sequence=True), "Shard Replicate _StridedShard empty", 2, sizes=(4,)
    ),
}

SINGLE, DOUBLE = torch.float32, torch.float64

WIDE = ("DDP", "FSDP2", "tensor parallel, FSDP2")
"""What is tried in float64 too."""

CASES = [
    pytest.param(name, size, dtype, id=f"{name}, {size} ranks, {str(dtype).removeprefix('torch.')}")
    for name, layout in LAYOUTS.items()
    for size in layout.sizes
    for dtype in ((SINGLE, DOUBLE) if name in WIDE else (SINGLE,))
]


@cache
def alone(batches: int) -> Gradients:
    """What one process gets from all the data, in float64."""
    return small_net.alone(DOUBLE, batches)


@pytest.mark.parametrize(("name", "size", "dtype"), CASES)
def test_one_norm_under_every_wrapper(
    pool_of: Callable[[int], RankPool], name: str, size: int, dtype: torch.dtype
) -> None:
    """It is that of the gathered gradients, and of a process that has all the data; each element is scaled by it."""
    layout = LAYOUTS[name]
    reports = pool_of(size).run(workers.clip_by_every_order, layout.wrap, dtype)
    assert set.union(*(report.traits for report in reports)) == set(layout.traits.split())
    check_against_one_process(layout, reports[0].before, dtype)
    for order in workers.ORDERS:
        clips = [report.clips[order] for report in reports]
        check_agreement(clips, dtype, layout)
        for report, clip in zip(reports, clips, strict=True):
            check_norms(clip, report.before, order, dtype)
            check_elements(clip, report, order, dtype)
    for report in reports:
        check_bounds_of_each(report, dtype)


def test_fsdp1_is_looked_for_once(pool_of: Callable[[int], RankPool]) -> None:
    """A search through all objects takes long in a large program: one finds all parts of a model."""
    assert pool_of(2).run(workers.searches_under_fsdp1) == [1, 1]


def test_what_makes_the_shards_of_fsdp1_of_one_size_is_no_element(pool_of: Callable[[int], RankPool]) -> None:
    assert pool_of(2).run(workers.smallest_under_fsdp1) == [3.0, 3.0]


def test_what_fsdp1_has_gathered_is_whole_on_each_rank(pool_of: Callable[[int], RankPool]) -> None:
    """Inside `summon_full_params(with_grads=True)`, no rank adds the elements of the others to its own."""
    for before, gathered, each, after in pool_of(2).run(workers.clip_what_fsdp1_has_gathered):
        assert before == pytest.approx(reference.norm([*alone(1).values()], 2.0), rel=2e-6)
        assert gathered == pytest.approx(before, rel=1e-6)
        assert each == pytest.approx({name: reference.norm([x], 2.0) for name, x in alone(1).items()}, rel=1e-4)
        assert after == pytest.approx(1.0, rel=1e-6)


def test_fsdp1_in_a_graph_is_refused(pool_of: Callable[[int], RankPool]) -> None:
    """As DTensors are: no rank takes its pieces for all that there is."""
    for said in pool_of(2).run(workers.clip_fsdp1_in_a_graph):
        assert "must be clipped outside of `torch.compile`" in said or (
            torch.__version__ < (2, 7) and "re-raise" in said
        )


def test_what_is_declared_of_fsdp1_is_beyond_what_it_says(pool_of: Callable[[int], RankPool]) -> None:
    """Stages that it shards hold pieces all the same, whether they were clipped before or not; and so do copies."""
    whole = reference.norm([*alone(1).values()], 2.0)
    both = 2.0**0.5 * whole
    for found in pool_of(4).run(workers.clip_stages_under_fsdp1):
        assert found == pytest.approx([both, both, whole, both, both], rel=2e-6)
    assert pool_of(4).run(workers.clip_copies_under_fsdp1) == pytest.approx([whole] * 4, rel=2e-6)


def test_fsdp1_over_tensor_parallel_is_refused(pool_of: Callable[[int], RankPool]) -> None:
    """Its plain tensors leave no trace of the ranks that hold the rest."""
    with pytest.raises(RankError, match=r"ValueError: `parameters` must not be sharded by FSDP1 .* `fully_shard`"):
        pool_of(4).run(workers.clip_fsdp1_over_tensor_parallel)


def test_a_model_that_is_refused_is_none_of_another(pool_of: Callable[[int], RankPool]) -> None:
    """Wherever it lives, or waits for the collector: some ranks would clip, and others not."""
    whole = reference.norm([*alone(1).values()], 2.0)
    found = pool_of(4).run(partial(workers.clip_fsdp1_over_tensor_parallel, another=True))
    assert found == pytest.approx([whole] * 4, rel=2e-6)


def check_against_one_process(layout: Layout, found: Gradients, dtype: torch.dtype) -> None:
    expected = {name: x for name, x in alone(layout.batches).items() if name not in layout.without}
    assert found.keys() == expected.keys()
    close = layout.close if dtype == SINGLE else 1e-12
    for name, x in expected.items():
        assert distance([found[name]], [x]) <= close * reference.norm([x], 2.0), name
    difference = reference.norm([*found.values()], 2.0) - reference.norm([*expected.values()], 2.0)
    assert abs(difference) <= close * reference.norm([*expected.values()], 2.0)


def check_agreement(clips: list[Clip], dtype: torch.dtype, layout: Layout) -> None:
    """Plain tensors with the same bits on all ranks, from as few collectives as can be."""
    first = clips[0].norm
    for clip in clips:
        assert type(clip.norm) is Tensor and clip.norm.dtype == dtype and clip.norm.shape == ()
        assert clip.norm.equal(first) and clip.measured.equal(clips[0].measured)
        assert {x: norm.item() for x, norm in clip.each.items()} == {
            x: norm.item() for x, norm in clips[0].each.items()
        }
        assert clip.untouched
        assert clip.collectives == layout.collectives


def check_norms(clip: Clip, before: Gradients, order: float, dtype: torch.dtype) -> None:
    true = reference.norm([*before.values()], order)
    assert is_near(clip.norm, true, dtype) and is_near(clip.measured, true, dtype)
    if any("_flat_param" in name for name in clip.each):  # parameters that the model itself does not have
        assert reference.norm([*clip.each.values()], order) == pytest.approx(true, rel=1e-6)
        return
    assert clip.each.keys() == before.keys()
    for name, norm in clip.each.items():
        assert is_near(norm, reference.norm([before[name]], order), dtype), name


def check_elements(clip: Clip, report: Report, order: float, dtype: torch.dtype) -> None:
    """Each is rounded once; pieces of a sum, of which torch makes the sum afterwards, each for itself."""
    coef = reference.coefficient(reference.norm([*report.before.values()], order), float(clip.measured) / 3.0)
    expected = [(x.to(DOUBLE) * coef).to(dtype) for x in report.before.values()]
    found = [clip.after[name] for name in report.before]
    if dtype == SINGLE and "Partial" not in report.traits:
        assert all(map(torch.equal, found, expected))
    else:
        assert distance(found, expected) <= (1e-6 if dtype == SINGLE else 1e-14)
    if clip.by_wrapper is not None:
        norm, difference = clip.by_wrapper
        assert norm == pytest.approx(float(clip.norm), rel=1e-6) and difference < 2e-6


def check_bounds_of_each(report: Report, dtype: torch.dtype) -> None:
    """For which the number of elements of a whole parameter has to be known."""
    if any("_flat_param" in name for name in report.clips[2.0].each):
        return
    for name, x in report.before.items():
        rms = reference.norm([x], 2.0) / x.numel() ** 0.5
        expected = x.to(DOUBLE) * min(1.0, workers.RMS / rms)
        assert distance([report.by_rms[name]], [expected]) <= 1e-6 * reference.norm([expected], 2.0), name


def is_near(norm: Tensor, true: float, dtype: torch.dtype) -> bool:
    if dtype == SINGLE:
        return reference.float32_ulps(float(norm), true) <= 2.0
    return math.isclose(float(norm), true, rel_tol=1e-14)


def distance(some: list[Tensor], others: list[Tensor]) -> float:
    pairs = zip(some, others, strict=True)
    return reference.norm([x.to(DOUBLE) - y.to(DOUBLE) for x, y in pairs], 2.0)
