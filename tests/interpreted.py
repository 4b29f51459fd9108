"""Triton's interpreter, in half of its time: it looks up once what stays, and reduces by halves, as a GPU does."""

import inspect
from functools import cache
from typing import Any

import numpy as np
import pytest
import triton.language as tl
from triton.runtime import interpreter

_find_dtype, _patch_all = interpreter._get_np_dtype, interpreter._patch_lang
_DTYPES: dict[str, Any] = {}


def _dtype_of(type_: Any) -> Any:
    if (found := _DTYPES.get(type_.name)) is None:  # pointers have no hash
        found = _DTYPES[type_.name] = _find_dtype(type_)
    return found


@cache
def _builtins_of(owner: Any) -> list[str]:
    return [name for name, member in inspect.getmembers(owner) if tl.core.is_builtin(member)]


def _patch_builtins(owner: Any, builder: Any, scope: Any) -> None:
    """Have the operations be interpreted that are not yet."""
    for name in _builtins_of(owner):
        if tl.core.is_builtin(member := getattr(owner, name)):
            interpreter._patch_attr(owner, name, member, builder, scope)


def _patch_once(function: Any) -> Any:
    """Have the language be interpreted where a kernel begins, and not anew in each function that it calls."""
    return _patch_all(function) if tl.core.is_builtin(tl.load) else None


def _by_halves(reduction: Any, given: tuple[Any, ...]) -> list[Any]:
    """Reduce one block of one dimension, whose length is a power of 2; Triton's own way goes element by element."""
    (x,) = given
    assert (x.handle.data.ndim, reduction.axis, reduction.keep_dims) == (1, 0, False)
    while len(x.handle.data) > 1:
        x = reduction.combine_fn.fn(*(reduction.to_tensor(half, x.dtype) for half in np.split(x.handle.data, 2)))
    return [reduction.to_tensor(x.handle.data.item(), x.dtype)]


def in_less_time(patch: pytest.MonkeyPatch) -> None:
    """Interpret the kernels so."""
    patch.setattr(interpreter, "_get_np_dtype", _dtype_of)
    patch.setattr(interpreter, "_patch_builtin", _patch_builtins)
    patch.setattr(interpreter, "_patch_lang", _patch_once)
    patch.setattr(interpreter.ReduceOps, "generic_reduce", _by_halves)


def in_small_blocks(patch: pytest.MonkeyPatch) -> None:
    """Have kernels combine few partials at a time: those of tests are several blocks, and lanes cost."""
    patch.setattr("gradclip.ops.triton.calls.TOTAL", 4)
    patch.setattr("gradclip.ops.triton.calls.EACH", 2)
