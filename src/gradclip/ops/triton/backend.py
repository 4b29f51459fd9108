"""The operations by Triton kernels, for dense tensors on a GPU."""

import math
from typing import Any, final

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.nn import Parameter

from gradclip.numbers import Scalar, as_float64, from_device, is_host
from gradclip.ops.backend import Backend, Batch
from gradclip.ops.reference import ReferenceBatch, float_tensor
from gradclip.ops.several import Part, Several
from gradclip.ops.triton import measuring, writing
from gradclip.ops.triton.launch import launch, programs_on
from gradclip.ops.triton.table import Run, Table, on_device, read, tabled
from gradclip.ops.triton.workspace import workspace

BLOCK, WARPS = 1024, 4
"""Elements that a program works on at a time, and its warps."""

TOTAL, TOTAL_WARPS = 1024, 8
"""The same where the partials of everything are combined."""

EACH, EACH_WARPS = 128, 1
"""The same where those of one of many segments are."""

REAL: dict[torch.dtype, tuple[Any, int]] = {
    torch.float16: (tl.float16, 1),
    torch.bfloat16: (tl.bfloat16, 1),
    torch.float32: (tl.float32, 1),
    torch.float64: (tl.float64, 1),
    torch.complex64: (tl.float32, 2),
    torch.complex128: (tl.float64, 2),
}
"""The kind of real numbers that an element is made of, and how many these are."""

KINDS = {
    0.0: measuring.COUNT.value,
    1.0: measuring.ABS.value,
    2.0: measuring.SQUARE.value,
    math.inf: measuring.LARGEST.value,
    -math.inf: measuring.SMALLEST.value,
}
POWER: int = measuring.POWER.value

INTERPRETS = not isinstance(measuring.combine, triton.JITFunction)
"""Whether kernels run in Triton's interpreter, on the CPU: `TRITON_INTERPRET=1` in the environment asks for it."""


