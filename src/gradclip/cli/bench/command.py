"""The command: run the cases and show them as one table."""

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradclip.cli import UserError, target

if TYPE_CHECKING:
    from gradclip.cli.bench.harness import Timing

DTYPES = ("float32", "bfloat16")

MOST_SECONDS, MOST_THREADS = 3600, 4096
"""More than anybody waits for, and than a machine has."""


def bench(
    shapes: Annotated[list[str] | None, typer.Option(help="Models whose shapes are timed; all by default.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="float32 or bfloat16; float32 by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Seconds per case; there are two for each model and dtype.")] = 2.0,
    threads: Annotated[int | None, typer.Option(help="Threads of torch; by default, torch's own choice.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the timings and the machine to this JSON file.")] = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
) -> None:
    """Measure clipping against torch on this machine."""
    import torch  # noqa: PLC0415 -- not needed for --help

    from gradclip.cli.bench import display  # noqa: PLC0415
    from gradclip.cli.bench.cases import load_shapes, providers  # noqa: PLC0415
    from gradclip.cli.bench.harness import measure  # noqa: PLC0415
    from gradclip.exceptions import BackendUnavailableError  # noqa: PLC0415
    from gradclip.ops import registry  # noqa: PLC0415

    try:
        registry.check_forced()
    except BackendUnavailableError as error:
        raise UserError(str(error)) from None
    known = load_shapes()
    for name in shapes or []:
        if name not in known:
            raise UserError(f"--shapes must be one of {', '.join(known)}, got {name}")
    for name in dtype or []:
        if name not in DTYPES:
            raise UserError(f"--dtype must be one of {', '.join(DTYPES)}, got {name}")
    if not 0 < seconds <= MOST_SECONDS:
        raise UserError(f"--seconds must be above 0, and {MOST_SECONDS} at most, got {seconds:g}")
    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise UserError(f"--threads must be 1 to {MOST_THREADS}, got {threads}")
        torch.set_num_threads(threads)
    if out is not None:
        with target.said_of("--out", out):
            out.parent.mkdir(parents=True, exist_ok=True)
        target.check("--out", out, force=force)

    cases = [
        (known[name], getattr(torch, dtype_name), clipping)
        for dtype_name in dtype or ["float32"]
        for name in shapes or list(known)
        for clipping in (False, True)
    ]
    timings: list[Timing] = []
    with display.progress(len(cases)) as advance:
        for case, case_dtype, clipping in cases:
            advance(f"{case.name} {str(case_dtype).removeprefix('torch.')} {'clipping' if clipping else 'unclipped'}")
            timings += measure(case, case_dtype, providers(), clipping=clipping, seconds=seconds)
    display.show(timings, known)
    if out is not None:
        record = {"machine": machine(), "timings": [timing._asdict() for timing in timings]}
        target.write("--out", out, (json.dumps(record, indent=1) + "\n").encode(), force=force)


def machine() -> dict[str, str | int]:
    """Describe what the figures belong to."""
    import torch  # noqa: PLC0415

    import gradclip  # noqa: PLC0415
    from gradclip.ops import registry  # noqa: PLC0415

    return {
        "cpu": _cpu_name(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gradclip": gradclip.__version__,
        "native": registry.NATIVE_MISSING or registry.ISA,
    }


def _cpu_name() -> str:
    """Return the CPU's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
