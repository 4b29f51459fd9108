"""What the decision of a policy costs: by kernels and by torch on a GPU, and by floats where the host knows the norm.

Answers are checked first. *CPU time* is that of the call, with an idle GPU; a decision is one step of a policy that has
seen 300, about the 148 parameters of GPT-2.

    python benchmarks/decisions.py                  # on a GPU
    python benchmarks/decisions.py --device cpu     # by floats alone, anywhere
    TRITON_INTERPRET=1 python benchmarks/decisions.py --device cpu --stand-in

*Unread* decisions keep what was learned where a step does not happen, of which only the device knows.

With `--stand-in`, the kernels are launched by a function that does nothing, in the place of the driver's: CPU time of
Python alone, and no answers.
"""

import argparse
import ctypes
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from gpu import launches_of, spread
from gradclip import numbers
from gradclip.cli.bench.cases import load_shapes
from gradclip.cli.bench.harness import in_turn
from gradclip.ops import registry
from gradclip.policies import (
    AGC,
    AdaGC,
    AutoClip,
    BlockRMS,
    Decision,
    FixedNorm,
    Layout,
    MedianClip,
    Normalize,
    Norms,
    Policy,
    SmoothNorm,
    SpikeSkip,
    ZClip,
    by_group,
    by_name,
    chain,
    history,
)
from gradclip.stages import Stage

POLICIES: dict[str, Policy] = {
    "FixedNorm": FixedNorm(1.0),
    "FixedNorm of each": FixedNorm(1.0, scope="parameter"),
    "BlockRMS": BlockRMS(0.1),
    "AGC": AGC(),
    "SmoothNorm": SmoothNorm(1.0),
    "Normalize": Normalize(),
    "AutoClip": AutoClip(2.0),
    "AutoClip of each": AutoClip(2.0, scope="parameter"),
    "MedianClip": MedianClip(2.0),
    "ZClip": ZClip(2.0),
    "AdaGC": AdaGC(2.0),
    "SpikeSkip": SpikeSkip(2.0),
    "chain": chain(ZClip(2.0), AdaGC(2.0)),
    "by_name": by_name({"*0*": ZClip(2.0)}, default=AdaGC(2.0)),
    "by_group": by_group([ZClip(2.0), MedianClip(2.0)]),
}

STEPS, SPIKE = 300, 50
"""How many steps, and which of them are spikes: each of so many."""


def layout_on(device: torch.device) -> Layout:
    """Return the layout of GPT-2, in two groups."""
    shapes = load_shapes()["gpt2-124M"].shapes
    groups = tuple(int(len(shape) > 1) for shape in shapes)
    units = tuple(shape[0] if len(shape) > 1 else 1 for shape in shapes)
    names = tuple(f"parameter.{i}" for i in range(len(shapes)))
    return Layout(names, tuple(map(math.prod, shapes)), units, groups, 2, device, tuple(map(len, shapes)))


def norms_of(layout: Layout, policy: Policy, scale: float, *, on_host: bool) -> Norms:
    """Return the norms of a step, those that the policy asks for."""
    units = torch.full((sum(layout.units),), scale / 50.0, dtype=torch.float64, device=layout.device)
    each = torch.full(
        (len(layout.names),), scale / math.sqrt(len(layout.names)), dtype=torch.float64, device=units.device
    )
    total: Any = scale if on_host else torch.full((), scale, dtype=torch.float64, device=units.device)
    needs_units, needs_each = policy.scope == "unit", policy.scope != "total"
    return Norms(
        layout, 2.0, total, each if needs_each else None, units if needs_units else None, units if needs_units else None
    )


