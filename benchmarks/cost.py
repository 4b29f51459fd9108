"""What a `GradClipper` costs beyond the function that it is built on, policy by policy; and AGC beside timm's.

Every round calls each of them once, in an order that rotates. *cold*: 64 MiB are read and written before each call, as
a backward pass would; *hot*: nothing is. The answers are checked first.

    python benchmarks/cost.py --seconds 20
"""

import argparse
import importlib.metadata
import importlib.util
import math
import statistics
from collections.abc import Callable
from typing import TypeAlias

import torch

import gradclip
from gradclip.cli.bench.cases import load_shapes
from gradclip.cli.bench.harness import emptier, interleaved
from gradclip.policies import AGC, AdaGC, AutoClip, FixedNorm, MedianClip, Policy, SpikeSkip, ZClip

EMPTY = emptier()
LARGE = 10_000_000
"""Elements of a model that is too large for a copy for each policy."""

WARM = 300
"""Calls before the first that is timed: the adaptive policies are past their warm-up."""


Call: TypeAlias = tuple[Callable[[], object], Callable[[], object]]
"""What is timed, and what comes after it."""


def step_of(parameters: list[torch.nn.Parameter]) -> Callable[[], None]:
    """Return what comes between two clips: a step that changes nothing, and gradients made anew.

    A large model, which all policies share, keeps its gradients.
    """
    if sum(p.numel() for p in parameters) > LARGE:
        return lambda: None
    optimizer = torch.optim.SGD(parameters, lr=0.0)

    def step() -> None:
        optimizer.step()
        for p in parameters:
            p.grad = None if p.grad is None else p.grad.clone()

    return step


def parameters_of(name: str) -> list[torch.nn.Parameter]:
    """Return parameters of a model's shapes with gradients, both normally distributed."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in load_shapes()[name].shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return parameters


def medians(calls: dict[str, Call], seconds: float, *, cold: bool) -> dict[str, float]:
    """Return the median time of each call in microseconds, all called in turn."""
    times = interleaved(
        {name: clip for name, (clip, _) in calls.items()},
        seconds=seconds,
        rounds=len(calls),
        before=lambda _: EMPTY() if cold else None,
        after=lambda name: calls[name][1](),
    )
    return {name: statistics.median(values) for name, values in times.items()}


def policies(max_norm: float) -> list[Policy]:
    """Return what is timed: none of them clips gradients that stay the same below `max_norm`."""
    adaptive = [ZClip(max_norm), MedianClip(max_norm), AutoClip(max_norm, percentile=90.0), SpikeSkip(max_norm)]
    return [FixedNorm(max_norm), *adaptive, AutoClip(max_norm, percentile=90.0, scope="parameter"), AdaGC(max_norm)]


def compare_policies(shapes: str, seconds: float) -> None:
    """Print the time of each policy less that of `clip_grad_norm_`, each followed by a step, which is not timed."""
    shared = parameters_of(shapes)
    norm = gradclip.get_total_norm([p.grad for p in shared if p.grad is not None]).item()
    calls: dict[str, Call] = {
        "clip_grad_norm_": (lambda: gradclip.clip_grad_norm_(shared, 2.0 * norm), step_of(shared)),
    }
    for policy in policies(2.0 * norm):
        parameters = parameters_of(shapes) if shapes == "mlp" else shared
        clipper, step = gradclip.GradClipper(parameters, policy), step_of(parameters)
        for _ in range(WARM if shapes == "mlp" else 2):
            result = clipper.clip()
            step()
        if not math.isclose(result.total_norm, norm, rel_tol=1e-6) or result.clipped:
            message = f"{policy!r} answers {result!r}, and the norm is {norm}"
            raise SystemExit(message)
        scope = " per parameter" if policy.scope == "parameter" else ""
        calls[type(policy).__name__ + scope] = clipper.clip, step
    hot = medians(calls, seconds / 2, cold=False)
    cold = medians(calls, seconds / 2, cold=True)
    print(
        f"\n{shapes}: microseconds more than clip_grad_norm_ ({cold['clip_grad_norm_']:.0f} cold, "
        f"{hot['clip_grad_norm_']:.0f} hot)"
    )
    for name in list(calls)[1:]:
        more = [times[name] - times["clip_grad_norm_"] for times in (cold, hot)]
        print(f"  {name:<24} {more[0]:>7.1f} cold {more[1]:>7.1f} hot")


def compare_agc(seconds: float) -> None:
    """Print the time of AGC on ResNet-50 beside that of timm's, both clipping the same gradients."""
    adaptive_clip_grad = timm_agc()
    if adaptive_clip_grad is None:
        print("\nAGC: timm is not installed (pip install --no-deps timm==1.0.31)")
        return
    ours, theirs = parameters_of("resnet50"), parameters_of("resnet50")
    originals = [p.grad.clone() for p in ours if p.grad is not None]
    clipper = gradclip.GradClipper(ours, AGC())

    def restore() -> None:
        for own, other, original in zip(ours, theirs, originals, strict=True):
            for p in (own, other):
                if p.grad is not None:
                    p.grad.copy_(original)

    clipper.clip()
    adaptive_clip_grad(theirs)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.grad, other.grad)
    for clipping in (True, False):
        for original in originals:
            original.mul_(1.0 if clipping else 1e-4)
        both = {"timm": lambda: adaptive_clip_grad(theirs), "gradclip": clipper.clip}
        times = interleaved(both, seconds=seconds / 2, before=lambda _: (restore(), EMPTY()))
        timm, own = (statistics.median(times[name]) / 1e3 for name in ("timm", "gradclip"))
        what = "every unit clipped" if clipping else "none clipped"
        print(f"\nAGC on resnet50, {what}: timm {timm:.1f} ms, gradclip {own:.1f} ms, ratio {timm / own:.1f}")


def timm_agc() -> Callable[[list[torch.nn.Parameter]], None] | None:
    """Return timm's function from its file: the package itself asks for torchvision."""
    try:
        path = importlib.metadata.distribution("timm").locate_file("timm/utils/agc.py")
    except importlib.metadata.PackageNotFoundError:
        return None
    spec = importlib.util.spec_from_file_location("timm_agc", str(path))
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.adaptive_clip_grad


def main() -> None:
    """Run what the options ask for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=20.0, help="for each of the three parts")
    options.add_argument("--threads", type=int, default=2)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{torch.__version__}, {given.threads} threads, {gradclip.ops.registry.ISA or 'plain torch'}")
    for shapes in ("mlp", "gpt2-124M"):
        compare_policies(shapes, given.seconds)
    compare_agc(given.seconds)


if __name__ == "__main__":
    main()
