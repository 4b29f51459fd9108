"""timm's `NativeScaler` and `dispatch_clip_grad`, as they are, under `gradclip.patch()`."""

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import gradclip
from conftest import skip_without
from gradclip.policies import FixedNorm
from gradclip.records import Memory
from gradclip.testing import assert_clipped
from integrations.loops import MOMENTUM, RATE, STEPS, batches, loss_of, network, same


@pytest.fixture
def timm_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`timm.utils.cuda` and what it imports, without the rest of timm, which needs torchvision."""
    try:
        found = importlib.metadata.distribution("timm")
    except importlib.metadata.PackageNotFoundError:
        skip_without("oracles", "timm is not installed")
        raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("timm", "timm.utils"):
        package = ModuleType(name)
        package.__path__ = [str(found.locate_file(name.replace(".", "/")))]
        package.__spec__ = ModuleSpec(name, None, is_package=True)
        monkeypatch.setitem(sys.modules, name, package)
    yield importlib.import_module("timm.utils.cuda")
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        del sys.modules[name]


def trained(timm_cuda: Any, *, mode: str, value: float, every: int = 1, max_norm: float | None = None) -> nn.Module:
    """Train as timm's `train.py` does; look at what the optimizer sees, where there is a bound on the norm."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=MOMENTUM)
    scaler = timm_cuda.NativeScaler(device="cpu")
    with assert_clipped(optimizer, max_norm=1e9 if max_norm is None else max_norm):
        for i, batch in enumerate(batches(), 1):
            scaler(
                loss_of(net, batch) / every,
                optimizer,
                clip_grad=value,
                clip_mode=mode,
                parameters=net.parameters(),
                need_update=i % every == 0,
            )
            if i % every == 0:
                optimizer.zero_grad()
    return net


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize(("mode", "value"), [("norm", 0.5), ("value", 0.05), ("agc", 0.1)])
def test_it_trains_as_without(timm_cuda: Any, mode: str, value: float, every: int) -> None:
    """In every mode, with micro-batches too; AGC is timm's own, which calls nothing of torch."""
    bound = 0.5 if mode == "norm" else None
    expected = trained(timm_cuda, mode=mode, value=value, every=every)
    with gradclip.patch():
        net = trained(timm_cuda, mode=mode, value=value, every=every, max_norm=bound)
    same(net, expected)


def test_every_step_is_recorded(timm_cuda: Any) -> None:
    """Unscaled, before clipping, with timm's bound."""
    records = Memory()
    expected = trained(timm_cuda, mode="norm", value=0.5)
    with gradclip.patch(sinks=[records]):
        net = trained(timm_cuda, mode="norm", value=0.5, max_norm=0.5)
    same(net, expected)
    assert [record.step for record in records.records] == list(range(1, STEPS + 1))
    assert {record.threshold for record in records.records} == {0.5}
    norms = [record.total_norm for record in records.records]
    assert 0.5 < max(norms) < 100.0  # and not 65536 times as much


@pytest.mark.parametrize("mode", ["norm", "agc"])
def test_a_policy_in_place_of_its_bound(timm_cuda: Any, mode: str) -> None:
    """Whether or not timm clips by torch."""
    with gradclip.patch(FixedNorm(0.125)):
        trained(timm_cuda, mode=mode, value=100.0, max_norm=0.125)
