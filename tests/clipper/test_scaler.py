"""Clipping under `torch.amp.GradScaler`: gradients are unscaled once, and overflows stay the scaler's."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

import gradclip
import reference
from clipper.training import OPTIMIZERS, Batch, batches, everything, gradients, loss_of, network, same_bits
from gradclip import GradClipper
from gradclip.policies import FixedNorm, ZClip
from gradclip.testing import assert_clipped, capture_records

NAMES = ["SGD", "SGD, momentum, fused", "Adam", "AdamW, foreach, amsgrad", "AdamW, fused", "Adagrad, fused"]
FUSED = [
    name
    for name in NAMES
    if getattr(OPTIMIZERS[name](network().parameters()), "_step_supports_amp_scaling", False)  # Adagrad: not before 2.7
]

Clip = Callable[[list[nn.Parameter], float], Any]


def data(overflows: tuple[int, ...] = ()) -> list[Batch]:
    """Ten batches; the gradients of some overflow once they are scaled."""
    listed = batches(10)
    for i in overflows:
        listed[i] = (listed[i][0], listed[i][1] * 1e37)
    return listed


def scaler_of(**arguments: Any) -> GradScaler:
    return GradScaler("cpu", init_scale=1024.0, growth_interval=3, **arguments)


def train_by_hand(name: str, listed: list[Batch], clip: Clip, **arguments: Any) -> tuple[Any, list[float]]:
    """The recipe of torch's documentation."""
    net = network()
    optimizer, scaler = OPTIMIZERS[name](net.parameters()), scaler_of(**arguments)
    scales = []
    for batch in listed:
        optimizer.zero_grad()
        scaler.scale(loss_of(net, batch)).backward()
        scaler.unscale_(optimizer)
        clip(list(net.parameters()), 0.5)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return everything(net, optimizer), scales


def train(
    name: str,
    listed: list[Batch],
    *,
    known: bool = True,
    unscale: bool = False,
    directly: bool = False,
    **arguments: Any,
) -> tuple[Any, list[float], list[str]]:
    """The same with a clipper attached."""
    net = network()
    optimizer, scaler = OPTIMIZERS[name](net.parameters()), scaler_of(**arguments)
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer, scaler=scaler if known else None)
    scales = []
    with capture_records(clipper) as records:
        for batch in listed:
            optimizer.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
            if unscale:
                scaler.unscale_(optimizer)
            optimizer.step() if directly else scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
    return everything(net, optimizer), scales, [record.status for record in records]


