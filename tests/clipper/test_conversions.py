"""A model that is moved or converted after its clipper was made."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from conftest import skip_without, take_elsewhere
from gradclip import GradClipper, MisuseWarning
from gradclip.clipper.selection import Selection
from gradclip.policies import AGC, AdaGC, AutoClip, FixedNorm, Policy, SpikeSkip, ZClip, by_name, chain
from policies.cases import CASES, clip, clipper_of, gradients, model
from there import There

LEARNING: list[Policy] = [
    AdaGC(10.0, warmup=2),
    ZClip(10.0, warmup=2),
    AutoClip(10.0, window=5, scope="parameter"),
    SpikeSkip(10.0, window=4, warmup=2),
    by_name({"0.weight": ZClip(10.0, warmup=2)}, default=AutoClip(10.0, window=5)),
    chain(AGC(), AdaGC(10.0, warmup=2)),
]


def run(policy: Policy, change: Callable[[nn.Module, int], None], *, counted_only: tuple[str, ...] = ()) -> list[float]:
    """Clip ten random gradients; return the norms after."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    clipper = GradClipper(model, policy, counted_only=counted_only)
    norms: list[float] = []
    for step in range(10):
        change(model, step)
        for p in model.parameters():
            p.grad = torch.randn(p.shape).to(p.dtype)
        norms.append(clipper.clip().total_norm_after)
    return norms


