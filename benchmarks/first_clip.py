"""What the first clip of a process compiles, and how long that takes: for an NVIDIA H100, which it does not take.

Each dtype is compiled in a process of its own, with an empty cache of Triton and then with what that one has left.

    python benchmarks/first_clip.py --repeats 5
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
POINTERS = {torch.int64: "*i64", torch.float32: "*fp32", torch.float64: "*fp64"}


def compile_clip(dtype: torch.dtype) -> tuple[int, float]:
    """Compile what a clip by the 2-norm launches; return how many kernels that are, and how many seconds it took."""
    import triton  # noqa: PLC0415 -- the parent needs none
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    from gradclip.numbers import CPU  # noqa: PLC0415
    from gradclip.ops.triton import calls, writing  # noqa: PLC0415
    from gradclip.ops.triton.lane import numbers_of, partials_of  # noqa: PLC0415
    from gradclip.ops.triton.table import on_device, tabled  # noqa: PLC0415

    host = tabled([torch.ones(2**15, dtype=dtype)])
    table, partials = on_device(host, CPU), partials_of(host.chunks, CPU, None)
    numbers = numbers_of(CPU, None, wide=False)
    clip = [
        *calls.measuring_each(table, 2.0, partials),
        calls.norming(table, partials, numbers),
        *calls.over_runs(writing.scale, table, numbers.coef, EACH=False),
    ]
    begun = time.perf_counter()
    for call in clip:
        names = call.kernel.arg_names
        given = dict(zip(names, call.arguments, strict=False))
        signature = dict.fromkeys(names, "constexpr")
        signature |= {name: POINTERS[x.dtype] if isinstance(x, torch.Tensor) else "i32" for name, x in given.items()}
        constants = {(names.index(name),): value for name, value in call.constants.items()}
        source = ASTSource(fn=call.kernel, signature=signature, constexprs=constants)
        triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"num_warps": call.warps, "enable_fp_fusion": call.fused}
        )
    return len(clip), time.perf_counter() - begun


def main() -> None:
    """Print a line for each dtype."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=DTYPES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.dtype:
        sys.stdout.write("{} {}\n".format(*compile_clip(DTYPES[given.dtype])))
        return
    for name in DTYPES:
        seconds: dict[str, list[float]] = {"cold": [], "warm": []}
        kernels = 0
        for _ in range(given.repeats):
            with tempfile.TemporaryDirectory() as folder:
                for cache in seconds.values():
                    command = [sys.executable, __file__, "--dtype", name]
                    said = subprocess.check_output(command, env={**os.environ, "TRITON_CACHE_DIR": folder}, text=True)
                    count, taken = said.split()
                    kernels = int(count)
                    cache.append(float(taken))
        cold, warm = (statistics.median(times) for times in seconds.values())
        sys.stdout.write(f"{name}: {kernels} kernels, {cold:.2f} s with an empty cache, {warm:.3f} s with a full one\n")


if __name__ == "__main__":
    main()