WAYS: dict[str, dict[str, bool]] = {
    "attached": {},
    "unscaled before": {"unscale": True},
    "scaler not given": {"known": False},
    "scaler not given, unscaled before": {"known": False, "unscale": True},
    "step called directly": {"directly": True},
    "step called directly, unscaled before": {"directly": True, "unscale": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_as_unscaling_clipping_and_stepping(name: str, way: str) -> None:
    """Bit for bit what our function gives in torch's recipe, and torch's but for rounding; on the same scales."""
    ours, scales, statuses = train(name, data(), **WAYS[way])
    assert statuses == ["clipped"] * 10
    expected, its_scales = train_by_hand(name, data(), gradclip.clip_grad_norm_)
    assert same_bits(ours, expected) and scales == its_scales == [1024.0 * 2.0 ** ((i + 1) // 3) for i in range(10)]
    by_torch, _ = train_by_hand(name, data(), torch.nn.utils.clip_grad_norm_)
    torch.testing.assert_close(ours[0], by_torch[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_overflows_stay_the_scalers(name: str, way: str) -> None:
    """The scale falls as ever, and the parameters are those of a run that clips by hand."""
    overflows = (1, 4, 5)
    ours, scales, statuses = train(name, data(overflows), **WAYS[way])
    expected, its_scales = train_by_hand(name, data(overflows), gradclip.clip_grad_norm_)
    assert scales == its_scales and min(scales) < 1024.0
    assert same_bits(ours, expected)
    assert statuses == ["skipped_scaler" if i in overflows else "clipped" for i in range(10)]


@pytest.mark.parametrize("name", FUSED)
def test_a_first_step_that_overflows_leaves_no_state(name: str) -> None:
    """Fused SGD would keep a momentum buffer of whatever was in memory."""
    (parameters, state), _, statuses = train(name, data((0,))[:1])
    assert statuses == ["skipped_scaler"] and same_bits(parameters, list(network().parameters()))
    assert state["state"] == {} or all(float(s["step"]) == 0.0 for s in state["state"].values())


def test_a_loss_told_for_a_step_that_overflows_is_not_that_of_the_next() -> None:
    """It is recorded with the step that it was told for."""
    net = network()
    optimizer, scaler = OPTIMIZERS["SGD"](net.parameters()), scaler_of()
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer, scaler=scaler)
    with capture_records(clipper) as records:
        for batch, loss in zip(data((0,))[:2], (7.0, None), strict=True):
            optimizer.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
            if loss is not None:
                clipper.observe_loss(loss)
            optimizer.step()
            scaler.update()
    assert [(record.status, record.loss) for record in records] == [("skipped_scaler", 7.0), ("clipped", None)]


@pytest.mark.parametrize("name", NAMES)
def test_overflows_spend_no_budget_and_teach_nothing(name: str) -> None:
    """However many come in a row."""
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters())
    scaler = GradScaler("cpu", init_scale=2.0**127)
    clipper = GradClipper(net, ZClip(1.0, warmup=2), max_consecutive_skips=0, nonfinite="raise")
    clipper.attach(optimizer, scaler=scaler)
    before = clipper.state_dict()["stages"]
    for batch in data(tuple(range(10))):
        optimizer.zero_grad()
        scaler.scale(loss_of(net, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert clipper.state_dict()["stages"] == before and clipper.state_dict()["skips"] == 0


def test_a_disabled_scaler_is_none() -> None:
    """It scales nothing, and nothing is unscaled."""
    ours, scales, statuses = train("AdamW, fused", data(), enabled=False)
    expected, _ = train_by_hand("AdamW, fused", data(), gradclip.clip_grad_norm_, enabled=False)
    assert same_bits(ours, expected) and set(scales) == {1.0} and set(statuses) == {"clipped"}


def test_a_scaler_that_was_not_used_yet() -> None:
    """A loss that was not scaled needs no unscaling, as in a warm-up in full precision."""
    net = network()
    optimizer = OPTIMIZERS["SGD"](net.parameters())
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer, scaler=scaler_of())
    loss_of(net, data()[0]).backward()
    expected = reference.norm([x for x in gradients(net) if x is not None], 2.0)
    optimizer.step()
    assert clipper.last is not None and clipper.last.total_norm == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("known", [True, False])
def test_other_skips_still_skip(known: bool) -> None:
    """A NaN that is no overflow: the scaler calls it one, and the fused step does not happen either way."""
    listed = batches(4, poisoned=[1])
    ours, scales, statuses = train("AdamW, fused", listed, known=known)
    expected, its_scales = train_by_hand("AdamW, fused", [listed[0], *listed[2:]], gradclip.clip_grad_norm_)
    assert same_bits(ours, expected)
    assert statuses == ["clipped", "skipped_scaler", "clipped", "clipped"]
    assert scales[1] == 512.0 and its_scales[0] == 1024.0


@pytest.mark.parametrize("names", [("SGD", "Adam"), ("AdamW, fused", "SGD"), ("SGD, momentum, fused", "AdamW, fused")])
def test_several_optimizers(names: tuple[str, str]) -> None:
    """All are unscaled before the one clip, none twice, and an overflow in one holds back all."""

    def run(*, attach: bool, overflows: tuple[int, ...]) -> tuple[list[Any], list[float]]:
        net = network()
        clipper = GradClipper(net, FixedNorm(0.5)) if attach else None
        optimizers = [OPTIMIZERS[name](part.parameters()) for name, part in zip(names, (net[0], net[2]), strict=True)]
        scaler = scaler_of()
        for optimizer in optimizers if clipper is not None else ():
            clipper.attach(optimizer, scaler=scaler)
        scales = []
        for batch in data(overflows):
            net.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
            if clipper is None:
                for optimizer in optimizers:
                    scaler.unscale_(optimizer)
                if all(x is not None and x.isfinite().all() for x in gradients(net)):
                    gradclip.clip_grad_norm_(net.parameters(), 0.5)
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        assert clipper is None or clipper.state_dict()["step"] <= 10
        return [everything(net, optimizer) for optimizer in optimizers], scales

    for overflows in ((), (4, 5)):
        ours, scales = run(attach=True, overflows=overflows)
        expected, its_scales = run(attach=False, overflows=overflows)
        assert same_bits(ours, expected) and scales == its_scales


@pytest.mark.parametrize("names", [("SGD", "Adam"), ("SGD", "AdamW, fused"), ("AdamW, fused", "SGD")])
@pytest.mark.parametrize("place", [0, 2])
def test_an_overflow_in_one_optimizer_alone(names: tuple[str, str], place: int) -> None:
    """The other, whose own gradients are finite, must not step on a common norm that is infinite."""
    net = network()
    optimizers = [OPTIMIZERS[name](part.parameters()) for name, part in zip(names, (net[0], net[2]), strict=True)]
    clipper, scaler = GradClipper(net, FixedNorm(0.5), nonfinite="raise"), scaler_of()
    for optimizer in optimizers:
        clipper.attach(optimizer, scaler=scaler)
    scaler.scale(loss_of(net, data()[0])).backward()
    bias = net[place].bias
    assert isinstance(bias, Tensor) and bias.grad is not None
    bias.grad.fill_(math.inf)
    kept = [everything(net, optimizer) for optimizer in optimizers]
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()
    assert same_bits([everything(net, optimizer) for optimizer in optimizers], kept)
    assert clipper.last is not None and clipper.last.status == "skipped_scaler" and scaler.get_scale() == 512.0


@pytest.mark.parametrize("name", NAMES)
def test_several_clippers_of_one_optimizer(name: str) -> None:
    """Each clips its part; all are unscaled once, and an overflow in any part is the scaler's."""

    def run(*, attach: bool, overflows: tuple[int, ...]) -> tuple[Any, list[float]]:
        net = network()
        optimizer, scaler = OPTIMIZERS[name](net.parameters()), scaler_of()
        parts = [net[0], net[2]]
        clippers = [GradClipper(part, FixedNorm(0.3)).attach(optimizer, scaler) for part in parts] if attach else []
        measure = GradClipper(net, FixedNorm(math.inf)).attach(optimizer, scaler) if attach else None
        scales = []
        for batch in data(overflows):
            net.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
            if not clippers:
                scaler.unscale_(optimizer)
                for part in parts:
                    gradclip.clip_grad_norm_(part.parameters(), 0.3)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        assert measure is None or (measure.last is not None and 0.3 < measure.last.total_norm < 0.43)
        return everything(net, optimizer), scales

    for overflows in ((), (4, 5)):
        ours, scales = run(attach=True, overflows=overflows)
        expected, its_scales = run(attach=False, overflows=overflows)
        assert same_bits(ours, expected) and scales == its_scales


class Heads(nn.Module):
    """One head in many is used, whose gradients are not among those that are looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Linear(3, 1, bias=False) for _ in range(40))

    def forward(self, x: Tensor) -> Tensor:
        return self.body[9](x)

    def __getitem__(self, place: int) -> nn.Module:
        return self.body[9]


@pytest.mark.parametrize("is_frozen", [True, False])
def test_what_has_no_gradient_hides_no_overflow(is_frozen: bool) -> None:
    """Each of two in a row is heard of, and the step after them happens, whatever is looked at."""
    frozen = nn.Sequential(*(nn.Linear(3, 3).requires_grad_(False) for _ in range(20)), nn.Linear(3, 1))
    net: Any = frozen if is_frozen else Heads()
    optimizer, scaler = torch.optim.SGD(net.parameters(), lr=0.1), scaler_of()
    GradClipper(net).attach(optimizer, scaler)
    moved = []
    with capture_records() as records:
        for batch in data((1, 2, 5)):
            before = net[-1].weight.detach().clone()
            optimizer.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
            scaler.step(optimizer)
            scaler.update()
            moved.append(not torch.equal(before, net[-1].weight))
    assert moved == [i not in {1, 2, 5} for i in range(10)]
    assert [record.status != "skipped_scaler" for record in records] == moved


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype: torch.dtype) -> None:
    """Where torch refuses to unscale such gradients, the fused optimizer would, and so it is done for it."""

    def run(step: Callable[[list[nn.Parameter], Optimizer, GradScaler], object]) -> Any:
        parameters = [nn.Parameter(torch.ones(4, dtype=dtype)), nn.Parameter(torch.ones(3, dtype=dtype))]
        optimizer, scaler = torch.optim.AdamW(parameters, lr=0.1, fused=True), GradScaler("cpu", init_scale=64.0)
        for i in range(3):
            optimizer.zero_grad()
            total = sum(p.float().square().sum() * (i + 2.0) for p in parameters)
            assert isinstance(total, Tensor)
            scaler.scale(total).backward()
            step(parameters, optimizer, scaler)
            scaler.update()
        return [p.detach().float() for p in parameters]

    def ours(parameters: list[nn.Parameter], optimizer: Optimizer, scaler: GradScaler) -> None:
        with GradClipper(parameters, FixedNorm(0.5)).attach(optimizer, scaler=scaler), assert_clipped(optimizer, 0.5):
            scaler.step(optimizer)

    def by_hand(parameters: list[nn.Parameter], optimizer: Optimizer, scaler: GradScaler) -> None:
        for p in parameters:
            assert p.grad is not None
            p.grad.div_(scaler.get_scale())
        gradclip.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
        scaler._check_inf_per_device(optimizer)  # or it would have nothing to update from

    assert same_bits(run(ours), run(by_hand))


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_every_overflow_leaves_a_record(name: str, given: bool) -> None:
    """Whether the scaler calls the optimizer or not; `last` is that of the step that did not happen."""
    net = network()
    optimizer, scaler = OPTIMIZERS[name](net.parameters()), scaler_of()
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer, scaler if given else None)
    with capture_records(clipper) as records:
        for i, batch in enumerate(data(overflows=(0, 3, 4)), start=1):
            optimizer.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
            scaler.step(optimizer)
            scaler.update()
            assert clipper.last is not None
            assert clipper.last.step == i
            assert (clipper.last.skipped == "skipped_scaler") == (i - 1 in {0, 3, 4})
    assert [record.step for record in records] == list(range(1, 11))


def test_a_scaler_of_two_optimizers_tells_once() -> None:
    """What is clipped together does not step together; a clipper for each hears of its own."""
    nets = network(), network()
    optimizers = [OPTIMIZERS["SGD"](net.parameters()) for net in nets]
    scaler = scaler_of()
    together = GradClipper([p for net in nets for p in net.parameters()])
    for optimizer in optimizers:
        together.attach(optimizer, scaler)
    for batch in data(overflows=(1,))[:3]:
        for optimizer, net in zip(optimizers, nets, strict=True):
            optimizer.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
    assert together.last is not None
    assert together.last.step == 3
    together.detach()

    clippers = [GradClipper(net).attach(optimizer, scaler) for net, optimizer in zip(nets, optimizers, strict=True)]
    for optimizer, net, batch in zip(optimizers, nets, data(overflows=(1,)), strict=False):
        optimizer.zero_grad()
        scaler.scale(loss_of(net, batch)).backward()
    for optimizer in optimizers:
        scaler.step(optimizer)
    assert [clipper.last.skipped for clipper in clippers if clipper.last] == [None, "skipped_scaler"]


def test_a_scaler_may_be_copied_and_have_a_step_of_its_own() -> None:
    """Each step that any of them leaves out is heard of, once."""

    class Own(GradScaler):
        def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
            calls.append(self)
            return super().step(optimizer, *args, **kwargs)

    calls: list[GradScaler] = []
    net = network()
    optimizer, scaler = OPTIMIZERS["SGD"](net.parameters()), Own("cpu")
    clipper = GradClipper(net).attach(optimizer)
    with capture_records(clipper) as records:
        for one in (scaler, deepcopy(scaler)):
            one.scale(loss_of(net, data(overflows=(0,))[0])).backward()
            one.step(optimizer)
    assert len(calls) == 2
    assert [record.status for record in records] == ["skipped_scaler"] * 2


def test_a_step_of_a_group_that_was_added_is_no_overflow() -> None:
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer, scaler = torch.optim.SGD([p], lr=0.1), scaler_of()
    clipper = GradClipper([p, q]).attach(optimizer, scaler)
    with capture_records(clipper) as records:
        for step in range(3):
            if step == 1:
                optimizer.add_param_group({"params": [q]})
            optimizer.zero_grad()
            scaler.scale((p + q).square().sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert [record.status for record in records] == ["clipped"] * 3
