"""Train with the thresholds that a pilot's recording suggests, and print what became of it: a Markdown table.

For each task and seed, a pilot runs at a low learning rate, unclipped, and records its norms (`advice_tasks.py` has the
tasks). `advise` reads the recording, and the task is trained at four times the learning rate: with each of the
three thresholds, as `FixedNorm`, and without clipping; where the advice is another policy than a constant, with that
too. All runs of a seed begin with the same weights and see the same batches.

A run trains where its final loss, on examples that no step saw, is finite and at most 10 % above that of the pilot of
its seed. The network, the noise, the learning rates and the number of steps of `digits` were chosen so that the pilot
trains and four times its learning rate without clipping does not.

    python benchmarks/advice.py
"""

import argparse
import json
import math
import multiprocessing
import os
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from advice_tasks import TASKS, Outcome

from gradclip.analysis import advise
from gradclip.cli.bench.command import machine
from gradclip.policies import FixedNorm, MedianClip
from gradclip.records import JSONLines

MARGIN = 1.1
"""How many times the pilot's final loss a run may end with."""

PILOT, UNCLIPPED, WINDOWED = "pilot", "without clipping", "as advised, MedianClip"

LARGE = 1000.0
"""Losses above are rounded: their digits say nothing."""

RESULTS = Path(__file__).parent / "results"


class Job(NamedTuple):
    """What is to be trained.

    Attributes:
        task: The task.
        seed: The seed.
        name: The name of the threshold, or `WINDOWED` or `UNCLIPPED`.
        max_norm: The threshold, or the ceiling; None without clipping.
        bar: The loss to reach.
    """

    task: str
    seed: int
    name: str
    max_norm: float | None
    bar: float


@dataclass(frozen=True)
class Row:
    """A run.

    Attributes:
        task: Its task.
        seed: Its seed.
        name: The name of the threshold, or `PILOT`, `WINDOWED` or `UNCLIPPED`.
        lr: Its learning rate.
        max_norm: The threshold, if there was one.
        final_loss: The loss at the end on unseen examples; NaN where the run was lost.
        accuracy: On unseen examples, if there are classes.
        clipped: The share of steps that were clipped.
        trained: Whether it trained; of a pilot, whether it was not lost.
    """

    task: str
    seed: int
    name: str
    lr: float
    max_norm: float | None
    final_loss: float
    accuracy: float | None
    clipped: float
    trained: bool


def pilot(job: tuple[str, int]) -> tuple[Row, dict[str, Any]]:
    """Run the pilot of a task and a seed; return its row and the advice on its recording."""
    torch.set_num_threads(1)
    name, seed = job
    task = TASKS[name]
    with tempfile.TemporaryDirectory() as folder:
        sink = JSONLines(Path(folder, "pilot.jsonl"))
        found = task.train(seed, task.pilot_lr, None, [sink])
        sink.close()
        advice = advise(sink.path)
    return row_of(name, seed, PILOT, task.pilot_lr, None, found, math.inf), advice.to_dict() | {
        "source": sink.path.name
    }


def train(job: Job) -> Row:
    """Train with the policy of a job."""
    torch.set_num_threads(1)
    lr = TASKS[job.task].lr
    make = MedianClip if job.name == WINDOWED else FixedNorm
    found = TASKS[job.task].train(job.seed, lr, None if job.max_norm is None else make(job.max_norm))
    return row_of(job.task, job.seed, job.name, lr, job.max_norm, found, job.bar)


def row_of(task: str, seed: int, name: str, lr: float, max_norm: float | None, found: Outcome, bar: float) -> Row:
    """Return the row of what came of a run."""
    trained = math.isfinite(found.final_loss) and found.final_loss <= bar
    return Row(task, seed, name, lr, max_norm, found.final_loss, found.accuracy, found.clipped, trained)


def jobs_of(start: Row, advice: dict[str, Any]) -> list[Job]:
    """Return what is to be trained after a pilot: with each suggestion and without; a refusal suggests nothing."""
    bounds: dict[str, float | None] = {each["name"]: each["max_norm"] for each in advice["suggestions"]}
    if advice["verdict"] == "drifting":
        bounds[WINDOWED] = advice["max_norm"]
    bounds[UNCLIPPED] = None
    return [Job(start.task, start.seed, name, bound, MARGIN * start.final_loss) for name, bound in bounds.items()]


def line(row: Row) -> str:
    """Return the row of the table."""
    cells = (
        row.task,
        str(row.seed),
        f"{row.name}, lr {row.lr:g}",
        "none" if row.max_norm is None else f"{row.max_norm:.3g}",
        shown(row.final_loss),
        "" if row.accuracy is None else f"{100 * row.accuracy:.1f} %",
        f"{100 * row.clipped:.1f} %",
        "yes" if row.trained else "no",
    )
    return f"| {' | '.join(cells)} |"


def shown(loss: float) -> str:
    """Return a loss as a cell."""
    if not math.isfinite(loss):
        return "not finite"
    return f"{loss:.3f}" if loss < LARGE else f"{loss:.0e}"


def described() -> dict[str, Any]:
    """Describe the machine."""
    facts = machine()
    native = str(facts["native"]).partition(" (")[0]  # of an error, without the path in it
    return {**facts, "native": native, "cores": os.cpu_count() or 1, "threads": 1}


def main() -> None:
    """Run the pilots, then all others, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"which tasks ({', '.join(TASKS)})")
    parser.add_argument("--seeds", type=int, default=3, help="how many, counted from 0 (3)")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, of one thread each (2)")
    parser.add_argument("--out", type=Path, help="the JSON file (results/advice-MACHINE.json)")
    options = parser.parse_args()
    if unknown := set(options.tasks) - set(TASKS):
        parser.error(f"no task {min(unknown)!r}; there are {', '.join(TASKS)}")
    facts = described()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{facts['cpu']}-{facts['cores']}-cores".lower()).strip("-")
    out = options.out or RESULTS / f"advice-{slug}.json"

    start = time.perf_counter()
    print("| task | seed | run | threshold | final loss | accuracy | clipped | trains |")
    print("|---|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    # Spawned: a forked process inherits the locks of torch's threads.
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        starts = [(task, seed) for task in options.tasks or TASKS for seed in range(options.seeds)]
        pilots = list(pool.map(pilot, starts))
        jobs = [jobs_of(*found) for found in pilots]
        later = pool.map(train, [job for some in jobs for job in some])
        for (row, _), some in zip(pilots, jobs, strict=True):
            rows.append(row)
            print(line(row), flush=True)
            for _ in some:
                rows.append(next(later))
                print(line(rows[-1]), flush=True)
    for row, advice in pilots:
        print(f"\n{row.task}, seed {row.seed}: {advice['headline']} {' '.join(advice['reasons'])}")
    print(f"\n{time.perf_counter() - start:.0f} seconds on {facts['cores']} cores of {facts['cpu']}.")
    record = {
        "machine": facts,
        "settings": {"margin": MARGIN},
        "advice": [{"task": row.task, "seed": row.seed, **advice} for row, advice in pilots],
        "runs": [{name: plain(value) for name, value in asdict(row).items()} for row in rows],
    }
    out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Return what JSON can hold: None for what is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
