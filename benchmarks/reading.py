"""Measure how long recorded runs take to read, and in how much memory: a Markdown table.

Every file is read in a process of its own. Its time is that of `read_series` alone, the best of several; its memory is
what the peak of the process is above one that has read a short file. The norms that were read are checked first.

Run: python benchmarks/reading.py
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gradclip.records import ClipRecord

PARAMETERS = [f"transformer.h.{layer}.{part}.weight" for layer in range(12) for part in ("attn.c_attn", "mlp.c_fc")]

SHORT = 2000
"""Steps of the run that a process reads before it is measured."""

READ = """
import json, math, resource, sys, time
from gradclip.analysis.reading import read_series

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

read_series(sys.argv[1])
before, seconds, cpu_seconds = peak(), [], []
for _ in range(int(sys.argv[3])):
    start, cpu_start = time.perf_counter(), cpu()
    series = read_series(sys.argv[2])
    seconds.append(time.perf_counter() - start)
    cpu_seconds.append(cpu() - cpu_start)
    print(json.dumps([len(series), float(series.norms.nansum()), seconds[-1], cpu_seconds[-1], peak() - before]))
"""


def norms(steps: int) -> Iterator[float]:
    """Norms of a run, of which one in a thousand is not finite."""
    chance = random.Random(0)  # noqa: S311 -- no secret
    for step in range(1, steps + 1):
        norm = chance.lognormvariate(0.0, 0.3)
        yield math.nan if step % 1000 == 0 else norm


def records(steps: int, norms_every: int) -> Iterator[str]:
    """Lines of JSON as our sink writes them."""
    chance = random.Random(1)  # noqa: S311 -- no secret
    for step, norm in enumerate(norms(steps), 1):
        status = "skipped_nonfinite" if math.isnan(norm) else "clipped" if norm > 1.0 else "ok"
        record = ClipRecord(
            step,
            1.7e9 + 0.25 * step,
            status,
            norm,
            min(norm, 1.0),
            1.0,
            min(1.0, 1.0 / norm),
            "FixedNorm(1.0)",
            worst=tuple((name, 0.25) for name in PARAMETERS[:3]),
            lr=1e-3,
            loss=2.0 + chance.random(),
            nonfinite={PARAMETERS[0]: (3, 0)} if math.isnan(norm) else None,
            norms={name: chance.random() for name in PARAMETERS} if step % norms_every == 0 else None,
        )
        yield json.dumps(record.to_dict()).replace("NaN", "null") + "\n"


def foreign(steps: int) -> Iterator[str]:
    """Lines of JSON as a script of somebody writes them."""
    for step, norm in enumerate(norms(steps), 1):
        yield json.dumps({"step": step, "train/grad_norm": norm, "train/loss": 2.5, "lr": 1e-3}) + "\n"


def exported(steps: int) -> Iterator[str]:
    """Rows as Weights & Biases exports them."""
    run = "calm-sun-1 - train/grad_norm"
    yield f'"Step","{run}","{run}__MIN","{run}__MAX"\n'
    for step, norm in enumerate(norms(steps), 1):
        yield f'"{step}","{norm}","{norm}","{norm}"\n'


def history(steps: int) -> Iterator[str]:
    """A trainer_state.json."""
    entries = (
        {"epoch": 0.1, "grad_norm": x, "learning_rate": 1e-3, "loss": 2.5, "step": s}
        for s, x in enumerate(norms(steps), 1)
    )
    yield '{\n"log_history": [\n'
    for place, entry in enumerate(entries):
        yield (",\n" if place else "") + json.dumps(entry, indent=2)
    yield "\n]}\n"


def printed(steps: int) -> Iterator[str]:
    """Lines as a trainer prints them."""
    for step, norm in enumerate(norms(steps), 1):
        yield f"step {step:5d} | loss: 2.500000 | lr 1.0000e-03 | norm: {norm!r} | dt: 1.25ms | tok/sec: 9.5\n"


FORMATS: dict[str, tuple[str, Callable[[int], Iterable[str]]]] = {
    "JSON Lines of ours, norms of parameters every 100 steps": ("ours.jsonl", lambda steps: records(steps, 100)),
    "JSON Lines of ours, norms of parameters every 4 steps": ("each.jsonl", lambda steps: records(steps, 4)),
    "JSON Lines of others": ("others.jsonl", foreign),
    "CSV of Weights & Biases": ("export.csv", exported),
    "trainer_state.json": ("trainer_state.json", history),
    "text": ("train.log", printed),
}


def measure(
    folder: Path, name: str, lines: Callable[[int], Iterable[str]], steps: int, repeats: int
) -> tuple[int, list[float]]:
    """Return the bytes of a file of so many steps, and the best seconds, CPU seconds, and bytes of memory."""
    paths = [folder / str(count) / name for count in (SHORT, steps)]
    for path, count in zip(paths, (SHORT, steps), strict=True):
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(lines(count))
    command = [sys.executable, "-c", READ, *map(str, paths), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    expected = math.fsum(norm for norm in norms(steps) if not math.isnan(norm))
    for count, total, *_ in found:
        if count != steps or not math.isclose(total, expected, rel_tol=1e-9):
            raise SystemExit(f"{name}: {count} steps with a sum of {total} were read, not {steps} with {expected}")
    size = paths[1].stat().st_size
    paths[1].unlink()
    return size, [min(column) for column in list(zip(*found, strict=True))[2:]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="the files whose names hold this", default="")
    arguments = parser.parse_args()
    print(f"| {arguments.steps} steps | file (MB) | seconds | CPU seconds | memory (MB) |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for title, (name, lines) in FORMATS.items():
            if arguments.only in name:
                size, (seconds, cpu, memory) = measure(Path(folder), name, lines, arguments.steps, arguments.repeats)
                print(f"| {title} | {size / 1e6:.0f} | {seconds:.2f} | {cpu:.2f} | {memory / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
