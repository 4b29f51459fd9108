"""What all tests share: strict about missing backends, the same numbers on every run."""

import gc
import inspect
import os
import re
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from gradclip import numbers
from gradclip.ops import registry
from gradclip.ops.backend import Backend
from gradclip.ops.reference import ReferenceBatch

# Before anything imports Triton: without a GPU, its interpreter runs the kernels.
os.environ.setdefault("TRITON_INTERPRET", str(int(not torch.cuda.is_available())))

REQUIRED = set(filter(None, os.environ.get("GRADCLIP_REQUIRE", "").split(",")))
"""What must not be skipped: `native`, `triton`, `cuda`, `oracles`, `tensorboard`, `browser`, `integrations`."""

settings.register_profile("gradclip", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("gradclip")


def pytest_collection_finish() -> None:
    """Leave what was imported out of each search for garbage and for who refers to what: it is a million objects."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Skip a test of which a rank says that this torch cannot do what it is about."""
    report: Any = yield
    if call.excinfo is not None and (lacking := re.search(r"TorchLacksError: (.*)", str(call.excinfo.value))):
        report.outcome, report.longrepr = "skipped", (str(item.path), 0, lacking[1])
    return report


def pytest_sessionfinish() -> None:
    """Let it go as ever: Triton's bindings say what they leave behind."""
    gc.unfreeze()


def skip_without(what: str, reason: str) -> None:
    """Skip a test, or fail it where the environment promises what it needs."""
    if what in REQUIRED:
        pytest.fail(f"GRADCLIP_REQUIRE={what}, but {reason}")
    pytest.skip(reason)


def named(value: object) -> str:
    """Return what a value reads as, less the addresses of functions: a name that is the same in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def take_elsewhere(patch: pytest.MonkeyPatch) -> None:
    """Take every tensor to be on another device, where nothing is read back."""
    patch.setattr("gradclip.numbers.is_host", lambda _: False)
    patch.setattr("gradclip.policies.history.is_ready", lambda x: not isinstance(x, torch.Tensor))


def take_here(patch: pytest.MonkeyPatch, *, is_host: Any = numbers.is_host, is_ready: Any = numbers.is_ready) -> None:
    """Take every tensor to be where it is, whatever was taken before."""
    patch.setattr("gradclip.numbers.is_host", is_host)
    patch.setattr("gradclip.policies.history.is_ready", is_ready)


def is_slow(backend: Backend) -> bool:
    """Whether kernels are interpreted, which takes milliseconds for each block of elements."""
    return backend.name == "triton" and registry.is_interpreted()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def scalers_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no clipper of another test hear of the steps that scalers leave out."""
    monkeypatch.setattr("gradclip.clipper.overflows._HEARERS", weakref.WeakSet())
    monkeypatch.setattr(torch.amp.GradScaler, "step", inspect.unwrap(torch.amp.GradScaler.step))


class InPlainTorch(Backend):
    """What `registry` turns to by itself where no kernels take tensors."""

    name = "reference"

    def takes(self, tensors: list[Tensor]) -> bool:
        return True

    def open(self, tensors: list[Tensor], chunks: object = None) -> ReferenceBatch:
        return ReferenceBatch(tensors)


@pytest.fixture(scope="module", params=["native", "triton", "reference", "reference elsewhere"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each implementation of the operations in turn; that in plain torch also as it works on other devices."""
    if request.param == "reference":
        yield InPlainTorch()
        return
    if request.param == "reference elsewhere":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gradclip.ops.reference._is_host", lambda _: False)
            patch.setattr("gradclip.ops.together.PIECE", 2**16)  # so that tensors of the tests are cut
            yield InPlainTorch()
        return
    if request.param == "triton":
        if why := registry.why_no_triton():
            skip_without("triton", f"the kernels for GPUs do not run: {why}")
        is_interpreted = registry.is_interpreted()
        with registry.forced("triton"):
            found = registry.on_cpu() if is_interpreted else registry.triton()
        assert found is not None
        assert found.name == "triton"
        with torch.device("cpu" if is_interpreted else "cuda"), pytest.MonkeyPatch.context() as patch:
            if is_interpreted:
                import interpreted  # with Triton, which is not everywhere

                interpreted.in_less_time(patch)
                interpreted.in_small_blocks(patch)
            yield found
        return
    if registry.NATIVE is None:
        skip_without("native", f"the native backend is missing: {registry.NATIVE_MISSING}")
    assert registry.NATIVE is not None
    yield registry.NATIVE
