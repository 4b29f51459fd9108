"""Which backend takes which tensors, and why a backend cannot run here.

Dispatch goes by the tensors at call time. `GRADCLIP_BACKEND=native` or `reference` in the environment, read at import,
forces one: `reference` then takes everything, and a `native` that is missing is an error instead of a fallback.
"""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from gradclip.exceptions import BackendUnavailableError
from gradclip.ops.backend import Backend
from gradclip.ops.reference import REFERENCE
from gradclip.tracing import is_traced

if TYPE_CHECKING:
    from gradclip.ops.native import Native

Bucket: TypeAlias = tuple[Backend, list[Tensor], Sequence[int]]
"""A backend, tensors that it takes in one call, and where they stand in the list they come from."""

NATIVE: "Native | None"
NATIVE_MISSING: str
"""Why `native` cannot run here, or an empty string."""

ISA: str
"""The instruction set that the native kernels use here, or an empty string."""

try:
    from gradclip.ops.native import ISA, NATIVE
except ImportError as error:
    NATIVE, NATIVE_MISSING, ISA = None, str(error), ""
else:
    NATIVE_MISSING = ""

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
    name = FORCED.get()
    if name not in {"", "native", "reference"}:
        msg = f"`GRADCLIP_BACKEND` must be 'native' or 'reference', got {name!r}. Unset it to let gradclip choose."
        raise BackendUnavailableError(msg)
    if name == "native" and NATIVE is None:
        msg = (
            f"`GRADCLIP_BACKEND=native` asks for kernels that cannot run here: {NATIVE_MISSING}. "
            "Unset it to fall back to plain torch; `gradclip doctor` shows details."
        )
        raise BackendUnavailableError(msg)


def native() -> "Native | None":
    """Return the native backend where it may run: not where somebody traces the operations of torch."""
    return None if is_traced() or FORCED.get() not in {"", "native"} else NATIVE


def one_bucket(tensors: list[Tensor]) -> list[Bucket]:
    """Return the one bucket of tensors that the kernels take, all of them; else none."""
    kernels = native() if tensors else None
    return [(kernels, tensors, range(len(tensors)))] if kernels is not None and kernels.takes(tensors) else []


def bucket(tensors: list[Tensor]) -> list[Bucket]:
    """Cut any tensors into what one backend takes in one call each."""
    if not is_traced():
        check_forced()
    if found := one_bucket(tensors):
        return found
    kernels = native()
    places: dict[tuple[torch.device, bool], list[int]] = {}
    for position, x in enumerate(tensors):
        on_native = kernels is not None and kernels.takes([x])
        places.setdefault((x.device, on_native), []).append(position)
    return [
        (kernels if kernels is not None and on_native else REFERENCE, [tensors[i] for i in positions], positions)
        for (_, on_native), positions in places.items()
    ]
