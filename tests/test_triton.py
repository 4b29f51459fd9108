"""The backend for GPUs, without one: interpreted, compiled for cards, and launched by a stand-in for the driver."""

import contextlib
import ctypes
import inspect
import math
import os
import select
import struct
import subprocess
import sys
import threading
import weakref
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
from gradclip.gradients import collect
from gradclip.numbers import CPU
from gradclip.ops import registry
from gradclip.ops.triton import copying, driver, lane, launch, table, trial
from gradclip.policies import FixedNorm, Policy
from policies.cases import CASES, clipper_of, gradients, model
from processes import run
from waits import NoReads, stand_in

pytest.importorskip("triton", reason="Triton is not installed")

from gradclip.ops.triton import backend as triton_backend
from gradclip.ops.triton import measuring, plan, sheet
from interpreted import in_less_time, in_small_blocks


@pytest.fixture(autouse=True)
def _forced() -> Iterator[None]:
    if why := registry.why_no_triton():
        skip_without("triton", f"the kernels for GPUs do not run: {why}")
    with registry.forced("triton"), pytest.MonkeyPatch.context() as patch:
        in_less_time(patch)
        in_small_blocks(patch)
        yield


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that were launched."""
    names: list[str] = []

    def noting(calls: list[launch.Call], device: torch.device) -> None:
        names.extend(call.kernel.fn.__name__ for call in calls)
        launch.launch(calls, device)

    for module in (triton_backend, plan):
        monkeypatch.setattr(module, "launch", noting)
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


def words_of(found: table.HostTable, bounds: tuple[float, float] = (0.1, 1e-6)) -> Tensor:
    out = table.on_device(found, torch.device("cpu")).words
    table.write(found, bounds, out)
    return out


@pytest.mark.parametrize("by_unit", [False, True])
def test_both_ways_to_the_table(by_unit: bool) -> None:
    """The extension and plain torch write the same words."""
    if registry.NATIVE is None:
        skip_without("native", f"the extension is missing: {registry.NATIVE_MISSING}")
    tensors = some_tensors()
    empty_first = [torch.zeros(0).half(), torch.ones(2), torch.ones(3).half()]
    for listed in (
        tensors,
        tensors[:1],
        [tensors[2]],
        [tensors[4]],
        [torch.ones(3, 2), torch.ones(0).double()],
        empty_first,
    ):
        ours, theirs = table.tabled(listed, by_unit=by_unit), table.written(listed, by_unit=by_unit)
        assert ours[1:] == theirs[1:]
        assert not isinstance(ours.words, Tensor)
        assert torch.equal(words_of(ours), words_of(theirs))


def test_addresses_with_the_highest_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of Intel's GPUs: the same 64 bits, in memory of signed words."""
    at = [2**64 - 2**20, 2**63 + 8]
    monkeypatch.setattr(Tensor, "data_ptr", lambda x: at[len(x) - 5])
    found = table.written([torch.ones(5), torch.ones(6)])
    assert [word % 2**64 for word in found.words[:2].tolist()] == at
    assert [aligned for *_, aligned in found.runs] == [False]


