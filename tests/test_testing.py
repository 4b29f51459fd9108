"""The helpers that users import in their own tests."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler

import gradclip
from clipper.training import backward, batches, loss_of, network
from gradclip import GradClipper
from gradclip.policies import FixedNorm, FixedValue
from gradclip.records.sinks import LISTENERS
from gradclip.testing import assert_clipped, capture_records


def setup(make: Callable[..., torch.optim.Optimizer] = torch.optim.SGD, **arguments: Any) -> Any:
    net = network()
    return net, make(net.parameters(), lr=0.1, **arguments)


def clip_by_torch(net: nn.Module) -> None:
    torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)


def clip_by_us(net: nn.Module) -> None:
    gradclip.clip_grad_norm_(net.parameters(), 0.5)


def clip_by_division(net: nn.Module) -> None:
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None))
    for p in net.parameters():
        assert p.grad is not None
        p.grad.div_(2.0 * norm)


# A proof that a loop clips.


@pytest.mark.parametrize("clip", [clip_by_torch, clip_by_us, clip_by_division])
def test_any_way_of_clipping_passes(clip: Callable[[nn.Module], None]) -> None:
    """It is measured, not asked."""
    net, optimizer = setup()
    with assert_clipped(optimizer, 0.5):
        for batch in batches(5):
            backward(net, optimizer, batch)
            clip(net)
            optimizer.step()


def test_an_attached_clipper_passes_and_skips_too() -> None:
    """A step that does not happen uses nothing."""
    net, optimizer = setup()
    GradClipper(net, FixedNorm(0.5)).attach(optimizer)
    with assert_clipped(optimizer, 0.5):
        for batch in batches(5, poisoned=[2]):
            backward(net, optimizer, batch)
            optimizer.step()


def test_a_loop_that_does_not_clip_fails_at_its_step() -> None:
    """The message has the number of the step, the norm and the bound; the parameters are as before that step."""
    net, optimizer = setup()
    kept: list[list[Tensor]] = []

    def loop() -> None:
        for i, batch in enumerate(batches(5)):
            backward(net, optimizer, batch)
            if i < 2:
                clip_by_torch(net)
            kept.append([p.detach().clone() for p in net.parameters()])
            optimizer.step()

    message = r"step 3 of SGD used gradients of total norm \d+\.\d+, above max_norm 0\.5 by more than a share of 4"
    with pytest.raises(AssertionError, match=message), assert_clipped(optimizer, 0.5):
        loop()
    assert len(kept) == 3 and all(torch.equal(p, q) for p, q in zip(net.parameters(), kept[2], strict=True))


@pytest.mark.parametrize("late", ["after the step", "before backward", "scaled"])
def test_clipping_at_the_wrong_place_fails(late: str) -> None:
    """Whatever the mistake is, the norm gives it away."""
    net, optimizer = setup()
    scaler = GradScaler("cpu", init_scale=2.0**-10)  # too little is left of what was clipped

    def loop() -> None:
        for batch in batches(3):
            optimizer.zero_grad()
            loss = loss_of(net, batch)
            if late == "before backward":
                clip_by_torch(net)
            (scaler.scale(loss) if late == "scaled" else loss).backward()
            if late == "scaled":
                clip_by_torch(net)
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
                clip_by_torch(net)

    with pytest.raises(AssertionError, match="step 1 of SGD"), assert_clipped(optimizer, 0.01):
        loop()


def test_no_step_at_all_fails() -> None:
    """A test that trained nothing proves nothing; another optimizer's step is none."""
    _, optimizer = setup()
    _, another = setup()
    with (
        pytest.raises(AssertionError, match="no step of SGD ran inside `assert_clipped`"),
        assert_clipped(optimizer, 0.5),
    ):
        another.step()


def test_hooks_that_come_later_are_seen() -> None:
    """One that is registered inside the block, on the optimizer, still comes before the measurement."""
    net, optimizer = setup()
    with assert_clipped(optimizer, 0.5):
        GradClipper(net, FixedNorm(0.5)).attach(optimizer)
        backward(net, optimizer, batches(1)[0])
        optimizer.step()

        def add_to_one(*_: object) -> None:
            next(net.parameters()).grad.add_(1.0)

        spoil = optimizer.register_step_pre_hook(add_to_one)
        backward(net, optimizer, batches(1)[0])
        with pytest.raises(AssertionError, match="step 2 of SGD"):
            optimizer.step()
        spoil.remove()


@pytest.mark.parametrize("by_keyword", [True, False])
def test_closures(by_keyword: bool) -> None:
    """What the closure made is measured; its loss comes back."""
    net, optimizer = setup()
    clipper = GradClipper(net, FixedNorm(0.5)).attach(optimizer)

    def closure() -> Tensor:
        return backward(net, optimizer, batches(1)[0])

    def step() -> Tensor:
        return optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)

    expected = loss_of(net, batches(1)[0]).item()
    with assert_clipped(optimizer, 0.5):
        assert step().item() == expected
    clipper.detach()
    with pytest.raises(AssertionError, match="step 1 of SGD"), assert_clipped(optimizer, 0.5):
        step()


