"""A clip inside `torch.compile`: seconds to compile it, and microseconds a call, of torch's and of gradclip's.

Answers are checked first. The compiler is warmed up by another function before, and starts with an empty cache. In
every round each provider is called once, in an order that rotates, after 64 MiB were written.

    python benchmarks/compiled.py --device cpu
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

import gradclip
from gradclip.cli.bench.cases import load_shapes
from gradclip.cli.bench.harness import interleaved

Clip = Callable[[list[Parameter]], Tensor]

MAX_NORM = 1.0
FLUSH = 2**26


def main() -> None:
    """Compile, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where the gradients are")
    parser.add_argument(
        "--shapes", default="resnet50", choices=sorted(load_shapes()), help="the model that they are of"
    )
    parser.add_argument("--rounds", type=int, default=30, help="calls of each provider")
    given = parser.parse_args()
    torch.manual_seed(0)
    parameters = [Parameter(torch.zeros(shape, device=given.device)) for shape in load_shapes()[given.shapes].shapes]
    gradients = [torch.randn_like(p) for p in parameters]
    flush = torch.empty(FLUSH, dtype=torch.uint8, device=given.device)
    providers: dict[str, Clip] = {
        "torch": lambda own: nn.utils.clip_grad_norm_(own, MAX_NORM),
        "gradclip": lambda own: gradclip.clip_grad_norm_(own, MAX_NORM),
    }

    def prepare(_: str = "") -> None:
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient.clone()
        flush.fill_(1)
        wait(given.device)

    def call(clip: Clip) -> Tensor:
        norm = clip(parameters)
        wait(given.device)
        return norm

    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        torch.compile(lambda x: x.sin() + 1.0)(gradients[-1])
        compiling = {}
        for name, clip in list(providers.items()):
            whole: Any = torch.compile(clip, fullgraph=True, dynamic=False)
            prepare()
            start = time.perf_counter()
            norm = call(whole)
            compiling[name] = time.perf_counter() - start
            expected = torch.cat([x.double().flatten() for x in gradients]).norm()
            close = 1e-6 if name == "gradclip" else 1e-4  # a sum in float32 is that far off
            torch.testing.assert_close(norm.double(), expected, rtol=close, atol=0.0)
            providers[f"{name} compiled"] = whole
        calls = {name: partial(call, clip) for name, clip in providers.items()}
        times = interleaved(calls, rounds=given.rounds, before=prepare)
    print(f"{given.shapes}, {len(parameters)} tensors, on {given.device}; torch {torch.__version__}")
    print("| clip | seconds to compile | us a call |\n|---|---|---|")
    for name, own in times.items():
        seconds = compiling.get(name.removesuffix(" compiled")) if name.endswith(" compiled") else None
        print(f"| {name} | {'' if seconds is None else f'{seconds:.1f}'} | {statistics.median(own):.0f} |")


def wait(device: str) -> None:
    """Wait until a device has done what it was given."""
    if device != "cpu":
        torch.get_device_module(device).synchronize()


if __name__ == "__main__":
    main()
