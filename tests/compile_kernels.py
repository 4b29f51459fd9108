"""Compile every kernel for GPUs, which takes none: run by `test_triton.py` in a process without the interpreter."""

import sys
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gradclip.ops.triton import measuring, writing

TARGETS = {"cuda 90": GPUTarget("cuda", 90, 32), "hip gfx942": GPUTarget("hip", "gfx942", 64)}
BLOCK = 1024
POINTERS = {"table": "*i64", "partials": "*fp64", "numbers": "*fp64", "out": "*fp64", "norm": "*fp32", "coefs": "*fp64"}

Variant = tuple[Any, int, dict[str, Any]]


def variants() -> Iterator[Variant]:
    """Yield kernels with their warps and constants: each dtype, each kind, aligned or not in turn."""
    for dtype in (tl.bfloat16, tl.float16, tl.float32, tl.float64):
        for kind in range(4):
            one = {"KIND": kind, "SCALED": kind % 3, "WIDTH": 1, "PAIRS": False, "ALIGNED": True}
            yield measuring.measure_powers, 4, {"DTYPE": dtype, **one}
        for kind in (4, 5):
            yield measuring.measure_extrema, 4, {"DTYPE": dtype, "KIND": kind, "PAIRS": False, "ALIGNED": kind == 4}
        yield writing.scale, 4, {"DTYPE": dtype, "EACH": False, "WIDTH": 1, "ALIGNED": True}
        yield writing.clamp, 4, {"DTYPE": dtype, "EACH": True, "WIDTH": 1}
        yield measuring.count_nonfinite, 4, {"DTYPE": dtype, "PAIRS": False}
        yield writing.sanitize, 4, {"DTYPE": dtype, "PAIRS": False}
    for dtype in (tl.float32, tl.float64):  # of complex elements
        yield measuring.measure_powers, 4, {
            "DTYPE": dtype, "KIND": 3, "SCALED": 2, "WIDTH": 1, "PAIRS": True, "ALIGNED": False
        }  # fmt: skip
        yield measuring.measure_extrema, 4, {"DTYPE": dtype, "KIND": 5, "PAIRS": True, "ALIGNED": True}
        yield measuring.count_nonfinite, 4, {"DTYPE": dtype, "PAIRS": True}
        yield writing.sanitize, 4, {"DTYPE": dtype, "PAIRS": True}
    for kind in range(6):
        yield measuring.combine, 1, {"KIND": kind, "COEF": False, "WIDE": False}
    for wide in (False, True):
        yield measuring.combine, 8, {"KIND": 2, "COEF": True, "WIDE": wide}


def compiled(target: GPUTarget, kernel: Any, warps: int, constants: dict[str, Any]) -> Any:
    """Compile one kernel."""
    constants = {**constants, "BLOCK": BLOCK}
    names = kernel.arg_names
    types = {**POINTERS, "bounds": "*fp64" if kernel is writing.clamp else "i32"}
    if constants.get("WIDE"):
        types["norm"] = "*fp64"
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    fixed = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    return triton.compile(source, target=target, options={"num_warps": warps})


def main() -> None:
    """Compile all for all targets, and look at what reads gradients."""
    for name, target in TARGETS.items():
        count = 0
        for kernel, warps, constants in variants():
            found = compiled(target, kernel, warps, constants)
            count += 1
            if target.backend == "cuda" and constants.get("ALIGNED") and not constants.get("PAIRS"):
                wide = "ld.global.v2.b64" if constants["DTYPE"] == tl.float64 else "ld.global.v4.b32"
                assert wide in found.asm["ptx"], f"{kernel.__name__} {constants} reads less than 16 bytes at once"
        sys.stdout.write(f"{name}: {count} kernels\n")


if __name__ == "__main__":
    sys.exit(main())