@final
class TritonBatch(Batch):
    """A few launches an operation, for any number of tensors of one dtype; nothing waits.

    Args:
        tensors: Dense tensors of one device, one or more.
        table: Their table, if it is made already.
    """

    __slots__ = ("_device", "_norm", "_on_host", "_table", "tensors")

    def __init__(self, tensors: list[Tensor], table: Table | None = None) -> None:
        self.tensors = tensors
        self._on_host = table
        self._device = tensors[0].device
        self._table: Table | None = None
        self._norm: tuple[Scalar, Tensor] | None = None

    @property
    def is_wide(self) -> bool:
        return self._host_table().is_wide if self._table is None else self._table.is_wide

    # Measuring.

    def partial(self, order: float, factor: Scalar = 1.0) -> Scalar:
        table = self._tabled()
        numbers = None if isinstance(factor, float) and factor == 1.0 else as_float64(factor, self._device).view(1)
        out = self._empty(1)
        self._combine(table, self._measured(table, order, numbers), out, order)
        return from_device(out[0])

    def partials(self, order: float, factors: Tensor | None = None) -> Tensor:
        numbers = None if factors is None else factors.to(self._device)
        table = self._tabled()
        return self._each(table, self._measured(table, order, numbers), order)

    def norm_and_coefficient(self, max_norm: Scalar, eps: float) -> tuple[Scalar, Scalar]:
        if self._table is not None or isinstance(max_norm, Tensor):
            return super().norm_and_coefficient(max_norm, eps)
        table = self._tabled(max_norm, eps)
        norm = torch.empty((), dtype=torch.float64 if table.is_wide else torch.float32, device=self._device)
        out = self._empty(3)
        self._combine(table, self._measured(table, 2.0), out, 2.0, norm)
        _, length, coef = map(from_device, out.unbind())
        self._norm = length, norm
        return length, coef

    def as_tensor(self, number: Scalar, *, wide: bool | None = None) -> Tensor:
        if self._norm is not None and number is self._norm[0] and wide in {None, self.is_wide}:
            return self._norm[1]  # rounded already
        wide = self.is_wide if wide is None else wide
        if isinstance(number, Tensor):
            return number.to(self._device, torch.float64 if wide else torch.float32)
        return float_tensor(number, wide, self._device)

    def count_nonfinite(self) -> Tensor:
        table = self._tabled()
        partials = self._empty(2 * table.chunks)
        for run in table.runs:
            self._launch(measuring.count_nonfinite, table, run, partials, PAIRS=REAL[run.dtype][1] > 1)
        both = [self._each(table, counts, 1.0) for counts in partials.view(2, -1)]
        return torch.stack(both).to(torch.int64)

    # Units.

    def unit_counts(self) -> list[int]:
        return [x.shape[0] if x.ndim > 1 else 1 for x in self.tensors]

    def unit_partials(self, order: float = 2.0) -> Tensor:
        if (several := self._scattered()) is not None:
            return several.unit_partials(order)
        table = on_device(tabled(self.tensors, by_unit=True), self._device)
        return self._each(table, self._measured(table, order), order)

    def scale_units_(self, coefs: Tensor) -> None:
        if (several := self._scattered()) is not None:
            several.scale_units_(coefs)
            return
        coefs = coefs.to(self._device, torch.float64).contiguous()
        counts = self.unit_counts()
        changed = [bool((own != 1.0).any()) for own in coefs.split(counts)] if is_host(coefs) else None
        self._scale_(on_device(tabled(self.tensors, by_unit=True), self._device), coefs, each=True)
        self._written(changed)

    def _scattered(self) -> Several | None:
        """Return these tensors with those apart whose units do not follow each other in memory; None if none are."""
        apart = [i for i, x in enumerate(self.tensors) if not _has_units_in_order(x)]
        if not apart:
            return None
        rest = [i for i in range(len(self.tensors)) if i not in set(apart)]
        parts: list[Part] = [(ReferenceBatch([self.tensors[i] for i in apart]), apart)]
        if rest:
            parts.append((TritonBatch([self.tensors[i] for i in rest]), rest))
        return Several(self.tensors, parts)

    # Writing.

    def scale_(self, coef: Scalar) -> None:
        coefs, each = self._numbers(coef)
        if coefs is None:
            return
        self._scale_(self._tabled(), coefs, each=each)
        self._written((coefs != 1.0).tolist() if each and is_host(coefs) else None)

    def clamp_(self, bound: Scalar) -> None:
        bounds, each = self._numbers(bound, no_change=math.inf)
        if bounds is None:
            return
        table = self._tabled()
        for run in table.runs:
            width = REAL[run.dtype][1]
            self._launch(writing.clamp, table, run, bounds, EACH=each, WIDTH=width)
        self._written((bounds < math.inf).tolist() if each and is_host(bounds) else None)

    def sanitize_(self) -> None:
        bad = self.count_nonfinite().sum(0).tolist()
        if any(bad):
            table = self._tabled()
            for run in table.runs:
                self._launch(writing.sanitize, table, run, PAIRS=REAL[run.dtype][1] > 1)
            self._written([count > 0 for count in bad])

    def _scale_(self, table: Table, coefs: Tensor, *, each: bool) -> None:
        for run in table.runs:
            width = REAL[run.dtype][1]
            self._launch(writing.scale, table, run, coefs, EACH=each, WIDTH=width, ALIGNED=run.aligned)

    def _numbers(self, number: Scalar, no_change: float = 1.0) -> tuple[Tensor | None, bool]:
        """Return a number, or one a tensor, as kernels read it, and which of both; None where it changes nothing."""
        if isinstance(number, Tensor) and number.ndim:
            return number.to(self._device, torch.float64).contiguous(), True
        number = from_device(number)
        is_idle = isinstance(number, float) and number == no_change
        return None if is_idle else as_float64(number, self._device), False

    def _written(self, changed: list[bool] | None = None) -> None:
        """Raise the versions of those tensors that may have changed; of all, where nobody on the host knows."""
        tensors = self.tensors
        increment_version(tensors if changed is None else [x for i, x in enumerate(tensors) if changed[i]])

    # Launches.

    def _tabled(self, *bounds: float) -> Table:
        if self._table is None:
            self._table = on_device(self._host_table(), self._device, bounds)
            self._on_host = None
        return self._table

    def _host_table(self) -> Table:
        if self._on_host is None:
            self._on_host = tabled(self.tensors)
        return self._on_host

    def _empty(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.float64, device=self._device)

    def _measured(self, table: Table, order: float, factors: Tensor | None = None) -> Tensor:
        """Return the partials of chunks, times one factor or one a segment if any: valid until the next ones."""
        partials = workspace(table.chunks, self._device)
        kind = KINDS.get(order, POWER)
        if math.isinf(order):
            if factors is not None:
                raise ValueError("an extremum is measured without a factor")
            for run in table.runs:
                pairs = REAL[run.dtype][1] > 1
                self._launch(
                    measuring.measure_extrema, table, run, partials, KIND=kind, PAIRS=pairs, ALIGNED=run.aligned
                )
            return partials
        numbers, scaled = partials, 0  # which are not read
        if kind == POWER or factors is not None:
            own = as_float64(order, self._device).view(1)
            numbers = own if factors is None else torch.cat([own, factors.to(torch.float64)])
            scaled = 0 if factors is None else 1 if len(factors) == 1 else 2
        for run in table.runs:
            width = REAL[run.dtype][1]
            pairs = width > 1 and kind != measuring.SQUARE.value
            self._launch(
                measuring.measure_powers,
                table,
                run,
                partials,
                numbers,
                KIND=kind,
                SCALED=scaled,
                WIDTH=1 if pairs else width,
                PAIRS=pairs,
                ALIGNED=run.aligned,
            )
        return partials

    def _each(self, table: Table, partials: Tensor, order: float) -> Tensor:
        """Return the partial of each segment."""
        out = self._empty(table.segments)
        if table.segments:
            arguments = (table.words, table.segments, table.each, table.bounds, partials, out, out)
            constants = {"KIND": KINDS.get(order, POWER), "COEF": False, "WIDE": False, "BLOCK": EACH}
            launch(measuring.combine, table.segments, self._device, arguments, EACH_WARPS, **constants)
        return out

    def _combine(self, table: Table, partials: Tensor, out: Tensor, order: float, norm: Tensor | None = None) -> None:
        """Write the partial of everything, and where a tensor for the norm is given, the norm and its coefficient."""
        arguments = (table.words, 1, table.whole, table.bounds, partials, out, out if norm is None else norm)
        constants = {"KIND": KINDS.get(order, POWER), "COEF": norm is not None, "WIDE": table.is_wide, "BLOCK": TOTAL}
        launch(measuring.combine, 1, self._device, arguments, TOTAL_WARPS, **constants)

    def _launch(self, kernel: Any, table: Table, run: Run, *memory: Tensor, **constants: Any) -> None:
        """Launch a kernel over the chunks of a run."""
        programs = min(run.end - run.begin, programs_on(self._device))
        arguments = (table.words, table.chunks, run.begin, run.end, *memory)
        dtype = REAL[run.dtype][0]
        launch(kernel, programs, self._device, arguments, WARPS, DTYPE=dtype, **constants, BLOCK=BLOCK)