@pytest.mark.parametrize("clip", [False, True])
def test_a_fused_optimizer_that_unscales_by_itself(clip: bool) -> None:
    """What it will divide by counts, and an overflow is no step."""
    net, optimizer = setup(torch.optim.AdamW, fused=True)
    scaler = GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    if clip:
        GradClipper(net, FixedNorm(0.5)).attach(optimizer, scaler=scaler)
    with assert_clipped(optimizer, 0.5 if clip else 100.0):
        for batch in batches(8):
            optimizer.zero_grad()
            scaler.scale(loss_of(net, batch)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() < 2.0**127 and optimizer.state


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
def test_other_norms(norm_type: float) -> None:
    """Of the order asked for."""
    net, optimizer = setup()
    GradClipper(net, FixedNorm(0.5, norm_type)).attach(optimizer)
    with assert_clipped(optimizer, 0.5, norm_type):
        backward(net, optimizer, batches(1)[0])
        optimizer.step()
    backward(net, optimizer, batches(1)[0])
    with pytest.raises(AssertionError, match="step 1"), assert_clipped(optimizer, 0.499, norm_type):
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_is_allowed_for(dtype: torch.dtype) -> None:
    """That of the dtype, and no more; an own tolerance takes its place."""
    p = nn.Parameter(torch.zeros(1, dtype=dtype))
    optimizer = torch.optim.SGD([p], lr=0.1)
    eps = torch.finfo(dtype).eps
    for over, rtol, passes in ((3, None, True), (8, None, False), (3, 0.0, False), (8, 8.1 * eps, True)):
        p.grad = torch.tensor([1.0 + over * eps], dtype=dtype)
        if passes:
            with assert_clipped(optimizer, 1.0, rtol=rtol):
                optimizer.step()
        else:
            with pytest.raises(AssertionError, match="above max_norm 1"), assert_clipped(optimizer, 1.0, rtol=rtol):
                optimizer.step()


@pytest.mark.parametrize(
    "gradient",
    [
        torch.tensor([math.nan]),
        torch.tensor([math.inf]),
        torch.full((4,), 3e38),
        torch.sparse_coo_tensor([[0, 0]], [0.6, 0.6], (1,), check_invariants=True),
        torch.tensor([0.8 + 0.8j]),
    ],
    ids=["nan", "inf", "large", "sparse duplicates", "complex"],
)
def test_gradients_of_every_kind_are_measured(gradient: Tensor) -> None:
    """None of these is within 1, however it is stored."""
    p = nn.Parameter(torch.zeros_like(gradient.to_dense()))
    p.grad = gradient
    optimizer = torch.optim.SGD([p], lr=0.1)
    with pytest.raises(AssertionError, match="step 1 of SGD"), assert_clipped(optimizer, 1.0):
        optimizer.step()


def test_it_leaves_nothing_behind() -> None:
    """No hook stays on the optimizer or on all of them, whatever happened inside."""
    from torch.optim import optimizer as module

    _, optimizer = setup()
    before = dict(module._global_optimizer_pre_hooks)
    with pytest.raises(LookupError), assert_clipped(optimizer, 1.0):
        raise LookupError
    assert dict(module._global_optimizer_pre_hooks) == before and not optimizer._optimizer_step_pre_hooks


def test_wrong_arguments() -> None:
    """They are refused before the block runs."""
    _, optimizer = setup()
    for arguments, error, message in (
        ((3, 1.0), TypeError, r"`assert_clipped\(optimizer=...\)` must be a torch optimizer, got int"),
        ((optimizer, -1.0), ValueError, r"`assert_clipped\(max_norm=...\)` must be >= 0, got -1.0"),
        ((optimizer, "1"), TypeError, r"`assert_clipped\(max_norm=...\)` must be a number, got '1'"),
        ((optimizer, 1.0, 0.0), ValueError, r"`assert_clipped\(norm_type=...\)` must be > 0, got 0.0"),
        ((optimizer, 1.0, 2.0, -0.1), ValueError, r"`assert_clipped\(rtol=...\)` must be >= 0, got -0.1"),
    ):
        given, rtol = arguments[:3], arguments[3] if len(arguments) > 3 else None
        with pytest.raises(error, match=message), assert_clipped(*given, rtol=rtol):
            pytest.fail("the block ran")


# Records of what happened.


def test_records_of_all_clippers_or_of_one() -> None:
    """In order, and none from before or after."""
    named = {name: nn.Parameter(torch.zeros(1)) for name in "ab"}
    first, second = (GradClipper([pair], FixedValue(2.0)) for pair in named.items())
    for size, p in zip((1.0, 3.0), named.values(), strict=True):
        p.grad = torch.tensor([size])
    first.clip()
    with capture_records() as every, capture_records(second) as some:
        first.clip()
        second.clip()
    second.clip()
    assert [(record.step, record.total_norm, record.status) for record in every] == [
        (2, 1.0, "ok"),
        (1, 3.0, "clipped"),
    ]
    assert some == [every[1]]


def test_captures_within_captures() -> None:
    """Each has what happened inside it, and none stays behind, whatever happened."""
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    clipper = GradClipper([p])
    with capture_records(clipper) as outer:
        clipper.clip()
        with capture_records(clipper) as inner, capture_records() as every:
            clipper.clip()
        with pytest.raises(LookupError), capture_records(clipper):
            raise LookupError
        clipper.clip()
    assert [record.step for record in outer] == [1, 2, 3]
    assert [record.step for record in inner] == [record.step for record in every] == [2]
    assert LISTENERS == [] and not clipper._sinks.wanted


def test_a_clipper_keeps_its_own_sinks() -> None:
    """They hear what they heard."""
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    own: list[gradclip.ClipRecord] = []
    clipper = GradClipper([p], sinks=[own.append])
    with capture_records(clipper) as records:
        clipper.clip()
    clipper.clip()
    assert len(own) == 2 and own[:1] == records
