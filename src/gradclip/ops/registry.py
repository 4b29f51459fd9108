"""Which backend opens which tensors, and why a backend cannot run here.

Backends are found by the type of device, at call time. `GRADCLIP_BACKEND=native`, `triton` or `reference` in the
environment, read at import, forces one: `reference` then takes everything, and another what it can; one that cannot run
here is an error.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from gradclip import callers
from gradclip.devices import is_narrow
from gradclip.exceptions import BackendUnavailableError
from gradclip.numbers import CPU, home
from gradclip.ops import operators
from gradclip.ops.backend import Backend, Batch
from gradclip.ops.narrow import NarrowBatch
from gradclip.ops.reference import ReferenceBatch
from gradclip.ops.several import Part, Several
from gradclip.ops.uncoalesced import Uncoalesced
from gradclip.torch_private import stored_values
from gradclip.tracing import is_captured, is_traced, is_transformed

if TYPE_CHECKING:
    from gradclip.ops.native import Native, Walked
    from gradclip.ops.triton.backend import Triton

NAMES = ("native", "triton", "reference")
"""The backends, best first."""

NATIVE: "Native | None"
NATIVE_MISSING: str
"""Why `native` cannot run here, or an empty string."""

ISA: str
"""The instruction set that the native kernels use here, or an empty string."""

READS: str
"""How the native kernels read a tensor here, in words, or an empty string."""

try:
    from gradclip.ops.native import HAS_EXCHANGE, ISA, NATIVE, walker
except ImportError as error:
    NATIVE, NATIVE_MISSING, ISA, READS, walker = None, str(error), "", "", None
else:
    NATIVE_MISSING = ""
    READS = "the DLPack exchange API" if HAS_EXCHANGE else "methods of tensors"

_named = os.environ.get("GRADCLIP_BACKEND", "")

FORCED: ContextVar[str] = ContextVar("gradclip_backend", default=_named)
"""The backend that is asked for by name, if one is: for a thread, or a task, inside `forced`."""


@contextmanager
def forced(name: str) -> Generator[None, None, None]:
    """Force a backend by name inside a `with` block, for this thread, as the environment does for a process."""
    token = FORCED.set(name)
    try:
        check_forced()
        yield
    finally:
        FORCED.reset(token)


def check_forced() -> None:
    """Raise if the backend that was asked for by name does not exist or cannot run here."""
    if not (name := FORCED.get()):
        return
    if name not in NAMES:
        listed = ", ".join(map(repr, NAMES[:-1]))
        msg = f"`GRADCLIP_BACKEND` must be {listed} or {NAMES[-1]!r}, got {name!r}. Unset it to let gradclip choose."
        raise BackendUnavailableError(msg)
    missing = NATIVE_MISSING if name == "native" else why_no_triton() if name == "triton" else ""
    if missing:
        msg = (
            f"`GRADCLIP_BACKEND={name}` asks for kernels that cannot run here: {missing}. "
            "Unset it to fall back to plain torch; `gradclip doctor` shows details."
        )
        raise BackendUnavailableError(msg)


def _may_run(name: str) -> bool:
    """Whether a backend may be asked: not where somebody traces the operations of torch, or another is forced."""
    return not is_traced() and FORCED.get() in {"", name}


def native() -> "Native | None":
    """Return the native backend where it may run."""
    return NATIVE if _may_run("native") else None


def triton() -> "Triton | None":
    """Return the backend for GPUs where it may run; Triton's interpreter reads no memory of theirs."""
    return None if is_interpreted() or not _may_run("triton") else _tried.backend()


def on_cpu() -> "Native | Triton | None":
    """Return what works on the CPU: the kernels for it, or those for GPUs in Triton's interpreter, if asked for."""
    if is_traced():
        return None
    return _tried.backend() if FORCED.get() == "triton" and is_interpreted() else native()


@cache
def is_interpreted() -> bool:
    """Whether Triton's interpreter runs its kernels, on the CPU: Triton looks once too, where they are made."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_no_triton() -> str:
    """Return why `triton` cannot run here, or an empty string."""
    _tried.backend()
    return _tried.missing


def _is_served(kind: str) -> bool:
    return torch.get_device_module(kind).is_available() and not is_narrow(torch.device(kind))


class _Tried:
    """The backend for GPUs: imported, and tried, once there is a gradient for it."""

    def __init__(self) -> None:
        self.found: Triton | None = None
        self.missing = ""
        self.left = TRIES

    def backend(self) -> "Triton | None":
        """Return the backend, or None where it does not run: for good, once it has failed several times."""
        if self.found is None and self.left > 0 and not is_transformed():  # which says nothing of a GPU
            self._try()
        return self.found

    def _try(self) -> None:
        device = "cpu" if is_interpreted() else next(filter(_is_served, GPUS), "")
        if not device:
            self.missing, self.left = "torch finds no GPU that has float64", 0
            return
        if is_captured(torch.device(device)):  # which compiles nothing, and tells nothing of a GPU
            self.missing = "a graph is being captured"
            return
        try:
            from gradclip.ops.triton.backend import TRITON  # noqa: PLC0415

            TRITON.try_on(device)
        except Exception as error:  # noqa: BLE001 -- Triton may be missing, or its compiler, or know nothing of the card
            self.missing = f"{type(error).__name__}: {error}"
            self.left = 0 if isinstance(error, ImportError) else self.left - 1
            if self.left == 0 and not isinstance(error, ImportError):
                callers.warn(
                    f"The kernels for GPUs do not run, so plain torch answers, far more slowly. {self.missing}"
                )
        else:
            self.found, self.missing = TRITON, ""


TRIES = 3
"""Failures after which kernels are given up: memory may be short for a moment."""

_tried = _Tried()

GPUS = ("cuda", "xpu")
"""The types of devices that Triton serves; `cuda` is ROCm's too."""

