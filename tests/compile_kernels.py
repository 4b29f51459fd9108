"""Compile every kernel for GPUs, which takes none: run by `test_triton.py` in a process without the interpreter."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gradclip.ops.triton import measuring, writing
from gradclip.ops.triton.calls import BLOCK, WARPS
from gradclip.ops.triton.launch import PER_PROCESSOR

TARGETS = {"cuda 90": GPUTarget("cuda", 90, 32), "hip gfx942": GPUTarget("hip", "gfx942", 64)}
WARP, REGISTERS = 32, 2**16
"""Threads of a warp, and registers of a multiprocessor of NVIDIA's."""

POINTERS = {"table": "*i64", "norm": "*fp32"} | dict.fromkeys(
    ("partials", "numbers", "out", "length", "coef", "coefs", "limits"), "*fp64"
)


Variant = tuple[Any, int, dict[str, Any]]


def variants() -> Iterator[Variant]:
    """Yield kernels with their warps and constants: each dtype with each kind, and with both, aligned and not."""
    for place, dtype in enumerate((tl.bfloat16, tl.float16, tl.float32, tl.float64)):
        run = {"DTYPE": dtype, "WIDTH": 1, "ALIGNED": False}
        for kind in range(6):
            own = {**run, "KIND": kind, "ALIGNED": (kind + place) % 2 == 0}
            if kind < 4:
                yield measuring.measure_powers, 4, {**own, "SCALED": (kind + 1) % 3}  # squares as they are, as a rule
            else:
                yield measuring.measure_extrema, 4, own
        for aligned in (True, False):
            yield writing.scale, 4, {**run, "ALIGNED": aligned, "EACH": aligned}
        yield writing.clamp, 4, {**run, "EACH": True}
        yield measuring.count_nonfinite, 4, {**run, "ASKED": place % 2 == 0}
        yield writing.sanitize, 4, run
    for dtype in (tl.float32, tl.float64):  # of complex elements
        run = {"DTYPE": dtype, "WIDTH": 2, "ALIGNED": True}
        for kind in (1, 2, 3):
            yield measuring.measure_powers, 4, {**run, "KIND": kind, "SCALED": 2}
        yield measuring.measure_extrema, 4, {**run, "KIND": 5}
        yield writing.scale, 4, {**run, "EACH": False}
        yield measuring.count_nonfinite, 4, {**run, "ASKED": dtype == tl.float32}
        yield writing.sanitize, 4, run
    for kind in range(6):
        yield measuring.combine, 1, {"KIND": kind, "COEF": False, "WIDE": False}
    for wide in (False, True):
        yield measuring.combine, 8, {"KIND": 2, "COEF": True, "WIDE": wide}


def compiled(target: GPUTarget, kernel: Any, warps: int, constants: dict[str, Any]) -> Any:
    """Compile one kernel."""
    constants = {**constants, "BLOCK": BLOCK}
    names = kernel.arg_names
    types = {**POINTERS, "norm": "*fp64"} if constants.get("WIDE") else POINTERS
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    fixed = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    return triton.compile(source, target=target, options={"num_warps": warps})


def check_speed(found: Any, kernel: Any, constants: dict[str, Any]) -> None:
    """Check that a kernel reads 16 bytes at once, and that as many programs fit on a multiprocessor as are launched."""
    what = f"{kernel.__name__} {constants}"
    if constants["ALIGNED"] and constants["WIDTH"] == 1:
        wide = "ld.global.v2.b64" if constants["DTYPE"] == tl.float64 else "ld.global.v4.b32"
        assert wide in found.asm["ptx"], f"{what} reads less than 16 bytes at once"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(found.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    taken = int(re.search(r"REG:(\d+)", said).group(1))
    assert taken * WARP * WARPS * PER_PROCESSOR <= REGISTERS, f"{what} takes {taken} registers"


def main() -> None:
    """Compile all for all targets, and look at what reads gradients."""
    for name, target in TARGETS.items():
        count = 0
        for kernel, warps, constants in variants():
            found = compiled(target, kernel, warps, constants)
            count += 1
            if target.backend == "cuda" and "ALIGNED" in constants:
                check_speed(found, kernel, constants)
        sys.stdout.write(f"{name}: {count} kernels\n")


if __name__ == "__main__":
    sys.exit(main())
