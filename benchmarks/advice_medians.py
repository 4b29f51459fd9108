"""Print what bounds of so many medians do beside one of two, seed by seed: the cap of advice, and where it comes from.

A pilot runs unclipped. Then the task is trained at the pilot's learning rate and at four times it, with each bound of
`BOUNDS`; all runs of a seed begin with the same weights and see the same batches. A cell has the median over seeds of
the final loss by that under two medians, with an interval of 95 % by resampling seeds, and how many runs failed: ended
not finite, or more than 10 % above the pilot.

    python benchmarks/advice_medians.py tabular factorisation "heavy noise" "summed loss"
"""

import argparse
import math
import time
from collections.abc import Callable
from statistics import median

import torch
from advice import MARGIN, TASKS, WARMUP, described, trained
from torch import Tensor

from gradclip.policies import FixedNorm

BOUNDS: dict[str, Callable[[Tensor], float]] = {
    "2 medians": lambda norms: 2.0 * norms.median().item(),
    "1.4 medians": lambda norms: 1.4 * norms.median().item(),
    "median": lambda norms: norms.median().item(),
    "half a median": lambda norms: 0.5 * norms.median().item(),
    "p90": lambda norms: norms.quantile(0.9).item(),
    "1.0": lambda _: 1.0,
}
"""Bounds by the norms of a pilot, the first of which all are held against."""

TIMES = (1.0, 4.0)
"""Learning rates, in those of the pilot."""

DRAWS = 1000
"""Resampled sets of seeds."""


def losses(task: str, seed: int) -> tuple[float, list[list[float]]]:
    """Return the final loss of the pilot, and those with each bound at each learning rate; infinite where lost."""
    rate = TASKS[task].pilot_lr
    pilot, memory = trained(task, seed, rate, None)
    norms = torch.tensor([record.total_norm for record in memory.records], dtype=torch.float64)[WARMUP:]
    norms = norms[norms.isfinite()]
    policies = [FixedNorm(bound(norms)) for bound in BOUNDS.values()]
    found = [[trained(task, seed, times * rate, policy)[0] for policy in policies] for times in TIMES]
    return pilot, [[math.inf if math.isnan(loss) else loss for loss in row] for row in found]


def cell(ratios: Tensor, failed: int) -> str:
    """Return the median ratio as per cent above 1, its interval, and how many runs failed."""
    drawn = torch.randint(len(ratios), (DRAWS, len(ratios)), generator=torch.Generator().manual_seed(0))
    ends = ratios[drawn].quantile(0.5, dim=1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    middle, low, high = (f"{100.0 * (x - 1.0):+.0f}" for x in (median(ratios.tolist()), *ends))
    return f"{middle} % ({low} to {high}), {failed} failed"


def main() -> None:
    """Train, and print a table for each learning rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK", choices=list(TASKS), help=", ".join(TASKS))
    parser.add_argument("--seeds", type=int, default=12, help="how many (12)")
    parser.add_argument("--first", type=int, default=100, metavar="SEED", help="which seed to count from (100)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    seeds = range(options.first, options.first + options.seeds)
    found = {task: [losses(task, seed) for seed in seeds] for task in options.tasks}
    for place, times in enumerate(TIMES):
        print(f"\nAt {times:g} x the pilot's learning rate:\n\n| bound | {' | '.join(found)} |")
        print(f"|---|{'---|' * len(found)}")
        for column, bound in enumerate(BOUNDS):
            cells = []
            for runs in found.values():
                ratios = torch.tensor([row[place][column] / row[place][0] for _, row in runs], dtype=torch.float64)
                failed = sum(not row[place][column] <= MARGIN * pilot for pilot, row in runs)
                cells.append(cell(ratios, failed))
            print(f"| {bound} | {' | '.join(cells)} |")
    facts = described()
    print(
        f"\n{options.seeds} seeds, {time.perf_counter() - start:.0f} seconds, {facts['cores']} cores of {facts['cpu']}."
    )


if __name__ == "__main__":
    main()
