"""The operations by Triton kernels, for dense tensors on a GPU."""

import math
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from gradclip.numbers import Scalar, as_float64, from_device, is_host, is_known, on_host
from gradclip.ops.backend import Backend, Batch
from gradclip.ops.reference import ReferenceBatch, norm_tensor
from gradclip.ops.several import Part, Several
from gradclip.ops.triton import measuring, writing
from gradclip.ops.triton.calls import combining, combining_each, measuring_each, over_runs
from gradclip.ops.triton.copying import copy
from gradclip.ops.triton.lane import Numbers, lane_of, partials_of
from gradclip.ops.triton.launch import launch
from gradclip.ops.triton.plan import UNBOUNDED, Measured, Plan, ahead, plan_of
from gradclip.ops.triton.table import DTYPES, HostTable, Table, on_device, read_by_extension, tabled
from gradclip.ops.triton.trial import try_out

try:
    from gradclip.ops.triton.rule import Rule
except ImportError:  # of `TorchDispatchMode`, whose module has a private name
    Rule = None


@final
class TritonBatch(Batch):
    """A few launches an operation, for any number of tensors of one dtype; nothing waits.

    Args:
        tensors: Dense tensors of one device, one or more.
        table: Their table, if it is made already.
        measured: What was measured already by a plan, if it was.
    """

    __slots__ = ("_device", "_measured", "_norm", "_on_host", "_plan", "_table", "_turn", "_unit_table", "tensors")

    def __init__(self, tensors: list[Tensor], table: HostTable | None = None, measured: Measured | None = None) -> None:
        self.tensors = tensors
        self._on_host = table
        self._device = tensors[0].device
        self._table: Table | None = None
        self._measured = measured
        self._plan: Plan | None = None if measured is None else measured.plan
        self._turn = 0 if measured is None else measured.turn
        self._unit_table: Table | None = None
        self._norm: tuple[Scalar, Tensor] | None = None

    @property
    def is_wide(self) -> bool:
        return self._host_table().is_wide

    # Measuring.

    def partial(self, order: float, factor: Scalar = 1.0) -> Scalar:
        factors = None if isinstance(factor, float) and factor == 1.0 else as_float64(factor, self._device).view(1)
        if order == 2.0 and factors is None and self._table is None:  # noqa: PLR2004 -- as a rule
            return self._on_its_way(self._planned(*UNBOUNDED).partial)
        table, out = self._tabled(), self._empty(1)
        partials = self._partials(table)
        launch([*measuring_each(table, order, partials, factors), combining(table, order, partials, out)], self._device)
        return from_device(out[0])

    def partials(self, order: float, factors: Tensor | None = None) -> Tensor:
        return self._each(self._tabled(), order, None if factors is None else factors.to(self._device))

    def norm(self) -> Scalar:
        return super().norm() if self._table is not None else self.norm_and_coefficient(*UNBOUNDED)[0]

    def norm_and_coefficient(self, max_norm: Scalar, eps: float) -> tuple[Scalar, Scalar]:
        if self._table is not None or isinstance(max_norm, Tensor):
            return super().norm_and_coefficient(max_norm, eps)
        numbers = self._planned(max_norm, eps)
        total = self._on_its_way(numbers.length)
        self._norm = (total, numbers.norm)
        return total, self._on_its_way(numbers.coef) if max_norm < math.inf else 1.0

    def _planned(self, max_norm: float, eps: float) -> Numbers:
        """Return what the plan for these tensors has of them, before they have a table of their own."""
        found, self._measured = self._measured, None
        if found is not None and (found.bounds == (max_norm, eps) or max_norm == math.inf):
            return found.numbers
        host = self._host_table()
        self._plan = plan = plan_of(host, self._device, lane_of(self._device))
        numbers = plan.measure(host, (max_norm, eps))
        self._turn = plan.turn
        return numbers

    def _on_its_way(self, number: Tensor) -> Scalar:
        """Return a number as it is on a device, and in Triton's interpreter as a float."""
        return from_device(number) if self._device.type == "cpu" else number

    def as_tensor(self, number: Scalar, *, wide: bool | None = None) -> Tensor:
        if self._norm is not None and number is self._norm[0] and wide in {None, self.is_wide}:
            return self._norm[1]  # rounded already
        return norm_tensor(number, self.is_wide if wide is None else wide, self._device)

    def count_nonfinite(self, unless_finite: Scalar = math.nan) -> Tensor:
        table = self._tabled()
        partials = self._empty(2 * table.chunks)
        out = self._empty(2 * table.segments).view(2, -1)
        asked = not is_known(unless_finite) or math.isfinite(on_host(unless_finite))
        number = as_float64(unless_finite, self._device) if asked else partials  # which is not read
        calls = over_runs(measuring.count_nonfinite, table, partials, number, ASKED=asked)
        for counts, own in zip(partials.view(2, -1), out, strict=True):
            calls += combining_each(table, 1.0, counts, own)
        launch(calls, self._device)
        return out.to(torch.int64)

    def forget(self) -> None:
        self._measured = None

    # Units.

    def unit_partials(self, order: float = 2.0) -> Tensor:
        if (several := self._scattered()) is not None:
            return several.unit_partials(order)
        return self._each(self._tabled_by_unit(), order)

    def scale_units_(self, coefs: Tensor) -> None:
        if (several := self._scattered()) is not None:
            several.scale_units_(coefs)
            return
        coefs = coefs.to(self._device, torch.float64).contiguous()
        counts = self.unit_counts()
        changed = [bool((own != 1.0).any()) for own in coefs.split(counts)] if is_host(coefs) else None
        self._scale_(self._tabled_by_unit(), coefs, each=True)
        self._written(changed)

    def _scattered(self) -> Several | None:
        """Return these tensors with those apart whose units do not follow each other in memory; None if none are."""
        apart = [i for i, x in enumerate(self.tensors) if not _has_units_in_order(x)]
        if not apart:
            return None
        rest = sorted(set(range(len(self.tensors))) - set(apart))
        parts: list[Part] = [(ReferenceBatch([self.tensors[i] for i in apart]), apart)]
        if rest:
            parts.append((TritonBatch([self.tensors[i] for i in rest]), rest))
        return Several(self.tensors, parts)

    # Writing.

    def scale_(self, coef: Scalar) -> None:
        coefs, each = self._numbers(coef)
        if coefs is None:
            return
        if not each and (plan := self._own_plan()) is not None:
            plan.scale_(coefs)
        else:
            self._scale_(self._tabled(), coefs, each=each)
        self._written((coefs != 1.0).tolist() if each and is_host(coefs) else None)

    def clamp_(self, bound: Scalar) -> None:
        bounds, each = self._numbers(bound, no_change=math.inf)
        if bounds is None:
            return
        launch(over_runs(writing.clamp, self._tabled(), bounds, EACH=each), self._device)
        self._written((bounds < math.inf).tolist() if each and is_host(bounds) else None)

    def sanitize_(self) -> None:
        bad = self.count_nonfinite().sum(0).tolist()
        if any(bad):
            launch(over_runs(writing.sanitize, self._tabled()), self._device)
            self._written([count > 0 for count in bad])

    def _scale_(self, table: Table, coefs: Tensor, *, each: bool) -> None:
        launch(over_runs(writing.scale, table, coefs, EACH=each), self._device)

    def _numbers(self, number: Scalar, no_change: float = 1.0) -> tuple[Tensor | None, bool]:
        """Return a number, or one a tensor, as kernels read it, and which of both; None where it changes nothing."""
        if isinstance(number, Tensor) and number.ndim:
            return number.to(self._device, torch.float64).contiguous(), True
        if isinstance(number, Tensor):
            number = self._on_its_way(number)
        is_idle = isinstance(number, float) and number == no_change
        return None if is_idle else as_float64(number, self._device), False

    def _written(self, changed: list[bool] | None = None) -> None:
        """Raise the versions of those tensors that may have changed; of all, where nobody on the host knows."""
        self._measured, tensors = None, self.tensors
        increment_version(tensors if changed is None else [x for i, x in enumerate(tensors) if changed[i]])

    # Launches.

    def _tabled(self) -> Table:
        if (plan := self._own_plan()) is not None:
            return plan.table
        if self._table is None:
            self._table = _copied(self._host_table(), self._device)
        return self._table

    def _own_plan(self) -> Plan | None:
        """Return the plan that has measured these tensors, while the table in it is theirs, where it may be used."""
        plan = self._plan
        return plan if plan is not None and plan.turn == self._turn and lane_of(self._device) is plan.lane else None

    def _tabled_by_unit(self) -> Table:
        if self._unit_table is None:
            self._unit_table = _copied(tabled(self.tensors, by_unit=True), self._device)
        return self._unit_table

    def _host_table(self) -> HostTable:
        if self._on_host is None:
            self._on_host = tabled(self.tensors)
        return self._on_host

    def _empty(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.float64, device=self._device)

    def _partials(self, table: Table) -> Tensor:
        return partials_of(table.chunks, self._device, lane_of(self._device))

    def _each(self, table: Table, order: float, factors: Tensor | None = None) -> Tensor:
        """Return the partial of each segment."""
        partials, out = self._partials(table), self._empty(table.segments)
        calls = [*measuring_each(table, order, partials, factors), *combining_each(table, order, partials, out)]
        launch(calls, self._device)
        return out


