"""The backend for GPUs, without one: interpreted, compiled for cards, and launched by a stand-in for the driver."""

import contextlib
import ctypes
import functools
import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import gradclip
import reference
from conftest import skip_without
from gradclip.ops import registry
from gradclip.ops.triton import driver, launch, table
from gradclip.policies import Policy
from policies.cases import CASES, clipper_of, gradients, model
from waits import NoReads, stand_in

pytest.importorskip("triton", reason="Triton is not installed")

from gradclip.ops.triton import backend as triton_backend


@pytest.fixture(autouse=True)
def _forced() -> Iterator[None]:
    if why := registry.why_no_triton():
        skip_without("triton", f"the kernels for GPUs do not run: {why}")
    with registry.forced("triton"):
        yield


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that were launched."""
    names: list[str] = []

    def noted(kernel: Any, *arguments: Any, **constants: Any) -> None:
        names.append(kernel.fn.__name__)
        launch.launch(kernel, *arguments, **constants)

    monkeypatch.setattr(triton_backend, "launch", noted)
    return names


def owners(*gradients: Tensor) -> list[Tensor]:
    found = [torch.nn.Parameter(torch.zeros_like(x)) for x in gradients]
    for parameter, gradient in zip(found, gradients, strict=True):
        parameter.grad = gradient
    return found


def some_tensors() -> list[Tensor]:
    """Several dtypes in no order, none aligned alike, empty ones, and more than a chunk."""
    return [
        torch.randn(40_000),
        torch.randn(7, 33, dtype=torch.float64),
        torch.randn(0),
        torch.randn(4099)[3:],
        torch.randn(5, dtype=torch.complex64),
        torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(3, 50).to(torch.bfloat16),
        torch.randn(0, 4),
        torch.randn(2, 0),
        torch.tensor(3.0, dtype=torch.float64),
    ]


# The table.


@pytest.mark.parametrize("by_unit", [False, True])
def test_both_ways_to_the_table(by_unit: bool) -> None:
    """The extension and plain torch write the same words."""
    if registry.NATIVE is None:
        skip_without("native", f"the extension is missing: {registry.NATIVE_MISSING}")
    tensors = some_tensors()
    for listed in (tensors, tensors[:1], [tensors[2]], [tensors[4]]):
        ours, theirs = table.tabled(listed, by_unit=by_unit), table.written(listed, by_unit=by_unit)
        assert ours[1:] == theirs[1:]
        assert torch.equal(ours.words, theirs.words)


def test_chunks_grow_with_the_number_of_elements() -> None:
    """The combining kernel then has fewer partials to add; nothing of the memory is touched here."""
    many = torch.empty(table.SIZES[2], dtype=torch.bfloat16)
    assert table.tabled([many]).chunks == table.written([many]).chunks == table.SIZES[2] // table.SIZES[1]
    few = many[:-1]
    assert table.tabled([few]).chunks == -(-few.numel() // table.SIZES[0])


def test_bounds_travel_with_the_table() -> None:
    """As float64, since Triton would pass them as float32."""
    found = table.on_device(table.tabled(some_tensors()), torch.device("cpu"), (0.1, 1e-6))
    assert found.words[found.bounds :].view(torch.float64).tolist() == [0.1, 1e-6]
    assert found.words[found.whole : found.bounds].tolist() == [0, found.chunks]


def test_what_the_extension_refuses() -> None:
    """Of tensors that are not dense it makes no table, and of what is no list of tensors neither."""
    native = pytest.importorskip("gradclip.ops._native")
    assert native.table([torch.randn(4, 6)[:, ::2]], False, table.SIZES) is None
    assert native.table([torch.randn(4, 6).t()], True, table.SIZES) is None
    assert native.table([torch.randn(4).to_sparse()], False, table.SIZES) is None
    with pytest.raises(TypeError, match="must be a tuple of three numbers"):
        native.table([], False, (1, 2))
    with pytest.raises(ValueError, match="must be at least 1"):
        native.table([], False, (0, 2, 3))
    with pytest.raises(TypeError, match="must be a list"):
        native.table((), False, table.SIZES)


# The function.


def test_a_clip_is_three_launches(launched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure, combine, scale, whatever the number of tensors; nobody reads a number, and the norm is a new tensor."""
    stand_in(monkeypatch)
    gradients = [torch.randn(n) for n in (3, 20_000, 1, 700)]
    before = [x.clone() for x in gradients]
    given = owners(*gradients)
    with NoReads():
        norm = gradclip.clip_grad_norm_(given, 0.5)
        again = gradclip.clip_grad_norm_(given, math.inf)
    assert launched == ["measure_powers", "combine", "scale"] * 2
    expected = reference.norm([x.double() for x in before], 2.0)
    assert (norm.dtype, norm.shape, norm.item()) == (torch.float32, (), pytest.approx(expected, rel=2e-7))
    assert again.item() == pytest.approx(0.5, rel=1e-5)
    for x, old in zip(gradients, before, strict=True):
        assert x.double().tolist() == reference.scaled(old, 0.5 / (expected + 1e-6))


