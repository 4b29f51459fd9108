"""What recording every step costs: a clip with a sink less the same clip without one, in microseconds.

In every round each clipper clips the same gradients once, in an order that rotates, and the difference to the clipper
without a sink is taken within the round. *cold*: 64 MiB are read and written before each clip, as a backward pass
would; *hot*: nothing is. The lines that were written are read back and counted.

    python benchmarks/records.py --seconds 20
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch

from gradclip import GradClipper
from gradclip.cli.bench.cases import load_shapes
from gradclip.cli.bench.harness import emptier, interleaved
from gradclip.policies import AdaGC, FixedNorm, Policy, ZClip
from gradclip.records import JSONLines, Memory, Sink, TensorBoard

EMPTY = emptier()

WARM = 300
"""Clips before the first that is timed: the adaptive policies are past their warm-up."""

KEPT = 1000
"""Records that stay in memory."""


def parameters_of(shapes: str) -> list[tuple[str, torch.nn.Parameter]]:
    """Return parameters of a model's shapes with gradients and names."""
    torch.manual_seed(0)
    named = [
        (f"blocks.{i}.weight", torch.nn.Parameter(torch.zeros(x))) for i, x in enumerate(load_shapes()[shapes].shapes)
    ]
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    return named


def differences(clips: dict[str, Callable[[], object]], seconds: float, *, cold: bool) -> dict[str, list[float]]:
    """Return how many microseconds longer each call takes than the first, in each round."""
    times = interleaved(clips, seconds=seconds, rounds=len(clips), before=lambda _: EMPTY() if cold else None)
    first, *others = clips
    return {first: times[first]} | {
        name: [own - alone for own, alone in zip(times[name], times[first], strict=True)] for name in others
    }


def compare(shapes: str, policy: Policy, folder: Path, seconds: float) -> None:
    """Print what each sink adds to the clips of a policy."""
    named = parameters_of(shapes)
    file = folder / f"{shapes}-{type(policy).__name__}.jsonl"
    nothing = SimpleNamespace(add_scalar=lambda *_: None)
    sinks: dict[str, list[Sink]] = {
        "no sink": [],
        "JSONLines": [JSONLines(file)],
        "Memory": [Memory(KEPT)],
        "TensorBoard of nothing": [TensorBoard(nothing)],
    }
    clippers = {name: GradClipper(named, policy, sinks=given) for name, given in sinks.items()}
    clippers["JSONLines, all norms"] = GradClipper(named, policy, norms_every=1, sinks=[JSONLines(file)])
    clips = {name: clipper.clip for name, clipper in clippers.items()}
    for clip in clips.values():
        for _ in range(WARM):
            clip()
    hot, cold = (differences(clips, seconds / 2, cold=cold) for cold in (False, True))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    if len(lines) != 2 * (WARM + len(hot["no sink"]) + len(cold["no sink"])):
        message = f"{file} has {len(lines)} lines"
        raise SystemExit(message)
    print(f"\n{shapes}, {len(named)} tensors, {type(policy).__name__}: median (p20 to p80) in microseconds")
    for name in clips:
        cells = []
        for times in (hot[name], cold[name]):
            low, _, _, high = statistics.quantiles(times, n=5)
            cells.append(f"{statistics.median(times):7.1f} ({low:.1f} to {high:.1f})")
        print(f"  {name:<24} hot {cells[0]:<28} cold {cells[1]}")


def main() -> None:
    """Measure, and print a table for each model and policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="for all together (20)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases: list[tuple[str, Policy]] = [("mlp", FixedNorm(1e9)), ("mlp", ZClip(1e9)), ("mlp", AdaGC(1e9))]
    cases.append(("lora", FixedNorm(1e9)))
    print("No sink: the clip itself. Others: what they add to it.")
    with tempfile.TemporaryDirectory() as folder:
        for shapes, policy in cases:
            compare(shapes, policy, Path(folder), options.seconds / len(cases))


if __name__ == "__main__":
    main()
