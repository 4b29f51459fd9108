"""Print what every policy makes of norms that training brings: normal ones, spikes, bursts, a rise and a decay.

Each policy is run with the repairs that gradclip makes to its paper, and as published. No policy has a ceiling
(`max_norm` is infinite), so that what is seen is the rule; fixed and smooth bounds are at the 90th percentile of calm
norms. `stress.py` draws the norms and says what the columns are.

Run: python benchmarks/synthetic.py
     python benchmarks/synthetic.py --json --seed 1 --policy ZClip --policy AdaGC
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from stress import Stress, stress

from gradclip.policies import (
    AdaGC,
    AutoClip,
    FixedNorm,
    FixedValue,
    MedianClip,
    Normalize,
    Policy,
    SmoothNorm,
    SpikeSkip,
    ZClip,
)

INF = math.inf
CALM_P90 = math.exp(0.1 * 1.2816)
"""The 90th percentile of norms whose logarithm has a standard deviation of 0.1."""

SLOWER = {"relative": 1.04, "beta": 0.99}
"""What the authors of AdaGC set in Paddle."""

POLICIES: list[tuple[str, Policy, Policy | None]] = [
    ("FixedNorm", FixedNorm(CALM_P90), None),
    ("FixedValue", FixedValue(CALM_P90), None),
    ("SmoothNorm", SmoothNorm(CALM_P90), None),
    ("Normalize", Normalize(), None),
    ("AutoClip 10", AutoClip(INF), AutoClip(INF, window=None)),
    ("AutoClip 90", AutoClip(INF, percentile=90), AutoClip(INF, percentile=90, window=None)),
    ("MedianClip", MedianClip(INF), None),
    ("ZClip", ZClip(INF), ZClip(INF, patience=INF)),
    ("AdaGC", AdaGC(INF), AdaGC(INF, patience=INF)),
    ("AdaGC 1.04/0.99", AdaGC(INF, **SLOWER), AdaGC(INF, **SLOWER, patience=INF)),
    ("SpikeSkip", SpikeSkip(INF), SpikeSkip(INF, learn_skipped=True, patience=INF)),
]
"""A name, the policy as gradclip has it, and as it was published, where that differs."""

COLUMNS = (
    ("% held", "sd 0.1"), ("% held", "sd 0.5"), ("100x", "spike"), ("10th", "in a row"), ("10th", "sd 0.5"),
    ("% held", "after 3x"), ("unlocks", "after"), ("10x after", "a decay"),
)  # fmt: skip


def rows(chosen: Sequence[str], seed: int) -> Iterator[tuple[str, str, Policy, Stress]]:
    """Put policies to the test: all whose name begins with one that is chosen."""
    for name, ours, published in POLICIES:
        if not chosen or name.startswith(tuple(chosen)):
            yield name, "gradclip", ours, stress(ours, seed=seed)
            if published is not None:
                yield name, "published", published, stress(published, seed=seed)


def shown(result: Stress) -> tuple[str, ...]:
    """Return the cells of a row."""
    return (
        f"{100 * result.held_calm:.1f}",
        f"{100 * result.held_noisy:.1f}",
        *(norm(x) for x in (result.spike, result.tenth_spike, result.tenth_spike_noisy)),
        f"{100 * result.held_after_rise:.1f}",
        "never" if result.unlock_steps is None else str(result.unlock_steps),
        norm(result.late_spike),
    )


def norm(after: float) -> str:
    """Return what a spike becomes."""
    return "skipped" if math.isnan(after) else f"{after:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object a row; null is skipped, or never")
    parser.add_argument("--seed", type=int, default=0, help="what the norms are drawn with")
    parser.add_argument("--policy", action="append", default=[], help="a name, or its beginning; may be repeated")
    given = parser.parse_args(arguments)
    if not given.json:
        print("Norms have median 1. Held: clipped or skipped. No ceilings: max_norm is inf.\n")
        for line in zip(*COLUMNS, strict=True):
            print(f"{'':27}" + "".join(f"{word:>11}" for word in line))
    for name, version, policy, result in rows(given.policy, given.seed):
        if given.json:
            figures = {key: None if value != value else value for key, value in asdict(result).items()}  # noqa: PLR0124
            row = {"name": name, "version": version, "policy": repr(policy), **figures}
            print(json.dumps(row), flush=True)
        else:
            print(f"{name:17}{version:10}" + "".join(f"{cell:>11}" for cell in shown(result)), flush=True)


if __name__ == "__main__":
    main()