def test_chunks_grow_with_the_number_of_elements() -> None:
    """The combining kernel then has fewer partials to add; nothing of the memory is touched here."""
    many = torch.empty(table.SIZES[2], dtype=torch.bfloat16)
    assert table.tabled([many]).chunks == table.written([many]).chunks == table.SIZES[2] // table.SIZES[1]
    few = many[:-1]
    assert table.tabled([few]).chunks == -(-few.numel() // table.SIZES[0])


def test_bounds_travel_with_the_table() -> None:
    """As float64, since Triton would pass them as float32."""
    for host in (table.tabled(some_tensors()), table.written(some_tensors())):
        found = table.on_device(host, torch.device("cpu"))
        copying.copy(host, found, None, (0.1, 1e-6))
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
    with pytest.raises(ValueError, match="must be between 1"):
        native.table([], False, (0, 2, 3))
    with pytest.raises(ValueError, match="must be between 1"):
        native.table([torch.ones(10)], False, (2**63 - 1, 1, 2**63 - 1))
    with pytest.raises(MemoryError):
        native.table([torch.empty(2**60, 0)], True, table.SIZES)
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
    assert launched == ["measure_powers", "combine", "scale", "measure_powers", "combine"]
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
    assert isinstance(coef, Tensor) == (max_norm < math.inf)
    expected = gradclip.clip_coefficient(norm, max_norm, eps=eps)
    assert float(coef) == pytest.approx(float(expected), rel=0.0, abs=0.0, nan_ok=True)
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


def test_no_element_at_all() -> None:
    """What combines no partial writes where some could be."""
    for shapes in ([(0, 4)], [(0,), (3, 0)]):
        given = owners(*(torch.zeros(shape) for shape in shapes))
        assert gradclip.clip_grad_norm_(given, 1.0).item() == 0.0
        assert gradclip.get_total_norm([p.grad for p in given], math.inf).item() == 0.0
    batch = triton_backend.TritonBatch([torch.zeros(0)])
    assert len(lane.partials_of(batch._tabled().chunks, torch.device("cpu"), None)) == 1


def test_units_are_tabled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms of units and their coefficients go by the same table."""
    made: list[bool] = []
    monkeypatch.setattr(
        triton_backend, "tabled", lambda xs, by_unit: made.append(by_unit) or table.tabled(xs, by_unit=by_unit)
    )
    batch = triton_backend.TritonBatch([torch.ones(3, 4)])
    batch.unit_partials()
    batch.scale_units_(torch.full((3,), 0.5, dtype=torch.float64))
    assert batch.unit_partials().tolist() == [1.0, 1.0, 1.0]
    assert made == [True]


def test_an_extremum_takes_no_factor() -> None:
    """Nobody asks for one: a maximum times a factor is the maximum times that factor."""
    with pytest.raises(ValueError, match="without a factor"):
        triton_backend.TritonBatch([torch.ones(2)]).partial(math.inf, 2.0)


# Launches by the driver.


class StandIn:
    """Functions of C in the place of the driver's: they run the interpreter, on memory that they get the address of."""

    def __init__(self, error: int = 0) -> None:
        u, p = ctypes.c_uint, ctypes.c_void_p
        launch_type = ctypes.CFUNCTYPE(ctypes.c_int, p, *[u] * 7, p, ctypes.POINTER(ctypes.POINTER(ctypes.c_uint64)), p)
        copy_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, p, ctypes.c_size_t, p)
        of_one, of_two = (ctypes.CFUNCTYPE(ctypes.c_int, *[p] * count) for count in (1, 2))
        self._error = error
        self._functions = (
            launch_type(self._launch),
            copy_type(self._copy),
            of_one(lambda event: BUSY if event in self.busy else 0),
            of_two(lambda event, stream: self.recorded.append((event, stream)) or 0),
            of_one(self._get),
            of_one(lambda context: self.contexts.append(context) or 0),
        )
        self._kernels: dict[tuple[Any, ...], driver.Ready] = {}
        self.launched: list[tuple[str, int, Any]] = []
        self.copied: list[tuple[int, int]] = []
        self.recorded: list[tuple[int, int]] = []
        self.busy: set[int] = set()
        self.contexts: list[int | None] = [HERE]

    @property
    def addresses(self) -> list[int]:
        return [ctypes.cast(function, ctypes.c_void_p).value or 0 for function in self._functions]

    def get(self, key: tuple[Any, ...]) -> driver.Ready:
        """Take every kernel for compiled; its number is its place."""
        return self._kernels.setdefault(key, driver.Ready(len(self._kernels) + 1, 32, 0))

    def _launch(self, function: int, *rest: Any) -> int:
        (programs, *_), stream, arguments = rest[:7], rest[7], rest[8]
        kernel, _, *constants = list(self._kernels)[function - 1]
        names = list(inspect.signature(kernel.fn).parameters)
        fixed = names[-len(constants) :]
        wide = dict(zip(fixed, constants, strict=True)).get("WIDE")
        given = [self._argument(name, arguments[i][0], wide) for i, name in enumerate(names[: -len(constants)])]
        self._launch_kernel(kernel[(programs,)], given, dict(zip(fixed, constants, strict=True)))
        self.launched.append((kernel.fn.__name__, programs, stream))
        return self._error

    @staticmethod
    def _launch_kernel(kernel: Any, arguments: list[Any], constants: dict[str, Any]) -> None:
        kernel(*arguments, **constants)

    @staticmethod
    def _argument(name: str, word: int, wide: bool | None) -> Any:
        if name in {"n", "begin", "end", "segments", "starts", "bounds"}:
            return word & 0xFFFFFFFF
        dtype = torch.int64 if name == "table" else torch.float32 if name == "norm" and not wide else torch.float64
        # All of it is copied to and fro by the interpreter, so it is to be enough and not far more.
        return torch.frombuffer((ctypes.c_char * 2**12).from_address(word), dtype=dtype)

    def _copy(self, to: int, host: int, count: int, stream: int) -> int:
        ctypes.memmove(to, host, count)
        self.copied.append((count, stream))
        return 0

    def _get(self, to: int) -> int:
        ctypes.c_uint64.from_address(to).value = self.contexts[-1] or 0
        return 0


HERE, BUSY = 5, 600
"""The context that is current, and what an event says before it has happened."""


class Slot:
    """Pinned memory, on a machine that pins none; its event is called by its number."""

    def __init__(self, words: int, device: torch.device | None = None, event: int = 0) -> None:
        self.host = torch.zeros(words, dtype=torch.int64)
        self.address = self.host.data_ptr()
        self.copied = event or id(self)
        self.is_new = True


