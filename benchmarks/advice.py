"""Train with the bounds that a pilot's recording suggests, and with those that people take else, and print who wins.

For each task and seed, a pilot runs at a low learning rate, unclipped. `advise` reads its norms, and the task is
trained at four times the learning rate with each bound of `BOUNDS`. All runs of a seed begin with the same weights and
see the same batches. `advice_tasks.py` has five kinds of task, `advice_unseen.py` seven by which nothing was chosen,
`advice_more.py` four that are trained where they are named.

A run fails where its final loss, on what no step saw, is not finite or more than 10 % above that of the pilot of its
seed. The table has the median of the final losses over seeds and how many failed; below it is said how the balanced
threshold stands to the better of 1.0 and the 90th percentile, and how often it failed where another constant did not.

    python benchmarks/advice.py
    python benchmarks/advice.py --unseen --seeds 10
"""

import argparse
import json
import math
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from statistics import fmean, median
from typing import Any

import advice_more
import advice_tasks
import advice_unseen
import torch

from gradclip import GradClipper
from gradclip.analysis import Advice, advise
from gradclip.cli.bench.command import machine
from gradclip.policies import AutoClip, FixedNorm, Policy, ZClip
from gradclip.records import Memory

MARGIN = 1.1
"""How many times the pilot's final loss a run may end with."""

CLOSE = 1.05
"""How many times the better of two customs' median the balanced threshold's may be."""

WARMUP = 20
"""Steps of the pilot that customs leave out, as advice does."""

RESULTS = Path(__file__).parent / "results"

TASKS = advice_tasks.TASKS | advice_unseen.TASKS | advice_more.TASKS


@dataclass(frozen=True)
class Pilot:
    """What a pilot came to.

    Attributes:
        final_loss: Its loss at the end.
        norms: Its finite norms after the warm-up.
        advice: The advice on all its norms.
    """

    final_loss: float
    norms: list[float]
    advice: Advice

    def suggested(self, place: int) -> float:
        """Return a suggestion; NaN where advice is refused."""
        return self.advice.suggestions[place].max_norm if self.advice.suggestions else math.nan


CONSTANTS: dict[str, Callable[[Pilot], float]] = {
    "none": lambda _: math.inf,
    "tight": lambda pilot: pilot.suggested(0),
    "balanced": lambda pilot: pilot.suggested(1),
    "conservative": lambda pilot: pilot.suggested(2),
    "1.0": lambda _: 1.0,
    "p90": lambda pilot: torch.tensor(pilot.norms).quantile(0.9).item(),
    "2 x median": lambda pilot: 2.0 * median(pilot.norms),
    "5 x mean": lambda pilot: 5.0 * fmean(pilot.norms),
}
"""Constants, by what a pilot came to."""

ADAPTIVE: dict[str, Callable[[Pilot], Policy]] = {
    "ZClip": lambda _: ZClip(math.inf),
    "AutoClip(p90)": lambda _: AutoClip(math.inf, percentile=90),
    "ZClip, ceiling": lambda pilot: ZClip(pilot.suggested(2)),
    "AutoClip(p90), ceiling": lambda pilot: AutoClip(pilot.suggested(2), percentile=90),
    "AutoClip(p90), 1.0": lambda _: AutoClip(1.0, percentile=90),
}
"""Adaptive rules: as published, with the conservative threshold as their ceiling, and without a pilot."""

BOUNDS = (*CONSTANTS, *ADAPTIVE)


@dataclass(frozen=True)
class Row:
    """A run.

    Attributes:
        task: Its task.
        seed: Its seed.
        bound: The name of its bound; `pilot` for a pilot.
        max_norm: The bound, where it is a constant.
        final_loss: The loss at the end; NaN where the run was lost.
        clipped: The share of steps that were clipped.
        failed: Whether it failed.
    """

    task: str
    seed: int
    bound: str
    max_norm: float | None
    final_loss: float
    clipped: float
    failed: bool


def trained(task: str, seed: int, lr: float, policy: Policy | None) -> tuple[float, Memory]:
    """Train; return the final loss, NaN where the run was lost, and the records."""
    problem, memory = TASKS[task].make(seed, lr), Memory()
    measured = FixedNorm(math.inf) if policy is None else policy
    nonfinite = "propagate" if policy is None else "skip"
    with GradClipper(problem.model, measured, nonfinite=nonfinite, sinks=[memory]).attach(problem.optimizer):
        for step in range(1, TASKS[task].steps + 1):
            problem.optimizer.zero_grad()
            loss = problem.loss(step)
            if not loss.isfinite():
                return math.nan, memory
            loss.backward()
            problem.optimizer.step()
    problem.model.eval()
    with torch.no_grad():
        return problem.judge(), memory