@pytest.mark.parametrize("policy", LEARNING, ids=repr)
@pytest.mark.parametrize("counted_only", [(), ("0.bias",)])
def test_a_clipper_follows_its_model(
    policy: Policy, counted_only: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was learned goes on where the model is now: `cpu:0` is another name of the same device here."""
    stays = run(policy, lambda *_: None, counted_only=counted_only)

    def move(_: nn.Module, step: int) -> None:
        device = torch.device("cpu:0") if 3 <= step < 7 else torch.device("cpu")
        monkeypatch.setattr(Selection, "device", device)

    assert run(policy, move, counted_only=counted_only) == stays


def test_a_conversion_that_swaps_tensors_finds_nobody_who_minds() -> None:
    """With the gradients in place, after a step that was clipped; the next is too."""
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clipper = GradClipper(model, FixedNorm(0.5)).attach(optimizer)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        for dtype in (torch.float32, torch.float64, torch.float32):
            model.to(dtype)
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            optimizer.step()
            assert clipper.last is not None
            assert clipper.last.total_norm_after == pytest.approx(0.5)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert clipper.last.step == 3


@pytest.mark.parametrize("policy", LEARNING, ids=repr)
def test_parts_of_a_model_without_numbers_may_come_first(policy: Policy) -> None:
    """As where the whole is made on the meta device, and what is trained alone gets memory."""
    found = []
    for order in (slice(None), slice(None, None, -1)):
        torch.manual_seed(0)
        parts = [("part", nn.Linear(3, 4)), ("0", nn.Linear(4, 2, device="meta"))]
        named = [(f"{name}.{key}", p) for name, part in parts[order] for key, p in part.named_parameters()]
        clipper = GradClipper(named, policy, norms_every=1, counted_only=["*.bias"])
        for _ in range(4):
            for p in parts[0][1].parameters():
                p.grad = torch.randn(p.shape)
            found.append(clipper.clip().total_norm_after)
    assert found[:4] == found[4:]


@pytest.mark.parametrize("policy", LEARNING, ids=repr)
def test_a_clipper_follows_its_model_to_a_gpu(policy: Policy) -> None:
    """And back."""
    if not torch.cuda.is_available():
        skip_without("cuda", "there is no CUDA device")
    stays = run(policy, lambda *_: None)

    def move(model: nn.Module, step: int) -> None:
        model.to("cuda" if 3 <= step < 7 else "cpu")

    assert run(policy, move) == pytest.approx(stays, rel=1e-9)


@pytest.mark.parametrize("policy", LEARNING, ids=repr)
def test_a_clipper_follows_another_dtype(policy: Policy) -> None:
    """Norms are float64 whatever the gradients are."""

    def convert(model: nn.Module, step: int) -> None:
        model.to(torch.float64 if step >= 3 else torch.float32)

    assert run(policy, convert) == pytest.approx(run(policy, lambda *_: None), rel=1e-12)


def replaced() -> tuple[nn.Module, GradClipper]:
    model = nn.Linear(2, 1)
    clipper = GradClipper(model, FixedNorm(1.0))
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    return model, clipper


def test_parameters_that_are_replaced_cannot_be_attached() -> None:
    """The message says what to do."""
    model, clipper = replaced()
    with pytest.raises(ValueError, match="of none of them. Make the clipper from the optimizer"):
        clipper.attach(torch.optim.SGD(model.parameters(), lr=0.1))


def test_parameters_that_are_replaced_get_a_warning() -> None:
    """Nobody clips in vain for long."""
    model, clipper = replaced()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train() -> None:
        for _ in range(5):
            model(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
            clipper.clip()
            optimizer.step()

    with pytest.warns(MisuseWarning, match="no gradient in 3 calls in a row: none of its parameters has any.*anew"):
        train()


def test_two_clips_without_a_gradient_are_nothing() -> None:
    """A loop may begin so."""
    model = nn.Linear(2, 1)
    clipper = GradClipper(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            clipper.clip()
            clipper.clip()
            model(torch.ones(1, 2)).sum().backward()
            clipper.clip()
            torch.optim.SGD(model.parameters(), lr=0.1).zero_grad()


def spiky(elsewhere: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], Any]:
    if elsewhere:
        take_elsewhere(monkeypatch)
    torch.manual_seed(0)
    named = [(f"p{i}", nn.Parameter(torch.zeros(3))) for i in range(2)]
    skips = SpikeSkip(1e9, window=4, warmup=2, sigmas=2.0)
    clipper = GradClipper(named, by_name({"p0": skips, "p1": ZClip(1e9, warmup=2)}))
    found: list[Any] = []
    for step in range(12):
        for i, (_, p) in enumerate(named):
            p.grad = torch.full((3,), 1.0 + 0.1 * torch.rand(()).item() + (50.0 if step in {5, 9} and i == 0 else 0.0))
        result = clipper.clip()
        found.append((result.status.value, result.total_norm))
    return found, clipper.state_dict()


def test_a_part_that_skips_learns_the_same_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numbers are on a device, a step that does not happen teaches only those who asked for that too."""
    here, learned = spiky(False, monkeypatch)
    assert [status for status, _ in here].count("skipped_spike") == 2
    there, learned_there = spiky(True, monkeypatch)
    assert there == here
    assert _rounded(learned_there) == _rounded(learned)


def sanitized(policy: Policy, place: Callable[[torch.Tensor], torch.Tensor]) -> tuple[list[float], Any]:
    parameters = {name: nn.Parameter(place(p.detach())) for name, p in model().items()}
    clipper = clipper_of(policy, parameters, nonfinite="sanitize")
    found: list[float] = []
    for step in range(8):
        given = gradients(step)
        if step in {1, 4}:
            given["body.bias"][0] = math.nan
        found.append(clip(clipper, parameters, {name: place(x) for name, x in given.items()})[0].total_norm_after)
    return found, clipper.state_dict()


@pytest.mark.parametrize("name", CASES)
def test_zeros_in_place_of_nan_teach_the_same_elsewhere(name: str) -> None:
    """And what comes after them goes on from it: the host, which reads the norms of all steps, reads that one too."""
    here, learned = sanitized(CASES[name].policy, torch.clone)
    there, learned_there = sanitized(CASES[name].policy, There)
    assert there == pytest.approx(here, rel=1e-9, nan_ok=True)
    assert _rounded(learned_there) == _rounded(learned)


def _rounded(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _rounded(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_rounded(value) for value in state]
    return round(state, 9) if isinstance(state, float) else state