@pytest.fixture
def by_driver(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    pytest.importorskip("gradclip.ops._native")
    stand_in_for_it = StandIn()
    monkeypatch.setattr(driver, "found", lambda: driver.Driver(*stand_in_for_it.addresses))
    monkeypatch.setattr(launch, "_compiled", stand_in_for_it)
    monkeypatch.setattr(launch, "current_cuda_stream", lambda _: 77)
    own = lane_on(77)
    for module in (triton_backend, plan, trial):
        monkeypatch.setattr(module, "lane_of", lambda _: own)
    monkeypatch.setattr(plan, "_LAST", plan._Last())
    return stand_in_for_it


def lane_on(stream: int) -> lane.Lane:
    """What is kept for a stream, with pinned memory that is not used again."""
    own = lane.Lane(torch.device("cpu"), (HERE, stream))
    put = {"give_back": lambda *_: None, "leave": lambda *_: None}
    own.slots = SimpleNamespace(take=lambda words, _: Slot(words), **put)  # type: ignore[assignment]
    return own


def test_a_clip_by_the_driver(by_driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second on, what is walked over is measured in one call of the extension; the scaling is another."""
    stand_in(monkeypatch)
    gradients = [torch.randn(20_000), torch.randn(7), torch.randn(300)]
    before = [x.clone() for x in gradients]
    truth = reference.norm([x.double() for x in before], 2.0)
    with NoReads():
        norm = gradclip.clip_grad_norm_(owners(*gradients), 0.5)
    assert norm.item() == pytest.approx(truth, rel=2e-7)
    for x, old in zip(gradients, before, strict=True):
        assert x.double().tolist() == reference.scaled(old, 0.5 / (truth + 1e-6))
    assert by_driver.launched == [("measure_powers", 2, 77), ("combine", 1, 77), ("scale", 2, 77)]
    chunks, segments = 4, 3
    assert by_driver.copied == [(8 * (3 * chunks + 2 * segments + 4), 77)]
    assert [stream for _, stream in by_driver.recorded] == [77]
    calls: list[str] = []
    for name in ("launch", "start"):
        act = getattr(driver.Driver, name)
        monkeypatch.setattr(driver.Driver, name, lambda *given, _act=act, _n=name: calls.append(_n) or _act(*given))
    clipped(*before)
    assert calls == ["launch"]
    assert by_driver.launched[3:] == by_driver.launched[:3]


def started(max_norm: Any = 0.5, *gradients: Tensor) -> triton_backend.TritonBatch:
    """Walk over gradients of 50 elements, or others."""
    listed = owners(*(gradients or (torch.full((50,), 2.0),)))
    return collect("f", listed, 2.0, (max_norm, 1e-6)).batch  # type: ignore[return-value]


def test_what_the_walk_starts(by_driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip like the last one of the thread, by whatever bounds; once it is written, gradients are measured anew."""
    stand_in(monkeypatch)
    clipped(torch.full((50,), 3.0))
    norm = math.sqrt(200.0)
    for bound in (0.5, 2.0, torch.tensor(0.5, dtype=torch.float64)):
        by_driver.launched.clear()
        batch = started(bound)
        assert [name for name, *_ in by_driver.launched] == ["measure_powers", "combine"]
        with NoReads():
            total, coef = batch.norm_and_coefficient(bound, 1e-6)
        assert len(by_driver.launched) == 2
        assert total.item() == pytest.approx(norm)
        assert coef.item() == pytest.approx(float(bound) / norm)
    batch = started(0.5)
    assert batch.norm_and_coefficient(7.0, 0.0)[1].item() == pytest.approx(7.0 / norm)  # another than was said
    for write in (lambda x: x.scale_(0.5), lambda x: x.clamp_(1.0)):
        batch = started()
        write(batch)
        assert batch.norm().item() == pytest.approx(0.5 * norm)
    batch = started()
    batch.tensors[0].mul_(0.5)
    batch.forget()
    assert batch.partial(2.0).item() == pytest.approx(50.0)
    first, second = started(), started(0.5, torch.full((50,), 1.0))  # on one table, one after the other
    for batch in (first, second):
        batch.scale_(batch.norm_and_coefficient(0.5, 1e-6)[1])
        assert batch.tensors[0].norm().item() == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("why", ["others", "another dtype", "another order", "busy", "another stream", "no driver"])
def test_what_the_walk_leaves(why: str, by_driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """To Python: another clip, or memory whose last copy is under way; no memory is lost, and the norm is right."""
    stand_in(monkeypatch)
    clipped(torch.full((50,), 3.0))
    own = triton_backend.lane_of(CPU)
    slots: list[Slot] = []

    def take(words: int, _: Any) -> Slot:
        slots.append(Slot(words))
        if why == "busy" and len(slots) == 1:
            slots[0].is_new = False
            by_driver.busy.add(slots[0].copied)
        return slots[-1]

    given_back: list[Slot] = []
    put = {"give_back": lambda slot, _: given_back.append(slot), "leave": lambda slot, _: given_back.append(slot)}
    own.slots = SimpleNamespace(take=take, **put)
    kept = [*own._numbers[False]]
    by_driver.launched.clear()
    if why == "another stream":
        monkeypatch.setattr(plan, "lane_of", lambda _: lane_on(78))
    if why == "no driver":
        monkeypatch.setattr(driver, "found", lambda: None)
    of = {"others": [torch.ones(50)] * 2, "another dtype": [torch.ones(50).double()]}.get(why, [torch.ones(50)])
    found = collect("f", owners(*(x.clone() for x in of)), math.inf if why == "another order" else 2.0)
    assert by_driver.launched == []
    assert own._numbers[False] == kept
    assert found.total_norm(2.0).item() == pytest.approx(math.sqrt(50.0 * len(of)))
    assert set(map(id, given_back)) == set(map(id, slots))


def test_a_start_that_fails(by_driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error of the walk; memory and gradients are as they were, and the next clip is right."""
    stand_in(monkeypatch)
    clipped(torch.full((50,), 3.0))
    own, gradient = triton_backend.lane_of(CPU), torch.full((50,), 2.0)
    before = started()
    coef = before.norm_and_coefficient(0.5, 1e-6)[1]
    kept = len(own._numbers[False])
    by_driver._error = 700
    with pytest.raises(RuntimeError, match="could not launch a kernel: error 700"):
        gradclip.clip_grad_norm_(owners(gradient), 0.5)
    assert torch.equal(gradient, torch.full((50,), 2.0))
    assert len(own._numbers[False]) == kept
    by_driver._error = 0
    before.scale_(coef)  # by a table of its own, as that of the plan is another's
    assert before.tensors[0].norm().item() == pytest.approx(0.5, rel=1e-5)
    clipped(gradient)


def test_what_the_extension_is_given_ahead() -> None:
    native = pytest.importorskip("gradclip.ops._native")
    for wrong in ((1, 2), [0] * 8):
        with pytest.raises(TypeError, match="ahead must be a tuple of 8 things"):
            native.walk(owners(torch.ones(2)), 2.0, None, None, table.SIZES, True, wrong)


def clipped(*gradients: Tensor, max_norm: float = 0.5) -> Tensor:
    """Clip, and hold the gradients against the truth."""
    truth = reference.norm([x.double() for x in gradients], 2.0)
    expected = [reference.scaled(x.clone(), min(1.0, max_norm / (truth + 1e-6))) for x in gradients]
    norm = gradclip.clip_grad_norm_(owners(*gradients), max_norm)
    assert norm.item() == pytest.approx(truth, rel=2e-7)
    for x, values in zip(gradients, expected, strict=True):
        assert x.double().tolist() == pytest.approx(values, rel=1e-12)
    return norm


def test_a_plan_is_used_again(by_driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """For gradients of the same sizes at other addresses, whatever came between; what was returned stays as it was."""
    stand_in(monkeypatch)
    monkeypatch.setattr(plan, "MOST", 3)
    written: list[int] = []
    launches_of = launch.launches_of
    monkeypatch.setattr(sheet, "launches_of", lambda *given: written.append(1) or launches_of(*given))
    norms = [clipped(torch.randn(20_000), torch.randn(7)) for _ in range(3)]
    assert len(written) == 2  # what measures, and what scales
    values = [norm.item() for norm in norms]
    clipped(torch.randn(9), torch.randn(70_000, dtype=torch.float64))  # more partials than before
    clipped(torch.randn(20_000), torch.randn(7))
    assert len(written) == 4
    assert [norm.item() for norm in norms] == values
    for count in range(3, 3 + 2 * plan.MOST):  # more models than are kept
        clipped(*torch.randn(count, 4).unbind())
    clipped(torch.randn(20_000), torch.randn(7))


def test_a_plan_made_in_inference_mode(by_driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves outside, where nothing is launched by the driver either."""
    stand_in(monkeypatch)
    monkeypatch.setattr(driver, "found", lambda: None)
    with torch.inference_mode():
        clipped(torch.full((50,), 2.0))
    clipped(torch.full((50,), 3.0))


def test_a_table_that_is_another_clip_s(by_driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one clip comes between measuring and scaling of another, each scales its own gradients."""
    stand_in(monkeypatch)
    first, second = ([torch.full((50,), value)] for value in (1.0, 2.0))
    batches = [triton_backend.TritonBatch(tensors) for tensors in (first, second)]
    coefs = [batch.norm_and_coefficient(1.0, 1e-6)[1] for batch in batches]
    for batch, coef in zip(batches, coefs, strict=True):
        batch.scale_(coef)
    for batch in batches:
        assert batch.partial(2.0) == pytest.approx(1.0, rel=1e-5)


def test_a_plan_belongs_to_a_stream(by_driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured in one stream and is scaled in another, or in a graph, has a table of its own there."""
    stand_in(monkeypatch)
    for there in (lane_on(78), None):
        gradient = torch.full((50,), 2.0)
        batch = triton_backend.TritonBatch([gradient])
        coef = batch.norm_and_coefficient(1.0, 1e-6)[1]
        by_driver.copied.clear()
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(triton_backend, "lane_of", lambda _, found=there: found)
            batch.scale_(coef)
        assert [stream for _, stream in by_driver.copied] == ([] if there is None else [78])
        assert gradient.norm().item() == pytest.approx(1.0, rel=1e-5)


def test_everything_by_the_driver(by_driver: StandIn) -> None:
    """Several dtypes, orders and numbers one a tensor have the arguments that Triton would pass."""
    tensors = [torch.randn(50), torch.randn(3, 4).to(torch.bfloat16), torch.randn(5, dtype=torch.complex64)]
    batch = triton_backend.TritonBatch(tensors)
    with registry.forced("reference"):
        plain = registry.open_([x.clone() for x in tensors])
    for order in (2.0, 0.0, math.inf, -math.inf, 3.3):
        assert batch.partial(order) == pytest.approx(plain.partial(order), rel=1e-12)
        assert batch.partials(order).tolist() == pytest.approx(plain.partials(order).tolist(), rel=1e-12)
    for x in (batch, plain):
        x.scale_(torch.tensor([0.5, 1.0, 0.3], dtype=torch.float64))
        x.clamp_(0.7)
        x.scale_units_(torch.tensor([0.5, 0.3, 1.0, 0.9, 0.1], dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(batch.tensors, plain.tensors, strict=True))
    assert batch.unit_partials().tolist() == pytest.approx(plain.unit_partials().tolist(), rel=1e-12)
    assert batch.count_nonfinite().sum() == 0
    assert len(by_driver.launched) > 30
    assert len(by_driver.copied) == 2  # the table, and that of units


def test_a_kernel_is_triton_s_until_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first launch returns is kept, and handed to the driver from then on."""
    runs: list[Any] = []
    handed: list[Any] = []

    class Kernel:
        def __getitem__(self, grid: Any) -> Any:
            def run(*arguments: Any, **constants: Any) -> Any:
                runs.append((grid, arguments, constants))
                return compiled()

            return run

    by = SimpleNamespace(launch=lambda stream, launches: handed.append((stream, launches)))
    monkeypatch.setattr(driver, "found", lambda: by)
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(launch, "current_cuda_stream", lambda _: 77)
    kernel, memory = Kernel(), torch.zeros(3)
    for programs in (4, 5):
        call = launch.Call(kernel, programs, (memory, 1, 2**31 - 1), 4, {"BLOCK": 1024})
        launch.launch([call], torch.device("cpu"))
    assert runs == [((4,), (memory, 1, 2**31 - 1), {"BLOCK": 1024, "enable_fp_fusion": True, "num_warps": 4})]
    assert handed == [((0, 77), [(123, 5, 128, 64, [memory.data_ptr(), 1, 2**31 - 1, 0, 0])])]


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


def test_what_the_driver_is_not_handed() -> None:
    """A kernel that asks for more than its arguments, of another card or of a Triton that says less, stays Triton's."""
    ours = compiled()
    assert driver.ready(ours, 3) == (123, 128, 64, ours)
    assert driver.ready(compiled(), 4) is None
    for changes in (
        {"num_ctas": 2},
        {"launch_pdl": True},
        {"launch_cooperative_grid": True},
        {"global_scratch_size": 8},
        {"profile_scratch_size": 8},
        {"instrumentation_mode": "gsan"},
        {"target": SimpleNamespace(backend="hip", warp_size=64)},
    ):
        assert driver.ready(compiled(**changes), 3) is None
    older = compiled()
    del older.metadata.profile_scratch_size
    assert driver.ready(older, 3) is None
    assert driver.ready(None, 3) is None  # as in the interpreter


def test_an_error_of_the_driver() -> None:
    """It is raised with its number; what is no launch is refused."""
    native = pytest.importorskip("gradclip.ops._native")
    failing = StandIn(error=700)
    failing.get((measuring.combine, None, 2, False, False, 128))
    functions = tuple(failing.addresses)
    memory = torch.zeros(64, dtype=torch.int64).data_ptr()
    arguments = [memory, 0, 0, 0, *[memory] * 5, 0, 0]
    with pytest.raises(RuntimeError, match="could not launch a kernel: error 700"):
        native.launch(functions, (0, 0), [(1, 0, 32, 0, arguments)])
    for wrong in ([(1, 1, 32, 0, [0] * 41)], [(1, 1, 32, 0)], [1], [(1, 1, 32, 0, 5)]):
        with pytest.raises(TypeError, match="a launch must be a tuple"):
            native.launch(functions, (0, 0), wrong)
    for wrong in (functions[1:], list(functions)):
        with pytest.raises(TypeError, match="functions must be a tuple of 6 numbers"):
            native.launch(wrong, (0, 0), [])
    for wrong in (b"", SimpleNamespace()):
        with pytest.raises(ValueError, match="invalid PyCapsule"):
            native.start(functions, (0, 0), wrong, 1.0, 1e-6, (memory, 1, True), memory, [])
        with pytest.raises(ValueError, match="invalid PyCapsule"):
            native.fill(wrong, 1.0, 1e-6, memory)


def test_memory_of_a_copy_outlives_a_launch_that_fails() -> None:
    """The copy may be under way: nobody gets the memory before the event after it."""
    pytest.importorskip("gradclip.ops._native")
    failing, kept = StandIn(error=700), []
    failing.get((measuring.combine, None, 2, False, False, 128))
    own, host = lane_on(77), table.tabled([torch.ones(3)])
    own.slots.give_back = lambda slot, _: kept.append(slot.copied)  # type: ignore[method-assign]
    to = table.on_device(host, torch.device("cpu"))
    memory = to.words.data_ptr()
    launches = [(1, 0, 32, 0, [memory, 0, 0, 0, *[memory] * 5, 0, 0])]
    with pytest.raises(RuntimeError, match="error 700"):
        copying.start(driver.Driver(*failing.addresses), host, (1.0, 0.0), to, launches, own)
    assert len(failing.copied) == 1
    assert failing.recorded == [(event, 77) for event in kept]
    assert len(kept) == 1


@pytest.mark.parametrize("starts", [False, True])
def test_the_driver_lets_other_threads_run(starts: bool) -> None:
    """It waits where much is queued, and what it waits for may take one of them."""
    native = pytest.importorskip("gradclip.ops._native")
    reading, writing = os.pipe()
    asked = ctypes.create_string_buffer(struct.pack("ihh", reading, select.POLLIN, 0))
    # What stands for the driver waits for a millisecond, and its error is 1 once there is something to read.
    poll = ctypes.cast(ctypes.CDLL(None).poll, ctypes.c_void_p).value
    launches = [(ctypes.addressof(asked), 1, 32, 0, [])] * 5000
    by, words, memory = StandIn(), table.tabled([torch.ones(2)]).words, torch.zeros(16, dtype=torch.int64)
    slot = memory.data_ptr(), 1, True
    given = (words, 1.0, 0.0, slot, memory.data_ptr()) if starts else ()
    writer = threading.Timer(0.05, os.write, (writing, b"x"))
    writer.start()
    with pytest.raises(RuntimeError, match="could not launch a kernel: error 1"):
        (native.start if starts else native.launch)((poll, *by.addresses[1:]), (0, 0), *given, launches)
    writer.join()
    os.close(reading)
    os.close(writing)


def test_pinned_memory_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its copy is made, in turn; while it is not, its stream gets more of it. What is too small stays, unused."""
    pytest.importorskip("gradclip.ops._native")
    by, slots = StandIn(), lane.Slots(torch.device("cpu"))
    events = iter(range(1, 9))
    made: list[weakref.ref[Slot]] = []

    def make(words: int, device: torch.device) -> Slot:
        slot = Slot(words, device, event=next(events))
        made.append(weakref.ref(slot))
        return slot

    monkeypatch.setattr(lane, "Slot", make)
    monkeypatch.setattr(lane, "pinned", torch.zeros)

    def used(count: int, *, stream: int = 1) -> int:
        own = lane.Lane(torch.device("cpu"), (HERE, stream))
        own.slots = slots
        host = table.tabled([torch.ones(3)] * count)
        to = table.on_device(host, torch.device("cpu"))
        copying.start(driver.Driver(*by.addresses), host, (1.0, 0.0), to, [], own)
        assert torch.equal(to.words, words_of(host, (1.0, 0.0)))
        assert by.recorded[-1][1] == stream
        return by.recorded[-1][0]

    assert used(4) == used(3) == 1
    by.busy.add(1)
    assert [used(4), used(4)] == [2, 3]  # the oldest still waits, and so do those after it
    assert [used(4, stream=2) for _ in range(3)] == [4] * 3
    by.busy.clear()
    assert [used(4) for _ in range(4)] == [1, 2, 3, 1]
    assert used(9) == 5
    assert all(slot() is not None for slot in made)  # torch would give away what a copy may still read
    assert [used(4), used(9), used(4)] == [3, 6, 5]
    assert used(3, stream=3) == 7
    left = slots.take(1, (HERE, 3))
    left.is_new = True
    slots.leave(left, (HERE, 3))
    assert (left.is_new, used(3, stream=3)) == (False, 7)  # an error may come after its copy
    assert made[-1]().host.numel() == made[-2]().host.numel()  # type: ignore[union-attr] -- for any table so far
    spare = slots.take_spare(9)
    assert spare is not None
    assert len(spare) >= 9
    assert slots.take_spare(1) is None  # one for each graph, until there is new memory


def test_a_host_that_is_far_ahead(by_driver: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """By four clips: once there is pinned memory for these, the walk starts each clip again."""
    stand_in(monkeypatch)
    clipped(torch.full((50,), 3.0))
    events, own = iter(range(1, 99)), triton_backend.lane_of(CPU)
    monkeypatch.setattr(lane, "Slot", lambda *given: Slot(*given, event=next(events)))
    monkeypatch.setattr(lane, "pinned", torch.zeros)
    own.slots = lane.Slots(CPU)
    by_python: list[int] = []
    act = sheet.start
    monkeypatch.setattr(sheet, "start", lambda *given: by_python.append(clip) or act(*given))
    for clip in range(20):  # noqa: B007 -- the stand-in reads it
        by_driver.busy = {event for event, _ in by_driver.recorded[-4:]}
        started().norm()
    assert by_python == [1, 2, 3, 4]
    assert len(own.slots._made) == 5


def test_a_lane_for_each_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver gets a context there first; where a graph is captured, and on other devices, there is none."""
    asked: list[Any] = []
    now, by = 0, StandIn()
    monkeypatch.setattr(lane, "_LANES", lane._Lanes())
    monkeypatch.setattr(lane, "is_captured", lambda _: now == 3)
    monkeypatch.setattr(lane, "on", contextlib.nullcontext)
    monkeypatch.setattr(driver, "found", lambda: driver.Driver(*by.addresses))
    monkeypatch.setattr(lane, "current_cuda_stream", lambda device: asked.append(device) or now)
    monkeypatch.setattr(torch.cuda, "Event", lambda: SimpleNamespace(record=lambda: asked.append("context")))
    device = torch.device("cuda", 1)
    first = lane.lane_of(device)
    assert first is not None
    assert (first.device, first.where) == (device, (HERE, 0))
    assert first.slots is lane.slots_of(device)
    assert lane.lane_of(device) is first
    assert asked == [1, "context", 1]
    now = 2
    second = lane.lane_of(device)
    assert second is not None
    assert (second.where, second.slots) == ((HERE, 2), first.slots)
    now = 3
    assert lane.lane_of(device) is None
    assert lane.lane_of(torch.device("cpu")) is None


@pytest.mark.parametrize("kept", [0, HERE, HERE + 1])
def test_launches_in_the_context_of_a_lane(kept: int) -> None:
    """Which is made the current one of the thread for that long, where it is another."""
    native = pytest.importorskip("gradclip.ops._native")
    by, words, memory = StandIn(), table.tabled([torch.ones(2)]).words, torch.zeros(32, dtype=torch.int64)
    functions, slot = tuple(by.addresses), (memory.data_ptr(), 1, True)
    assert driver.Driver(*functions).context() == HERE
    native.launch(functions, (kept, 77), [])
    assert native.start(functions, (kept, 77), words, 1.0, 0.0, slot, memory[16:].data_ptr(), [])
    assert by.contexts[1:] == ([] if kept in {0, HERE} else [kept, HERE] * 2)


def test_a_lane_keeps_numbers_for_later() -> None:
    """Nobody gets the same memory twice, and they are no numbers of inference mode."""
    own = lane_on(0)
    with torch.inference_mode():
        found = [own.numbers(wide=bool(i % 2)) for i in range(3 * lane.AT_ONCE)]
    assert [x.norm.dtype for x in found[:2]] == [torch.float32, torch.float64]
    addresses = {x.data_ptr() for numbers in found for x in numbers[:4]}
    assert addresses == {address for numbers in found for address in numbers.addresses}
    assert len(addresses) == 12 * lane.AT_ONCE
    assert not any(x.is_inference() for numbers in found for x in numbers[:4])


def test_a_lane_keeps_its_partials() -> None:
    """Memory for more numbers takes the place of that for fewer."""
    own = lane_on(0)
    assert own.partials(5) is own.partials(3)
    assert len(own.partials(50)) == 50


# Other ways.


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said where it was asked for by name, and elsewhere plain torch answers."""
    script = """
        import sys, torch, gradclip
        sys.modules["triton"] = None
        gradclip.get_total_norm([torch.ones(3)])
    """
    said = run(script, GRADCLIP_BACKEND="triton").stderr
    assert "`GRADCLIP_BACKEND=triton` asks for kernels that cannot run here: ModuleNotFoundError" in said
    if not torch.cuda.is_available():
        said = run(script, GRADCLIP_BACKEND="triton", TRITON_INTERPRET="0").stderr
        assert "cannot run here: torch finds no GPU" in said


def test_kernels_compile_for_cards() -> None:
    """Every kernel, for cards of NVIDIA and AMD: it reads 16 bytes at once, and leaves registers to the others."""
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["cuda 90: 66 kernels", "hip gfx942: 66 kernels"]


def test_the_first_clip_is_timed_by_what_it_compiles() -> None:
    """The script whose figures the docs give goes on running, for one dtype."""
    script = Path(__file__).parents[1] / "benchmarks" / "first_clip.py"
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    said = subprocess.check_output([sys.executable, script, "--dtype", "float32"], env=environment, text=True)
    kernels, seconds = said.split()
    assert int(kernels) == 3 and float(seconds) > 0.0


def test_functions_where_a_gradient_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads which they are: the host knows."""
    stand_in(monkeypatch)
    given = [*owners(torch.tensor([3.0, 4.0])), torch.nn.Parameter(torch.zeros(2)), *owners(torch.tensor([12.0]))]
    with NoReads():
        norms = gradclip.get_norms(given)
        gradclip.clip_grad_norm_(given, 1.3)
        gradclip.clip_grad_value_(given, 1.0)
    assert {name: norm.item() for name, norm in norms.items()} == {"parameters[0]": 5.0, "parameters[2]": 12.0}
    assert given[0].grad.tolist() == pytest.approx([0.3, 0.4], rel=1e-6)
    assert given[2].grad.tolist() == [1.0]


def test_a_bound_that_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinite one is known to the host, wherever the norm is: no launch, no version, and autograd goes on."""
    stand_in(monkeypatch)
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    (p.grad,) = torch.autograd.grad((p**3).sum(), p, create_graph=True)
    penalty = p.grad.square().sum()
    version = p.grad._version
    gradclip.clip_grad_norm_([p], math.inf)
    gradclip.clip_grads_with_norm_([p], math.inf, torch.tensor(5.0))
    for scope in ("total", "parameter"):
        gradclip.GradClipper([p], FixedNorm(math.inf, scope=scope), nonfinite="propagate").clip()
    assert p.grad._version == version
    assert torch.autograd.grad(penalty, p)[0].shape == (2,)


@pytest.mark.filterwarnings("ignore:.*prototype stage")  # which torch says once a process
def test_nested_gradients_are_refused() -> None:
    """As by all backends."""
    nested = torch.nested.nested_tensor([torch.tensor([[3.0, 4.0]]), torch.tensor([[12.0, 0.0]])])
    with pytest.raises(TypeError, match="Take its parts"):
        gradclip.get_total_norm([nested])


def test_inside_a_transform(tried: Any) -> None:
    """A tensor without memory says nothing of the kernels."""
    for _ in range(4):
        with contextlib.suppress(RuntimeError):
            torch.func.grad(lambda x: gradclip.get_total_norm([x]))(torch.ones(2))
    assert registry.why_no_triton() == ""
    assert tried.backend() is triton_backend.TRITON


def test_what_is_forced_and_cannot_run(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function says so, the fast way too."""
    monkeypatch.setattr(registry, "is_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = owners(torch.tensor([3.0, 4.0]))
    for call in (
        lambda: gradclip.clip_grad_norm_(given, 1.0),
        lambda: gradclip.clip_grad_value_(given, 1.0),
        lambda: gradclip.get_norms(given),
        lambda: gradclip.GradClipper(given).clip(),
    ):
        with pytest.raises(gradclip.BackendUnavailableError, match="torch finds no GPU"):
            call()
    assert given[0].grad.tolist() == [3.0, 4.0]


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Triton as if it had not been tried yet."""
    fresh = registry._Tried()
    monkeypatch.setattr(registry, "_tried", fresh)
    return fresh


def test_a_failure_for_a_moment(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again: memory may have been short; what fails again and again is said once, and given up."""
    failures = [torch.OutOfMemoryError("full")]
    works = type(triton_backend.TRITON).try_on
    monkeypatch.setattr(
        type(triton_backend.TRITON),
        "try_on",
        lambda own, device: works(own, device) if not failures else fail(failures),
    )
    assert tried.backend() is None
    assert "OutOfMemoryError: full" in tried.missing
    assert tried.backend() is triton_backend.TRITON
    assert registry.why_no_triton() == ""
    tried.found, failures[:] = None, [RuntimeError("no compiler")] * 9
    assert tried.backend() is None
    with pytest.warns(UserWarning, match="plain torch answers, far more slowly. RuntimeError: no compiler"):
        assert tried.backend() is None
    assert tried.backend() is None
    assert len(failures) == 7


def fail(failures: list[Exception]) -> None:
    raise failures.pop()


def test_kernels_that_are_wrong_are_not_used(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a new version of Triton, or a new card, makes of them."""
    monkeypatch.setattr(triton_backend.TritonBatch, "scale_", lambda *_: None)
    assert tried.backend() is None
    assert "norm and gradients are [5.0, 3.0, 4.0], not [5.0, 0.6" in tried.missing


@pytest.mark.parametrize("wrong", ["nothing happens", "an error"])
def test_a_driver_that_is_wrong_is_left_out(
    wrong: str, by_driver: StandIn, tried: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton launches then, also what the driver had been prepared to launch."""
    real = driver.Driver(*by_driver.addresses)
    monkeypatch.setattr(driver, "found", lambda: None if driver._is_left_out else real)
    monkeypatch.setattr(driver, "_is_left_out", False)
    if wrong == "an error":
        by_driver._error = 700
    else:
        monkeypatch.setattr(by_driver, "_launch_kernel", lambda *_: None)
    with pytest.warns(UserWarning, match="Kernels that the driver launches are wrong here, so Triton launches them"):
        assert tried.backend() is triton_backend.TRITON
    assert not launch.is_by_driver()
    launched = len(by_driver.launched)
    stand_in(monkeypatch)
    clipped(torch.tensor([3.0]), torch.tensor([4.0]))
    assert len(by_driver.launched) == launched


def test_a_graph_that_is_captured_is_not_disturbed(tried: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried in it, and the kernels are not given up."""
    monkeypatch.setattr(registry, "is_captured", lambda _: True)
    for _ in range(registry.TRIES + 1):
        assert tried.backend() is None
    assert tried.missing == "a graph is being captured"
    monkeypatch.setattr(registry, "is_captured", lambda _: False)
    assert tried.backend() is triton_backend.TRITON


def test_the_interpreter_reads_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `TRITON_INTERPRET=1` gradients on a GPU go to plain torch."""
    with registry.forced(""):
        assert registry.KERNELS["cuda"]() is None
        assert registry.on_cpu() is registry.NATIVE
    assert registry.on_cpu() is triton_backend.TRITON


# Policies.


EACH_SCOPE = ["FixedNorm", "FixedNorm each", "FixedValue", "AGC", "ZClip", "AdaGC", "by_name", "by_group that learns"]


ALIKE = ["AutoClip", "SpikeSkip", "SmoothNorm tanh", "Normalize each", "BlockRMS", "warmup", "chain that learns",
         "chain of two stages", "by_group"]  # fmt: skip
"""What is done with the numbers of a device in other ways: the rest makes other numbers, which `test_rules.py` sees."""


@pytest.mark.parametrize(
    ("name", "missing"),
    [(name, ()) for name in (*EACH_SCOPE, *ALIKE)] + [(name, ("conv.weight",)) for name in EACH_SCOPE],
    ids=lambda x: x if isinstance(x, str) else "one missing" if x else "all",
)
def test_a_policy_on_a_device(name: str, missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides there what it decides here, and nobody reads a number; `test_rules.py` looks at longer runs.

    But for those that may skip the step, and for parts of a model with a parameter that has no gradient.
    """
    steps = 5  # kernels decide from the third on
    with registry.forced("reference"):
        here = outcomes(CASES[name].policy, steps, missing)
    stand_in(monkeypatch)
    reads = CASES[name].policy.skips or (name.startswith("by_") and missing)
    there = outcomes(CASES[name].policy, steps, missing, contextlib.nullcontext() if reads else NoReads())
    for ours, expected in zip(there, here, strict=True):
        assert all(torch.allclose(ours[key], expected[key], rtol=1e-12, atol=0.0) for key in expected)


@pytest.mark.parametrize("nonfinite", ["skip", "raise", "sanitize", "propagate"])
def test_a_norm_that_is_read_is_a_float(nonfinite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule then decides with floats, in a fraction of the time; else it gets what the device has."""
    stand_in(monkeypatch)
    totals: list[Any] = []
    decide = FixedNorm.decide
    monkeypatch.setattr(FixedNorm, "decide", lambda *given: totals.append(given[1].total) or decide(*given))
    parameters = owners(torch.tensor([3.0, 4.0]))
    result = gradclip.GradClipper(parameters, FixedNorm(1.0), nonfinite=nonfinite).clip()
    assert [isinstance(x, Tensor) for x in totals] == [nonfinite == "propagate"]
    assert result.total_norm == 5.0
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


def outcomes(policy: Policy, steps: int, missing: tuple[str, ...] = (), mode: Any = None) -> list[dict[str, Tensor]]:
    """Clip several steps, and return what is left of the gradients."""
    parameters = model()
    clipper = clipper_of(policy, parameters, nonfinite="propagate")
    found: list[dict[str, Tensor]] = []
    for step in range(steps):
        for key, gradient in gradients(step, 30.0 if step == 3 else 1.0).items():
            parameters[key].grad = None if key in missing else gradient.clone()
        with mode or contextlib.nullcontext():
            clipper.clip()
        found.append({key: p.grad.clone() for key, p in parameters.items() if p.grad is not None})
        for p in parameters.values():
            p.grad = None
    return found
