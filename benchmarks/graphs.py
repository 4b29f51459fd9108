"""Whole training steps on a GPU that are captured in a CUDA graph, and compiled: clipped by torch, and by gradclip.

A captured step (forward, backward, clip, fused AdamW) is first held against eager ones, bit for bit; a compiled one,
clip and step by hand in one graph, to a part in 100,000. Then all take turns. *Wall time* is that of a step until all
is done, *CPU time* that until the host has launched it.

    python benchmarks/graphs.py --out benchmarks/results/h100/graphs.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

import gradclip
from gpu import DEVICE, spread
from gradclip.cli.bench.harness import in_turn
from gradclip.policies import FixedNorm, MedianClip, Policy, ZClip

BOUND = 1e-3
WARM, CHECKED = 5, 10

POLICIES: dict[str, Policy] = {
    "FixedNorm": FixedNorm(BOUND),
    "ZClip": ZClip(BOUND, warmup=2),
    "MedianClip": MedianClip(BOUND, window=16, warmup=2),
}


class Net:
    """A model with its batch and a fused optimizer, always of the same numbers."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(256, 256), nn.GELU()) for _ in range(24)]
        self.model = nn.Sequential(*layers).to(DEVICE)
        self.batch = torch.randn(64, 256, device=DEVICE)
        self.parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, fused=True, capturable=True)

    def step(self, clip: Callable[[], object]) -> None:
        """Take a step."""
        self.optimizer.zero_grad(set_to_none=False)
        self.model(self.batch).square().mean().backward()
        clip()
        self.optimizer.step()


def clips_of(net: Net) -> dict[str, Callable[[], object]]:
    """Return the ways to clip the gradients of a model."""
    found: dict[str, Callable[[], object]] = {
        "none": lambda: None,
        "torch": lambda: nn.utils.clip_grad_norm_(net.parameters, BOUND),
        "gradclip": lambda: gradclip.clip_grad_norm_(net.parameters, BOUND),
    }
    for name, policy in POLICIES.items():
        found[name] = gradclip.GradClipper(net.parameters, policy, nonfinite="propagate").clip
    return found


def captured(way: str) -> tuple[Net, Callable[[], object]]:
    """Return a model, and its step captured in a graph after a few outside of it."""
    net = Net()
    clip = clips_of(net)[way]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            net.step(clip)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        net.step(clip)
    graph.kept = net, clip  # type: ignore[attr-defined] -- it works on their memory, and keeps none
    return net, graph.replay


def check_replays(way: str) -> None:
    """Check that replays do what eager steps do.

    Raises:
        RuntimeError: If any bit differs.
    """
    eager, (net, replay) = Net(), captured(way)
    clip = clips_of(eager)[way]
    for _ in range(WARM):
        eager.step(clip)
    for _ in range(CHECKED):
        eager.step(clip)
        replay()
    if not all(torch.equal(a, b) for a, b in zip(eager.parameters, net.parameters, strict=True)):
        raise RuntimeError(f"{way}: replays differ from eager steps")


def compiled(clip: Callable[[list[Parameter], float], Tensor]) -> tuple[Net, Callable[[], object]]:
    """Return a model, and a clip with a step by hand in one compiled graph, after its gradients are made."""
    net = Net()

    @torch.compile(fullgraph=True)
    def finish(parameters: list[Parameter]) -> Tensor:
        norm = clip(parameters, BOUND)
        with torch.no_grad():
            for p in parameters:
                p.sub_(p.grad, alpha=0.1)
        return norm

    def step() -> None:
        net.optimizer.zero_grad(set_to_none=False)
        net.model(net.batch).square().mean().backward()
        finish(net.parameters)

    return net, step


def timed(steps: dict[str, Callable[[], object]], seconds: float) -> dict[str, dict[str, list[float]]]:
    """Return wall and CPU time of steps, taken in turns."""
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for name in in_turn(steps, seconds=seconds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        steps[name]()
        cpu[name].append(time.perf_counter() - start)
        torch.cuda.synchronize()
        wall[name].append(time.perf_counter() - start)
    return {name: {"wall_us": spread(wall[name]), "cpu_us": spread(cpu[name])} for name in steps}


def main() -> None:
    """Check, measure, print, and write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="for all steps of a kind, at least")
    parser.add_argument("--out", type=Path, help="the JSON file to write; a new one")
    given = parser.parse_args()
    if given.out is not None and given.out.exists():
        parser.error(f"{given.out} exists already: name another file")
    ways = ["none", "torch", "gradclip", *POLICIES]
    for way in ways:
        check_replays(way)
    of_torch, ours = compiled(nn.utils.clip_grad_norm_), compiled(gradclip.clip_grad_norm_)
    start = time.perf_counter()
    ours[1]()
    compile_s = round(time.perf_counter() - start, 2)
    of_torch[1]()
    for a, b in zip(ours[0].parameters, of_torch[0].parameters, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    found: dict[str, Any] = {
        "captured": timed({way: captured(way)[1] for way in ways}, given.seconds),
        "compiled": timed({"torch": of_torch[1], "gradclip": ours[1]}, given.seconds),
        "compile_s": compile_s,
    }
    for kind in ("captured", "compiled"):
        print(f"{kind} step{'wall us':>16}{'CPU us':>10}")
        for way, times in found[kind].items():
            print(f"  {way:<14}{times['wall_us'][0]:>10.1f}{times['cpu_us'][0]:>10.1f}")
    print(f"ours took {compile_s} s to compile")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