def _copied(table: HostTable, device: torch.device) -> Table:
    """Return a table on a device."""
    there = on_device(table, device)
    copy(table, there, lane_of(device))
    return there


def _has_units_in_order(x: Tensor) -> bool:
    """Whether each unit of a dense tensor is one run of memory, and they follow each other."""
    return x.ndim < 2 or x.shape[0] == 1 or x.numel() == 0 or x.stride(0) * x.shape[0] == x.numel()  # noqa: PLR2004


@final
class Triton(Backend):
    """The kernels."""

    name = "triton"
    ahead = staticmethod(ahead)

    def try_on(self, device: str) -> None:
        """Clip a gradient, which compiles the kernels of most clips; raises where Triton cannot, or is wrong."""
        try_out(self.open, device)

    def takes(self, tensors: list[Tensor]) -> bool:
        device = tensors[0].device if tensors else None
        return device is not None and all(x.device == device and _is_taken(x) for x in tensors)

    def open(self, tensors: list[Tensor], chunks: Any = None, measured: Measured | None = None) -> TritonBatch | None:
        found = read_by_extension(tensors) if chunks is None else HostTable(*chunks)
        return TritonBatch(tensors, found, measured) if found is not None or self.takes(tensors) else None

    def rule(self, device: torch.device) -> Any:
        return None if Rule is None else Rule(device)


def _is_taken(x: Tensor) -> bool:
    """Whether a tensor is dense memory of a dtype that there are kernels for."""
    if (
        type(x) not in {Tensor, Parameter}
        or x.is_nested
        or x.layout != torch.strided
        or x.dtype not in DTYPES
        or not _is_dense(x)
    ):
        return False
    try:
        return x.data_ptr() != 0 or x.numel() == 0
    except RuntimeError:  # it has no memory of its own, as inside of functorch
        return False


def _is_dense(x: Tensor) -> bool:
    """Whether the elements fill one run of memory, each once; any order of dimensions will do."""
    if x.is_contiguous() or x.numel() == 0:
        return True
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True


TRITON = Triton()
