"""A stand-in for another device: tensors whose memory is on the CPU, and which say that they are elsewhere.

It may be told to have no float64, as Apple's GPUs, and to refuse whatever a host would wait for: a number that is read,
and a copy to or from memory that is not pinned.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves

HERE, PLACE = torch.device("cpu"), torch.device("privateuseone", 0)

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch has no devices whose backend is written in Python", allow_module_level=True)

READING = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}
"""What has to know a number to go on."""

PUT = {"index_put_", "_index_put_impl_"}

UNORDERED = {"index_add_", "index_add", "scatter_add_", "scatter_add", "bincount", "histc", "cumsum"}
"""What adds up in whatever order threads come, so that no two calls, nor two ranks, need have the same bits."""

LACKING = {torch.float64, torch.complex128}


class There(Tensor):
    """A tensor elsewhere, on one of several devices. What comes of it is there too, but for copies to the CPU."""

    held: Tensor
    refuses_float64 = False
    refuses_waits = False
    tape: "list[Callable[[], object]] | None" = None

    @staticmethod
    def __new__(cls: Any, held: Tensor, place: torch.device = PLACE) -> Any:
        if cls.refuses_float64 and held.dtype in LACKING:
            raise TypeError("Cannot convert a tensor to float64, which its device does not have.")
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=place, **layout)

    def __init__(self, held: Tensor, _: torch.device = PLACE) -> None:
        self.held = held

    def __repr__(self, **_: Any) -> str:
        return f"There({self.held})"

    def tolist(self) -> Any:
        """Return its numbers, which torch does for no class of others."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.partition("::")[2]
        if cls.refuses_waits and name in READING:
            raise AssertionError(f"the host waits for a number: {name}")
        if name == "copy_":
            return _copied_again(*args)
        given = tree_leaves((args, kwargs))
        place = torch.device(kwargs.get("device") or next(x.device for x in given if isinstance(x, There)))
        if place == HERE and name == "_to_copy":
            return _copied(
                args[0], torch.empty_like(args[0].held, dtype=kwargs.get("dtype")), kwargs.get("non_blocking")
            )
        _check_places(name, given)
        if name in UNORDERED or (name in PUT and True in args[3:4]):
            raise AssertionError(f"what is added up in any order has other bits each time: {name}")
        if "device" in kwargs:
            kwargs["device"] = HERE
        found = _taped(lambda: func(*_each(_held, args), **{key: _each(_held, x) for key, x in kwargs.items()}))
        if name.endswith("_"):
            return args[0] if func._schema.returns else None
        return _each(lambda x: cls(x, place) if isinstance(x, Tensor) else x, found)


def _check_places(name: str, given: list[Any]) -> None:
    """Refuse memory of the host, as a device does; it waits for indices, and to know how many elements a mask takes."""
    _, *others = [x for x in given if isinstance(x, Tensor)] or [None]
    if len({x.device for x in given if isinstance(x, There)}) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device: {name}")
    if name in {"index", *PUT}:
        indices = others if name == "index" else others[:-1]
        if There.refuses_waits and any(type(x) is not There or x.dtype == torch.bool for x in indices):
            raise AssertionError(f"the host waits for indices: {name}")
    elif any(type(x) is not There and x.ndim for x in others):
        raise RuntimeError(f"Expected all tensors to be on the same device: {name}")


def _taped(act: Callable[[], Any]) -> Any:
    """Act, and note it where a tape runs: to act again, and leave what comes of it where it was."""
    found = act()
    if There.tape is not None:
        was = [x for x in tree_leaves(found) if isinstance(x, Tensor)]

        def again() -> None:
            for old, new in zip(was, (x for x in tree_leaves(act()) if isinstance(x, Tensor)), strict=True):
                _held(old).copy_(_held(new))

        There.tape.append(again)
    return found


def _each(act: Callable[[Any], Any], x: Any) -> Any:
    """Act on what torch hands over, which is in lists and tuples at most: its trees know more, and take longer."""
    return type(x)([_each(act, inner) for inner in x]) if type(x) in {list, tuple} else act(x)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, There) else x


def _copied(x: Tensor, to: Tensor, non_blocking: bool | None = False) -> Tensor:
    """Copy to, from or on the device."""
    if There.refuses_waits and not non_blocking and not (isinstance(x, There) and isinstance(to, There)):
        raise AssertionError("the host waits for a copy")
    _held(to).copy_(_held(x))
    return to


def _copied_again(to: Tensor, x: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy, and at a replay again, from the same memory: that of the host has to be kept by somebody else."""
    source: Any = (lambda: x) if isinstance(x, There) else weakref.ref(x)

    def act() -> Tensor:
        if source() is None:
            raise AssertionError("a replay copies from memory that is gone")
        return _copied(source(), to, non_blocking)

    return _taped(act)


def _empty(size: Any, dtype: Any = None, *_: Any, device: Any = None, **__: Any) -> There:
    return There(torch.empty(size, dtype=dtype, device=HERE), device or PLACE)


def _empty_strided(size: Any, stride: Any, dtype: Any = None, *_: Any, device: Any = None, **__: Any) -> There:
    return There(torch.empty_strided(size, stride, dtype=dtype, device=HERE), device or PLACE)


backend_registration._setup_privateuseone_for_python_backend()
_LIBRARY = torch.library.Library("aten", "IMPL")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copied, "PrivateUse1")


@contextmanager
def without_float64() -> Iterator[None]:
    """Take float64 from the device, which nobody has tried yet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(There, "refuses_float64", True)
        patch.setattr("gradclip.devices.TRIED", {})
        yield


class NoNumbersPut(TorchFunctionMode):
    """Fail where a number of the host is put at indices: on CUDA, torch copies it there first, and waits."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__setitem__ and args[0].device.type == PLACE.type and not isinstance(args[2], Tensor):
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(x, int) or (isinstance(x, Tensor) and x.dtype != torch.bool) for x in indices):
                raise AssertionError("the host waits for the copy of a number")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waits() -> Iterator[None]:
    """Fail where the host waits for the device."""
    There.refuses_waits = True
    try:
        with NoNumbersPut():
            yield
    finally:
        There.refuses_waits = False


@contextmanager
def captured() -> Iterator[Callable[[], None]]:
    """Note what is done on the device, as a CUDA graph does; what is yielded does it again, on the same memory."""
    tape = There.tape = []

    def replay() -> None:
        for act in tape:
            act()

    with pytest.MonkeyPatch.context() as patch:
        for module in (
            "clipper.clipper",
            "clipper.pipeline",
            "policies.history",
            "sending",
        ):
            patch.setattr(f"gradclip.{module}.is_captured", lambda device: device == PLACE)
        patch.setattr("gradclip.sending.TAKES_PINNED", False)
        try:
            yield replay
        finally:
            There.tape = None