def test_a_clip_by_python_alone(monkeypatch: pytest.MonkeyPatch, launched: list[str]) -> None:
    """Without the extension the table is made by torch, and all is the same."""
    monkeypatch.setattr(registry, "NATIVE", None)
    monkeypatch.setattr(table, "_native", None)
    given = owners(torch.tensor([3.0]), torch.tensor([4.0]))
    assert gradclip.clip_grad_norm_(given, 1.0).item() == 5.0
    assert [p.grad.item() for p in given] == pytest.approx([0.6, 0.8], rel=1e-6)
    assert launched == ["measure_powers", "combine", "scale"]


def test_nothing_to_clip_writes_nothing(launched: list[str]) -> None:
    """Where the host knows the coefficient, it is not even launched."""
    given = owners(torch.tensor([0.3, 0.4]))
    gradclip.clip_grad_norm_(given, 1.0)
    assert launched == ["measure_powers", "combine"]
    assert given[0].grad._version == 0


@pytest.mark.parametrize("max_norm", [1.0, math.inf, 0.0])
@pytest.mark.parametrize("eps", [1e-6, 0.0])
@pytest.mark.parametrize("norm", [5.0, 0.0, math.nan, math.inf])
def test_the_coefficient_is_that_of_all_backends(
    max_norm: float, eps: float, norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has the formula once more: min(1, c / (n + eps)), 1 for no bound, NaN for a NaN under one."""
    stand_in(monkeypatch)
    x = torch.tensor([norm], dtype=torch.float64)
    total, coef = triton_backend.TritonBatch([x]).norm_and_coefficient(max_norm, eps)
    assert isinstance(coef, Tensor)
    expected = gradclip.clip_coefficient(norm, max_norm, eps=eps)
    assert torch.equal(coef.nan_to_num(7.0), torch.as_tensor(expected, dtype=torch.float64).nan_to_num(7.0))
    assert torch.equal(total.nan_to_num(7.0), x[0].abs().nan_to_num(7.0))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_what_kernels_do_not_take(launched: list[str]) -> None:
    """Strided and sparse gradients, and those of other dtypes, go to plain torch one by one; the rest does not."""
    strided = torch.arange(12.0).view(3, 4)[:, ::2]
    eighth = torch.tensor([2.0, 1.0]).to(torch.float8_e5m2)
    sparse = torch.sparse_coo_tensor([[1]], [5.0], (3,)).coalesce()
    dense = torch.full((9,), 2.0)
    given = [*owners(strided, eighth, dense)]
    given.append(torch.nn.Parameter(torch.zeros(3)))
    given[-1].grad = sparse
    values = [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 2.0, 1.0, 5.0, *[2.0] * 9]
    assert gradclip.clip_grad_norm_(given, math.inf).item() == pytest.approx(math.hypot(*values), rel=1e-6)
    assert "measure_powers" in launched


@pytest.mark.parametrize("order", [1.0, 2.0, 3.3, math.inf])
def test_grouping_does_not_matter(order: float) -> None:
    """The same elements in other tensors have the same norm to the last place; again the same way, to the last bit."""
    x = torch.randn(70_000)
    whole = triton_backend.TritonBatch([x]).partial(order)
    assert whole == triton_backend.TritonBatch([x.clone()]).partial(order)
    for sizes in ([1, 69_999], [30_000, 40_000], [16_384, 16_384, 37_232]):
        parts = triton_backend.TritonBatch([part.clone() for part in x.split(sizes)]).partial(order)
        assert parts == pytest.approx(whole, rel=4e-16)


def test_versions_rise_only_where_something_may_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the device knows, it may."""
    stand_in(monkeypatch)
    tensors = [torch.ones(3), torch.ones(4)]
    batch = triton_backend.TritonBatch(tensors)
    batch.scale_(1.0)
    batch.clamp_(math.inf)
    assert [x._version for x in tensors] == [0, 0]
    batch.scale_(torch.tensor(1.0, dtype=torch.float64))
    assert [x._version for x in tensors] == [1, 1]


def test_an_extremum_takes_no_factor() -> None:
    """Nobody asks for one: a maximum times a factor is the maximum times that factor."""
    with pytest.raises(ValueError, match="without a factor"):
        triton_backend.TritonBatch([torch.ones(2)]).partial(math.inf, 2.0)


# Launches by the driver.


def stand_in_driver(calls: list[Any], error: int = 0) -> Any:
    """A function of C in the place of `cuLaunchKernel`."""
    u, p = ctypes.c_uint, ctypes.c_void_p
    kind = ctypes.CFUNCTYPE(ctypes.c_int, p, *[u] * 7, p, ctypes.POINTER(p), p)

    def call(function: int, *rest: Any) -> int:
        *numbers, stream, arguments, extra = rest
        words = [ctypes.cast(arguments[i], ctypes.POINTER(ctypes.c_uint64))[0] for i in range(5)]
        calls.append((function, numbers, stream, words, extra))
        return error

    return kind(call)


def test_a_launch_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton has compiled once is handed to the driver from then on, with its arguments and Triton's own."""
    native = pytest.importorskip("gradclip.ops._native")
    calls: list[Any] = []
    function = stand_in_driver(calls)
    start = functools.partial(native.launch, ctypes.cast(function, ctypes.c_void_p).value)
    monkeypatch.setattr(driver, "starter", lambda: start)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=77))
    monkeypatch.setattr(launch, "_compiled", {})
    runs: list[Any] = []

    class Kernel:
        def __getitem__(self, grid: Any) -> Any:
            def run(*arguments: Any, **constants: Any) -> Any:
                runs.append((grid, arguments, constants))
                return compiled()

            return run

    kernel, memory = Kernel(), torch.zeros(3)
    for programs in (4, 5):
        launch.launch(kernel, programs, torch.device("cpu"), (memory, 1, 2**31 - 1), 4, BLOCK=1024)
    assert runs == [((4,), (memory, 1, 2**31 - 1), {"BLOCK": 1024, "num_warps": 4})]
    assert calls == [(123, [5, 1, 1, 128, 1, 1, 64], 77, [memory.data_ptr(), 1, 2**31 - 1, 0, 0], None)]