def driven(policy: Policy, layout: Layout, way: str) -> tuple[Callable[[], Decision], list[Decision]]:
    """Return what decides about one more step, and what was decided so far."""
    stage = Stage(policy, layout)
    scales = torch.randn(STEPS, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(0.2).exp()
    scales[SPIKE - 1 :: SPIKE] *= 20.0
    steps = [norms_of(layout, policy, scale, on_host=way == "floats") for scale in scales.tolist()]

    def decide(norms: Norms) -> Decision:
        with registry.forced("reference") if way == "torch" else nullcontext():
            if way != "unread":
                return stage.decide(norms)
            more = (False, norms.total)  # no overflow, and any number of steps in a row
            found, stage.state, _ = stage.fused.decide_unread(norms, stage.state, *more, skips_nonfinite=True)
            return found

    decisions = [decide(norms) for norms in steps]
    rest = cycle(steps[-40:])
    return lambda: decide(next(rest)), decisions


@contextmanager
def stand_in() -> Iterator[None]:
    """Take numbers of the CPU to be on a device, whose driver launches nothing."""
    from gradclip.ops.triton import driver, fusing, lane, launch  # noqa: PLC0415

    nothing = ctypes.cast(ctypes.CDLL(None).labs, ctypes.c_void_p).value or 0  # of 0 it is 0, which is no error
    compiled = SimpleNamespace(get=lambda _: driver.Ready(0, 128, 0))
    own = lane.Lane(torch.device("cpu"), (0, 0))
    with (
        registry.forced("triton"),
        patch.object(launch, "_compiled", compiled),
        patch.object(driver, "found", lambda: driver.Driver(*[nothing] * 6)),
        patch.object(numbers, "is_host", lambda _: False),
        patch.object(history, "is_ready", lambda x: not isinstance(x, torch.Tensor)),
        patch.object(launch, "current_cuda_stream", lambda _: 0),
        patch.object(fusing, "lane_of", lambda _: own),
    ):
        yield


def alone(policy: Policy, way: str) -> float:
    """Return the CPU time of a decision in microseconds, where nothing is launched."""
    decide, _ = driven(policy, layout_on(torch.device("cpu")), way)
    times: list[float] = []
    for _ in range(STEPS):
        start = time.perf_counter()
        decide()
        times.append(time.perf_counter() - start)
    return spread(times)[0]


def check(name: str, ways: dict[str, list[Decision]]) -> None:
    """Check that all ways have decided alike.

    Raises:
        RuntimeError: If they have not.
    """
    first, *others = ways.values()
    for other in others:
        for ours, theirs in zip(first, other, strict=True):
            coefs = [torch.as_tensor(1.0 if x.skip else x.coef, dtype=torch.float64).cpu() for x in (ours, theirs)]
            if not torch.allclose(*coefs, rtol=1e-9, atol=0.0) or bool(ours.skip) != bool(theirs.skip):
                raise RuntimeError(f"{name}: {' and '.join(ways)} decide {coefs[0]} and {coefs[1]}")


def measure(name: str, device: torch.device, seconds: float) -> dict[str, Any]:
    """Return CPU times in microseconds, and launches, by the way to decide."""
    policy = POLICIES[name]
    on_device = ["kernels", "unread", "torch"] if device.type != "cpu" else []
    host = layout_on(torch.device("cpu"))
    ways = {way: driven(policy, replace(host, device=device), way) for way in on_device}
    ways["floats"] = driven(policy, host, "floats")
    check(name, {way: decisions for way, (_, decisions) in ways.items()})
    times: dict[str, list[float]] = {way: [] for way in ways}
    for way in in_turn(ways, seconds=seconds):
        if on_device:
            torch.cuda.synchronize()
        start = time.perf_counter()
        ways[way][0]()
        times[way].append(time.perf_counter() - start)
    launches = {way: launches_of(ways[way][0]) for way in on_device}
    return {"policy": name, "cpu_us": {way: spread(own) for way, own in times.items()}, "launches": launches}


def main() -> None:
    """Measure, print, and write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", type=torch.device, help="where the norms are")
    parser.add_argument("--stand-in", action="store_true", help="time Python alone, with a driver that does nothing")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each policy, at least")
    parser.add_argument("--out", type=Path, help="the JSON file to write; a new one")
    given = parser.parse_args()
    if given.out is not None and given.out.exists():
        parser.error(f"{given.out} exists already: name another file")
    if given.stand_in:
        for name, policy in POLICIES.items():
            with stand_in():
                print(f"{name:<20}{alone(policy, 'kernels'):>8.1f} us{alone(policy, 'unread'):>8.1f} us unread")
        return
    found = [measure(name, given.device, given.seconds) for name in POLICIES]
    print(f"{'policy':<20}{'CPU us: kernels, unread, torch, floats':>42}{'launches: kernels, unread, torch':>36}")
    for row in found:
        times = " ".join(f"{row['cpu_us'][way][0]:>8.1f}" for way in row["cpu_us"])
        print(f"{row['policy']:<20}{times:>42}{' '.join(map(str, row['launches'].values())):>36}")
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
