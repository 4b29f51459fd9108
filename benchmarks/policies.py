"""Train the demo's network with every policy, ours and as published, and print what survives: a Markdown table.

A policy survives where the validation loss of every seed is below 2.3 bits per character, and partly where it is at
least below 3 ("slower"): the network learns, but less. Guessing has a loss of 6.7.

Run: python benchmarks/policies.py
"""

import argparse
import json
import math
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from gradclip.cli.demo.text import load
from gradclip.cli.demo.training import Run
from gradclip.cli.presets import BY_NAME

UNCLIPPED = "without clipping"

VERDICTS = {2.3: "yes", 3.0: "slower"}
"""By the bound, in bits per character, that the validation loss of every run is below; "no" where none is."""


@dataclass(frozen=True)
class Row:
    """What came of a run; numbers that are not finite stay so.

    Attributes:
        policy: The name of its preset.
        seed: Its seed.
        training_bits: The mean loss of the last steps.
        validation_bits: The loss on text that it never saw.
        largest_norm: The largest total norm before clipping.
        clipped: The share of steps that were clipped.
        skipped: The number of steps that were skipped.
        ended: Why it ended early; empty where it did not.
    """

    policy: str
    seed: int
    training_bits: float
    validation_bits: float
    largest_norm: float
    clipped: float
    skipped: int
    ended: str


def train(job: tuple[str, int], *, max_norm: float, lr: float, steps: int) -> Row:
    """Train with the policy and the seed of a job."""
    torch.set_num_threads(1)
    name, seed = job
    policy = None if name == UNCLIPPED else BY_NAME[name].policy(max_norm)
    run = Run(name, policy, load(None), seed)
    for _ in run.train(steps=steps, lr=lr):
        pass
    return Row(
        name,
        seed,
        run.training_bits,
        run.validation_bits,
        run.largest_norm,
        fmean(clip.clipped for clip in run.clips),
        sum(clip.skipped for clip in run.clips),
        run.ended,
    )


def shown(values: Sequence[float], form: str) -> str:
    """Return numbers of several seeds as one cell."""
    return " / ".join(format(value, form) if math.isfinite(value) else "not finite" for value in values)


def line(rows: Sequence[Row]) -> str:
    """Return the line of the table for the runs of one policy."""
    worst = max(math.inf if math.isnan(row.validation_bits) else row.validation_bits for row in rows)
    survived = next((verdict for bound, verdict in VERDICTS.items() if worst < bound), "no")
    skipped = "/".join(f"{row.skipped}{', stopped' if row.ended else ''}" for row in rows)
    cells = (
        rows[0].policy,
        shown([row.training_bits for row in rows], ".2f"),
        shown([row.validation_bits for row in rows], ".2f"),
        shown([row.largest_norm for row in rows], ".3g"),
        shown([100 * row.clipped for row in rows], ".0f"),
        skipped,
        survived,
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train all, and print a line as soon as the seeds of a policy are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (UNCLIPPED, *BY_NAME)
    parser.add_argument("policies", nargs="*", metavar="NAME", help="which to train (all)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, counted from 0 (3)")
    parser.add_argument("--steps", type=int, default=400, help="training steps of each run (400)")
    parser.add_argument("--lr", type=float, default=2.0, help="learning rate (2.0)")
    parser.add_argument("--max-norm", type=float, default=1.0, help="bound or ceiling of the policies (1.0)")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, of one thread each (2)")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    options = parser.parse_args()
    if unknown := set(options.policies) - set(names):
        parser.error(f"no policy {min(unknown)!r}; there are {', '.join(names)}")

    jobs = [(name, seed) for name in options.policies or names for seed in range(options.seeds)]
    work = partial(train, max_norm=options.max_norm, lr=options.lr, steps=options.steps)
    print("| policy | training bits | validation bits | largest norm | % clipped | skipped | survived |")
    print("|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    # Spawned: a forked process inherits the locks of torch's threads.
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(work, jobs):
            rows.append(row)
            if row.seed == options.seeds - 1:
                print(line(rows[-options.seeds :]), flush=True)
    if options.json is not None:
        settings = {"max_norm": options.max_norm, "lr": options.lr, "steps": options.steps, "torch": torch.__version__}
        record = {"settings": settings, "runs": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