def seed_of(task: str, seed: int) -> tuple[Advice, list[Row]]:
    """Run a pilot, and then with each bound; a bound that the pilot does not give is left out."""
    torch.set_num_threads(1)
    loss, memory = trained(task, seed, TASKS[task].pilot_lr, None)
    norms = [record.total_norm for record in memory.records]
    found = Pilot(loss, [n for n in norms[WARMUP:] if math.isfinite(n)], advise(norms))
    rows = [Row(task, seed, "pilot", None, loss, 0.0, not math.isfinite(loss))]
    for name in BOUNDS:
        bound = CONSTANTS[name](found) if name in CONSTANTS else None
        if math.isnan(bound or 0.0) or (name in ADAPTIVE and "ceiling" in name and not found.advice.suggestions):
            continue
        policy = ADAPTIVE[name](found) if bound is None else FixedNorm(bound)
        final, memory = trained(task, seed, TASKS[task].lr, None if bound == math.inf else policy)
        clipped = fmean(record.clipped for record in memory.records)
        failed = not final <= MARGIN * loss
        rows.append(Row(task, seed, name, bound, final, clipped, failed))
    return found.advice, rows


def middle(rows: Sequence[Row]) -> float:
    """Return the median final loss; a run that was lost is above all others."""
    return median(math.inf if math.isnan(row.final_loss) else row.final_loss for row in rows)


def of(rows: Sequence[Row], task: str, bound: str) -> list[Row]:
    """Return the runs of a task with a bound."""
    return [row for row in rows if (row.task, row.bound) == (task, bound)]


def table(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Return a Markdown table: a line for each bound, the median loss of each task, and how many runs failed."""
    lines = [f"| bound | {' | '.join(tasks)} | failed |", f"|---|{'---|' * len(tasks)}---|"]
    for name in ("pilot", *BOUNDS):
        cells, failures, count = [], 0, 0
        for task in tasks:
            runs = of(rows, task, name)
            failed = sum(row.failed for row in runs)
            failures, count = failures + failed, count + len(runs)
            cells.append(f"{shown(middle(runs))}{f' ({failed} failed)' if failed else ''}" if runs else "refused")
        lines.append(f"| {name} | {' | '.join(cells)} | {failures} of {count} |")
    return "\n".join(lines)


def shown(loss: float) -> str:
    """Return a loss as a cell."""
    return f"{loss:.3g}" if math.isfinite(loss) else "lost"


def verdict(rows: Sequence[Row], task: str) -> str:
    """Return a line: who wins a task, and how the balanced threshold stands."""
    medians = {name: middle(of(rows, task, name)) for name in BOUNDS if of(rows, task, name)}
    winner = min(medians, key=lambda name: medians[name])
    if "balanced" not in medians:
        return f"{task}: {winner} wins; advice is refused."
    custom = min(medians["1.0"], medians["p90"])
    ratio = medians["balanced"] / custom
    alone = sum(
        all(row.failed for row in rows if (row.task, row.seed, row.bound) == (task, seed, "balanced"))
        and any(not row.failed for row in rows if (row.task, row.seed) == (task, seed) and row.bound in CONSTANTS)
        for seed in {row.seed for row in of(rows, task, "balanced")}
    )
    held = "holds" if ratio <= CLOSE and not alone else "does not hold"
    return (
        f"{task}: {winner} wins; balanced is {100.0 * (ratio - 1.0):+.1f} % against the better of 1.0 and p90, and "
        f"failed {alone} times where a constant did not: the goal {held}."
    )


def described() -> dict[str, Any]:
    """Describe the machine."""
    facts = machine()
    native = str(facts["native"]).partition(" (")[0]  # of an error, without the path in it
    return {**facts, "native": native, "cores": os.cpu_count() or 1, "threads": 1}


def plain(value: Any) -> Any:
    """Return what JSON can hold: None for what is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    """Run the seeds of all tasks, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"which tasks ({', '.join(TASKS)})")
    parser.add_argument("--seeds", type=int, default=5, help="how many (5)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="which seed to count from (0)")
    parser.add_argument("--processes", type=int, default=2, help="seeds at a time, of one thread each (2)")
    parser.add_argument("--out", type=Path, help="the JSON file (results/advice-MACHINE.json)")
    parser.add_argument("--unseen", action="store_true", help="the tasks by which nothing was chosen")
    options = parser.parse_args()
    if unknown := set(options.tasks) - set(TASKS):
        parser.error(f"no task {min(unknown)!r}; there are {', '.join(TASKS)}")
    tasks = options.tasks or list((advice_unseen if options.unseen else advice_tasks).TASKS)
    facts = described()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{facts['cpu']}-{facts['cores']}-cores".lower()).strip("-")

    start = time.perf_counter()
    rows: list[Row] = []
    advice: list[dict[str, Any]] = []
    # Spawned: a forked process inherits the locks of torch's threads.
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        for task in tasks:
            seeds = range(options.first, options.first + options.seeds)
            for seed, (given, found) in zip(seeds, pool.map(seed_of, repeat(task), seeds), strict=True):
                rows += found
                advice.append({"task": task, "seed": seed, **given.to_dict()})
                print(f"{task}, seed {seed}: {given.headline} {given.sure}", flush=True)
    print(f"\n{table(rows, tasks)}\n")
    print("\n".join(verdict(rows, task) for task in tasks))
    print(f"\n{time.perf_counter() - start:.0f} seconds on {facts['cores']} cores of {facts['cpu']}.")
    runs = [{name: plain(value) for name, value in asdict(row).items()} for row in rows]
    record = {"machine": facts, "settings": {"margin": MARGIN, "close": CLOSE}, "advice": advice, "runs": runs}
    out = options.out or RESULTS / f"advice-{'unseen-' if options.unseen else ''}{slug}.json"
    out.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
