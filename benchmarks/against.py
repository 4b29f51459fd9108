"""The working tree beside another revision: whether a change costs anything.

Both are built into folders of their own, with the torch that runs this script. A process of each takes turns with the
other, case by case and round by round; the answers are compared first. Below 1.00 the working tree is faster.

    python benchmarks/against.py HEAD~10 --rounds 40
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(os.environ.get("AGAINST_ROOT", Path(__file__).resolve().parents[1]))
CACHE_BYTES = 64 * 2**20
HOT_CALLS = 100
"""Calls without anything in between that are timed together."""

RANKS = "288 DTensors on two ranks"
SHAPES = ("gpt2-124M", "resnet50", "lora", "lstm", "mlp")
CASES = (
    *(f"{name}, {how}" for name in SHAPES for how in ("not clipping", "clipping")),
    "mlp, hot",
    "lora, hot",
    *(f"{name}, {rule}" for name in ("mlp", "gpt2-124M") for rule in ("FixedNorm", "ZClip", "AdaGC")),
    RANKS,
)

Case: TypeAlias = tuple[Callable[[], Any], Callable[[], None], int]
"""What is timed, what comes before, and how many calls are timed together."""


# In the process of one revision.


def make(case: str) -> Case:
    """Make what is timed, always of the same numbers."""
    import torch  # noqa: PLC0415 -- the parent needs none

    import gradclip  # noqa: PLC0415
    from gradclip import policies  # noqa: PLC0415

    name, _, how = case.partition(", ")
    torch.manual_seed(0)
    shapes = json.loads((ROOT / f"src/gradclip/cli/bench/shapes/{name}.json").read_text("utf-8"))["shapes"]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    originals = [torch.randn_like(parameter) for parameter in parameters]
    for parameter, original in zip(parameters, originals, strict=True):
        parameter.grad = original.clone()
    cache = torch.zeros(CACHE_BYTES // 4)
    bound = float(gradclip.get_total_norm(originals)) * (0.5 if how == "clipping" else 2.0)
    optimizer = torch.optim.SGD(parameters, lr=0.0)
    is_policy = how in {"FixedNorm", "ZClip", "AdaGC"}

    def before() -> None:
        if how == "clipping":
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.grad.copy_(original)
        if is_policy:
            optimizer.step()
        cache.add_(1.0)

    if is_policy:
        clipper = gradclip.GradClipper(parameters, getattr(policies, how)(1e9), nonfinite="propagate")
        for _ in range(101):  # past any warm-up
            clipper.clip()
            optimizer.step()
        return lambda: clipper.clip().total_norm, before, 1
    return lambda: gradclip.clip_grad_norm_(parameters, bound), before, HOT_CALLS if how == "hot" else 1


def on_rank(calls: int = 200) -> float:
    """Return the median of a clip of 288 DTensors on this rank, in microseconds."""
    import torch  # noqa: PLC0415
    from torch.distributed import init_device_mesh  # noqa: PLC0415
    from torch.distributed.tensor import Shard, distribute_tensor  # noqa: PLC0415

    import gradclip  # noqa: PLC0415

    mesh = init_device_mesh("cpu", (2,))
    parameters = [torch.nn.Parameter(distribute_tensor(torch.zeros(64, 44), mesh, [Shard(0)])) for _ in range(288)]
    for parameter in parameters:
        parameter.grad = distribute_tensor(torch.ones(64, 44), mesh, [Shard(0)])
    times: list[float] = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        gradclip.clip_grad_norm_(parameters, 1e9)
        times.append((time.perf_counter_ns() - start) / 1e3)
    return statistics.median(times)


def serve(threads: int) -> None:
    """Answer questions, one JSON line each: how long a case takes, so many times."""
    import torch  # noqa: PLC0415
    from against_worker import on_rank as importable  # noqa: PLC0415 -- this file, as ranks can import it

    from gradclip.testing import RankPool  # noqa: PLC0415

    torch.set_num_threads(threads)
    with RankPool(2) as pool:
        for line in sys.stdin:
            case, rounds = json.loads(line)
            if case == RANKS:
                answer, times = 0.0, [max(pool.run(importable)) for _ in range(rounds)]
            else:
                call, before, count = make(case)  # anew: where large tensors lie in memory decides more than the code
                times = [_timed(call, before, count) for _ in range(rounds)]
                before()
                answer = float(call())
            sys.stdout.write(json.dumps([answer, times]) + "\n")
            sys.stdout.flush()


def _timed(call: Callable[[], Any], before: Callable[[], None], count: int) -> float:
    before()
    start = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - start) / 1e3 / count


# The parent.


@contextmanager
def built(source: Path, folder: Path, threads: int) -> Iterator["Ask"]:
    """Install a source tree into a folder, start a process that uses it, and yield how to ask it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "torch.pth").write_text(ours + "\n", "utf-8")  # whose own .pth files, of links, do not count
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--upgrade"]
    build = f"--config-settings=build-dir={folder / 'build'}"
    subprocess.run([*command, build, "--target", packages, source], check=True, stderr=subprocess.DEVNULL)
    script = shutil.copy(__file__, folder / "against_worker.py")
    worker = subprocess.Popen(
        [folder / "bin" / "python", script, "--serve", "--threads", str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{packages}:{folder}", "PATH": os.environ["PATH"], "AGAINST_ROOT": str(ROOT)},
    )

    def ask(case: str, rounds: int) -> tuple[float, list[float]]:
        if worker.stdin is None or worker.stdout is None:
            raise RuntimeError("a process without pipes")
        worker.stdin.write(json.dumps([case, rounds]) + "\n")
        worker.stdin.flush()
        return json.loads(worker.stdout.readline())

    try:
        yield ask
    finally:
        worker.stdin and worker.stdin.close()
        worker.wait(30)


Ask: TypeAlias = Callable[[str, int], tuple[float, list[float]]]


def compare(revision: str, cases: list[str], rounds: int, threads: int) -> None:
    """Print the ratio of each case."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, capture_output=True).stdout
        (folder / "source").mkdir()
        subprocess.run(["tar", "-x", "-C", folder / "source"], input=archive, check=True)
        with built(folder / "source", folder / "old", threads) as old, built(ROOT, folder / "new", threads) as new:
            print(f"{'case':28}{revision[:12]:>14}{'here':>14}  ratio   p20 to p80 of the ratio of each round")
            for case in cases:
                _compare(case, old, new, rounds)


def _compare(case: str, old: Ask, new: Ask, rounds: int) -> None:
    (before, _), (after, _) = old(case, 1), new(case, 1)
    if not abs(before - after) <= 1e-6 * abs(before):
        raise RuntimeError(f"{case}: {before} there and {after} here")
    pairs: list[tuple[float, float]] = []
    for i in range(max(5, rounds // 5) if case == RANKS else rounds):
        asked = [
            (ask, statistics.median(ask(case, 1 if case == RANKS else 3)[1])) for ask in ((old, new), (new, old))[i % 2]
        ]
        times = dict(asked)
        pairs.append((times[old], times[new]))
    there, here = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratios = sorted(b / a for a, b in pairs)
    low, high = ratios[len(ratios) // 5], ratios[-1 - len(ratios) // 5]
    print(
        f"{case:28}{there:11.1f} us{here:11.1f} us  {statistics.median(ratios):5.2f}   {low:.2f} to {high:.2f}",
        flush=True,
    )


def main() -> None:
    """Compare with the revision that is named, or serve as a process of one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("revision", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--case",
        action="append",
        choices=CASES,
        metavar="CASE",
        help="one of the cases, more than once; by default all",
    )
    given = parser.parse_args()
    if given.serve:
        serve(given.threads)
    else:
        compare(given.revision, given.case or list(CASES), given.rounds, given.threads)


if __name__ == "__main__":
    main()