def _has_units_in_order(x: Tensor) -> bool:
    """Whether each unit of a dense tensor is one run of memory, and they follow each other."""
    return x.ndim < 2 or x.shape[0] == 1 or x.numel() == 0 or x.stride(0) * x.shape[0] == x.numel()  # noqa: PLR2004


@final
class Triton(Backend):
    """The kernels."""

    name = "triton"

    def try_on(self, device: str) -> None:
        """Measure a gradient, which compiles the kernels of most clips; raises where Triton cannot."""
        TritonBatch([torch.ones(1, device=device)]).norm_and_coefficient(1.0, 1e-6)

    def takes(self, tensors: list[Tensor]) -> bool:
        device = tensors[0].device if tensors else None
        return device is not None and all(x.device == device and _is_taken(x) for x in tensors)

    def open(self, tensors: list[Tensor], chunks: Any = None) -> TritonBatch | None:
        if chunks is not None:
            return TritonBatch(tensors, read(*chunks))
        return TritonBatch(tensors) if self.takes(tensors) else None


def _is_taken(x: Tensor) -> bool:
    """Whether a tensor is dense memory of a dtype that there are kernels for."""
    if type(x) not in {Tensor, Parameter} or x.layout != torch.strided or x.dtype not in REAL or not _is_dense(x):
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