def compiled(**changes: Any) -> SimpleNamespace:
    """What Triton says of a kernel of three arguments."""
    about = {
        "target": SimpleNamespace(backend="cuda", warp_size=32),
        "num_ctas": 1,
        "num_warps": 4,
        "shared": 64,
        "launch_cooperative_grid": False,
        "launch_pdl": False,
        "global_scratch_size": 0,
        "profile_scratch_size": 0,
    } | changes
    signature = {"a": "*fp64", "n": "i32", "m": "i32", "BLOCK": "constexpr"}
    return SimpleNamespace(function=123, metadata=SimpleNamespace(**about), src=SimpleNamespace(signature=signature))


def test_what_the_driver_is_not_handed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that asks for more than its arguments, of another card or of a Triton that says less, stays Triton's."""
    monkeypatch.setattr(driver, "starter", lambda: print)
    assert driver.ready(compiled(), 3) == (print, 123, 128, 64)
    assert driver.ready(compiled(), 4) is None
    for changes in (
        {"num_ctas": 2},
        {"launch_pdl": True},
        {"launch_cooperative_grid": True},
        {"global_scratch_size": 8},
        {"profile_scratch_size": 8},
        {"target": SimpleNamespace(backend="hip", warp_size=64)},
    ):
        assert driver.ready(compiled(**changes), 3) is None
    older = compiled()
    del older.metadata.profile_scratch_size
    assert driver.ready(older, 3) is None
    assert driver.ready(None, 3) is None  # as in the interpreter
    monkeypatch.setattr(driver, "starter", lambda: None)
    assert driver.ready(compiled(), 3) is None