KERNELS: "dict[str, Callable[[], Backend | None]]" = {
    "cpu": on_cpu,
    **dict.fromkeys(GPUS, triton),
}
"""What comes before plain torch, by the type of device: the backend, unless it cannot or must not run now."""


def kernels_of(device: torch.device) -> Backend | None:
    """Return the backend that comes before plain torch on a device, if there is one."""
    if is_dynamo_compiling():
        return operators.OPERATORS
    return kernels() if (kernels := KERNELS.get(device.type)) is not None else None


def has_kernels(device: torch.device) -> bool:
    """Whether kernels answer on a device, which read nothing where nothing is asked; see `Batch.count_nonfinite`."""
    return kernels_for_rules(device) is not None


def kernels_for_rules(device: torch.device) -> Backend | None:
    """Return the backend that may have few launches for a rule about numbers of a device; see `Backend.rule`."""
    return None if is_traced() else kernels_of(device)


def walk() -> "Callable[..., Walked | None] | None":
    """Return what collects the gradients of owners, and measures them on the way, where kernels do; see `native`."""
    return None if is_traced() or NATIVE is None else _WALKS.get(FORCED.get())


def _opened(tensors: list[Tensor], chunks: object) -> Batch:
    """Open tensors whose chunks are known: dense ones of one device."""
    check_forced()
    kernels = kernels_of(tensors[0].device)
    return (None if kernels is None else kernels.open(tensors, chunks)) or ReferenceBatch(tensors)


_WALKS: "dict[str, Callable[..., Walked | None]]" = {}
"""How the extension walks over owners, by the backend that is forced."""

if walker is not None:
    _WALKS[""] = walker(_opened, _tried)
    _WALKS["native"] = walker(_opened, _Tried())  # which nobody tries
    _WALKS["triton"] = walker(_opened, _tried, tabled=True)


def taken_by_kernels(tensors: list[Tensor]) -> Batch | None:
    """Open tensors that kernels take, all of them: dense numbers, each in a place of its own; else None."""
    if not is_traced():
        check_forced()
    kernels = kernels_of(tensors[0].device) if tensors else None
    return None if kernels is None else kernels.open(tensors)


def open_(tensors: list[Tensor], device: torch.device = CPU) -> Batch:
    """Open any tensors as one batch: sparse ones by their values, each by the best backend that takes it.

    Args:
        tensors: Strided or sparse COO tensors.
        device: Where the numbers of none are.

    Raises:
        BackendUnavailableError: If the backend that was asked for by name cannot run here.
    """
    if (batch := taken_by_kernels(tensors)) is not None:
        return batch
    if not tensors:
        return ReferenceBatch([], home(device))
    values = [x if _is_loose(x) else values_of(x) for x in tensors]
    places: dict[tuple[torch.device, str], list[int]] = {}
    for i, x in enumerate(values):
        kernels = None if x.is_sparse else kernels_of(x.device)
        name = "loose" if x.is_sparse else "kernels" if kernels is not None and kernels.takes([x]) else "reference"
        places.setdefault((x.device, name), []).append(i)
    parts: list[Part] = [(_open_alike(name, [values[i] for i in at]), at) for (_, name), at in places.items()]
    return parts[0][0] if len(parts) == 1 else Several(values, parts)


def values_of(x: Tensor) -> Tensor:
    """Return the elements that a tensor stores: those of a sparse one, or itself."""
    return stored_values(x) if x.is_sparse else x


def _is_loose(x: Tensor) -> bool:
    return x.is_sparse and not x.is_coalesced()


def _open_alike(name: str, tensors: list[Tensor]) -> Batch:
    if name == "loose":
        return Uncoalesced(tensors, open_)
    opened = taken_by_kernels(tensors) if name == "kernels" else None
    plain = NarrowBatch if is_narrow(tensors[0].device) else ReferenceBatch
    return plain(tensors) if opened is None else opened


def joined(tensors: list[Tensor], parts: list[Part]) -> Batch:
    """Return batches that are open already as one: those with any tensor, and where these are among all."""
    some = [(batch, at) for batch, at in parts if batch.tensors]
    return some[0][0] if len(some) == 1 else Several(tensors, some) if some else parts[0][0]


operators.define_all(open_, taken_by_kernels)