def test_an_error_of_the_driver() -> None:
    """It is raised with its number."""
    native = pytest.importorskip("gradclip.ops._native")
    function = stand_in_driver([], error=700)
    with pytest.raises(RuntimeError, match="could not launch a kernel: error 700"):
        native.launch(ctypes.cast(function, ctypes.c_void_p).value, 1, 1, 32, 0, 0, [0] * 5)
    with pytest.raises(TypeError, match="at most 24"):
        native.launch(1, 1, 1, 32, 0, 0, [0] * 25)


# Other ways.


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said where it was asked for by name, and elsewhere plain torch answers."""
    script = """
        import sys, torch, gradclip
        sys.modules["triton"] = None
        gradclip.get_total_norm([torch.ones(3)])
    """
    environment = {**os.environ, "GRADCLIP_BACKEND": "triton"}
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, check=False
    ).stderr
    assert "`GRADCLIP_BACKEND=triton` asks for kernels that cannot run here: ModuleNotFoundError" in said
    no_gpu = {**environment, "TRITON_INTERPRET": "0"}
    if not torch.cuda.is_available():
        said = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], env=no_gpu, capture_output=True, text=True, check=False
        ).stderr
        assert "cannot run here: torch finds no GPU" in said


def test_kernels_compile_for_cards() -> None:
    """Every kernel, for cards of NVIDIA and AMD; where chunks are aligned, it reads 16 bytes at once."""
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["cuda 90: 56 kernels", "hip gfx942: 56 kernels"]


# Policies.


@pytest.mark.parametrize("name", CASES)
def test_a_policy_on_a_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides there what it decides here, and nobody reads a number, unless it may skip the step."""
    steps = 12
    with registry.forced("reference"):
        here = outcomes(CASES[name].policy, steps)
    stand_in(monkeypatch)
    mode = contextlib.nullcontext() if CASES[name].policy.skips else NoReads()
    there = outcomes(CASES[name].policy, steps, mode)
    for ours, expected in zip(there, here, strict=True):
        assert all(torch.allclose(ours[key], expected[key], rtol=1e-12, atol=0.0) for key in expected)


def outcomes(policy: Policy, steps: int, mode: Any = None) -> list[dict[str, Tensor]]:
    """Clip several steps, and return what is left of the gradients."""
    parameters = model()
    clipper = clipper_of(policy, parameters, nonfinite="propagate")
    found: list[dict[str, Tensor]] = []
    for step in range(steps):
        for key, gradient in gradients(step, 30.0 if step == 9 else 1.0).items():
            parameters[key].grad = gradient.clone()
        with mode or contextlib.nullcontext():
            clipper.clip()
        found.append({key: p.grad.clone() for key, p in parameters.items() if p.grad is not None})
        for p in parameters.values():
            p.grad = None
    return found
