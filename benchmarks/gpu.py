"""What clipping costs on a GPU: torch and gradclip side by side, in plain torch and compiled too, and in real steps.

Answers are checked first. In every round each provider is called once, in an order that rotates, after 256 MiB of the
GPU were written. *GPU time* is that of the work itself: calls are queued behind a kernel that waits, so that none is
late. *CPU time* is that of the call, with the caches of the CPU emptied before; *wall time* that until all is done.

    python benchmarks/gpu.py --out benchmarks/results/h100/clip.json
"""

import argparse
import importlib.util
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import Parameter

import gradclip
from gradclip.cli.bench.cases import load_shapes
from gradclip.cli.bench.harness import in_turn
from gradclip.ops import registry

DEVICE = torch.device("cuda")
FLUSH_GPU, FLUSH_CPU = 2**28, 2**26
"""Bytes that are written between calls: more than the caches hold."""

SLEEP_CYCLES_PER_US = 2000
"""Cycles of a GPU in a microsecond, at most: how long the kernel in front of a call has to wait for its launches."""

Clip: TypeAlias = Callable[[list[Parameter], float], Tensor]


def llama() -> list[tuple[int, ...]]:
    """Return 45 tensors of 1.2e9 elements, as of a few layers of a large language model."""
    layer: list[tuple[int, ...]] = [(4096, 4096)] * 4 + [(11008, 4096)] * 3 + [(4096,)] * 2
    return [(32000, 4096), (32000, 4096), (4096,), *(shape for _ in range(4) for shape in layer), *[(4096, 4096)] * 6]


def shapes_by_name() -> dict[str, list[tuple[int, ...]]]:
    """Return what is clipped: the models of the bench, a large one, and one of very many small tensors."""
    found = {name: [tuple(shape) for shape in shapes.shapes] for name, shapes in load_shapes().items()}
    return {**found, "llama-like": llama(), "20,000 of 64": [(64,)] * 20_000}


def compiled(function: Clip) -> Clip:
    """Return a function inside `torch.compile`."""

    def clip(parameters: list[Parameter], max_norm: float) -> Tensor:
        return function(parameters, max_norm)

    return torch.compile(clip, dynamic=False, fullgraph=True)


def in_plain_torch(parameters: list[Parameter], max_norm: float) -> Tensor:
    """Clip as where there is no Triton."""
    with registry.forced("reference"):
        return gradclip.clip_grad_norm_(parameters, max_norm)


class Case(NamedTuple):
    """One table of times: GPU, CPU and wall, in microseconds, as median, p20 and p80; and how a call works."""

    shapes: str
    dtype: str
    clipping: bool
    provider: str
    tensors: int
    bytes: int
    gpu_us: list[float]
    cpu_us: list[float]
    wall_us: list[float]
    share_of_sum: float
    launches: int
    waits: bool


def gradients_of(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Parameter]:
    """Return parameters with gradients, drawn once."""
    found: list[Parameter] = []
    for shape in shapes:
        parameter = Parameter(torch.empty(shape, dtype=dtype, device=DEVICE))
        parameter.grad = torch.randn(shape, dtype=torch.float32, device=DEVICE).to(dtype)
        found.append(parameter)
    return found


def norm_of(parameters: list[Parameter]) -> float:
    """Return the norm in float64."""
    squares = [p.grad.double().square().sum() for p in parameters if p.grad is not None]
    return math.sqrt(float(torch.stack(squares).sum()))


def check(name: str, clip: Clip, parameters: list[Parameter], dtype: torch.dtype) -> None:
    """Check the norm that a provider returns, and what it leaves.

    Raises:
        RuntimeError: If either is wrong.
    """
    truth = norm_of(parameters)
    before = [p.grad.clone() for p in parameters if p.grad is not None]
    # torch's own answers in bfloat16 are that far off; ours are held to what float32 can say.
    close = 2e-2 if dtype == torch.bfloat16 and "torch" in name else 1e-5 if "torch" in name else 1e-6
    said = float(clip(parameters, truth / 2.0))
    left = norm_of(parameters)
    for parameter, old in zip(parameters, before, strict=True):
        parameter.grad = old
    rounding = 2e-2 if dtype == torch.bfloat16 else 1e-5
    if abs(said / truth - 1.0) > close or abs(left / truth - 0.5) > rounding:
        raise RuntimeError(f"{name} says {said} for {truth}, and leaves {left}")


def spread(times: list[float]) -> list[float]:
    """Return median, p20 and p80 in microseconds."""
    ordered = sorted(times)
    at = [ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.2, 0.8)]
    return [round(x * 1e6, 1) for x in (statistics.median(ordered), *at)]


class Clock:
    """Takes the times of calls."""

    def __init__(self) -> None:
        self._gpu = torch.empty(FLUSH_GPU // 4, device=DEVICE)
        self._cpu = torch.empty(FLUSH_CPU // 4)

    def gpu(self, call: Callable[[], object], cpu_s: float) -> float:
        """Return the time on the GPU, where launching takes the CPU so long."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        self._gpu.fill_(1.0)
        torch.cuda._sleep(int((cpu_s * 1.5e6 + 200.0) * SLEEP_CYCLES_PER_US))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    def cpu_and_wall(self, call: Callable[[], object]) -> tuple[float, float]:
        """Return the time of the call, and that until all is done."""
        self._gpu.fill_(1.0)
        self._cpu.add_(1.0)
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        called = time.perf_counter()
        torch.cuda.synchronize()
        return called - start, time.perf_counter() - start


def launches_of(call: Callable[[], object]) -> int:
    """Return how many kernels a call launches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    there = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum("emcpy" not in name and "emset" not in name for name in there)


def waits(call: Callable[[], object]) -> bool:
    """Whether a call waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def grow(parameters: list[Parameter], *, clipping: bool) -> None:
    """Bring gradients above the bound again, which the last call left them at."""
    if clipping:
        torch._foreach_mul_([p.grad for p in parameters], 1.01)


def measure(name: str, dtype: torch.dtype, providers: dict[str, Clip], clock: Clock, seconds: float) -> list[Case]:
    """Time all providers on the gradients of one model, clipping and not."""
    parameters = gradients_of(shapes_by_name()[name], dtype)
    size = sum(p.numel() * p.element_size() for p in parameters)
    flat = torch.empty(size // dtype.itemsize, dtype=dtype, device=DEVICE).normal_()
    for provider, clip in providers.items():
        check(provider, clip, parameters, dtype)
    found: list[Case] = []
    for clipping in (False, True):
        bound = 1e-3 if clipping else 1e9

        def clipped(clip: Clip, bound: float = bound) -> Callable[[], object]:
            return lambda: clip(parameters, bound)

        calls = {provider: clipped(clip) for provider, clip in providers.items()}
        for call in calls.values():
            call()
        cpu: dict[str, list[float]] = {provider: [] for provider in calls}
        wall: dict[str, list[float]] = {provider: [] for provider in calls}
        gpu: dict[str, list[float]] = {provider: [] for provider in calls}
        sums: list[float] = []
        for provider in in_turn([*calls, "sum"], seconds=seconds):
            if provider == "sum":
                sums.append(clock.gpu(flat.sum, cpu_s=1e-4))
                continue
            grow(parameters, clipping=clipping)
            own, whole = clock.cpu_and_wall(calls[provider])
            cpu[provider].append(own)
            wall[provider].append(whole)
            grow(parameters, clipping=clipping)
            gpu[provider].append(clock.gpu(calls[provider], own))
        reading = statistics.median(sums)
        for provider, call in calls.items():
            times = spread(gpu[provider])
            found.append(
                Case(
                    name,
                    str(dtype).removeprefix("torch."),
                    clipping,
                    provider,
                    len(parameters),
                    size,
                    times,
                    spread(cpu[provider]),
                    spread(wall[provider]),
                    round(reading * 1e6 / times[0], 3),
                    launches_of(call),
                    waits(call),
                )
            )
    return found


# Real steps.


class LoRA(nn.Module):
    """224 frozen layers, each with two small matrices that are trained."""

    def __init__(self, width: int = 1024, layers: int = 224, rank: int = 8) -> None:
        super().__init__()
        self.frozen = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        for layer in self.frozen:
            layer.requires_grad_(requires_grad=False)
        self.a = nn.ParameterList(torch.randn(rank, width) * 0.01 for _ in range(layers))
        self.b = nn.ParameterList(torch.zeros(width, rank) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Add what each layer makes of its input."""
        for layer, a, b in zip(self.frozen, self.a, self.b, strict=True):
            x = x + torch.tanh(layer(x) + (x @ a.t()) @ b.t()) * 0.01
        return x


def square(model: nn.Module, x: Tensor) -> Tensor:
    """Return a loss of whatever a model returns."""
    return model(x).float().square().mean()


def models() -> dict[str, tuple[nn.Module, Tensor, Callable[[Any, Tensor], Tensor]]]:
    """Return models with a batch and a loss; those of libraries that are not installed are left out."""
    layers = [nn.Sequential(nn.Linear(256, 256), nn.GELU()) for _ in range(24)]
    found: dict[str, Any] = {
        "MLP, 24 layers": (nn.Sequential(*layers), torch.randn(64, 256), square),
        "448 LoRA tensors": (LoRA(), torch.randn(256, 1024), square),
    }
    if importlib.util.find_spec("transformers"):
        from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415

        for batch in ((8, 1024), (1, 128)):
            tokens = torch.randint(0, 50257, batch)
            name = f"GPT-2 124M, {batch[0]} x {batch[1]}"
            found[name] = (GPT2LMHeadModel(GPT2Config()), tokens, lambda model, x: model(x, labels=x).loss)
    if importlib.util.find_spec("torchvision"):
        from torchvision.models import resnet50  # noqa: PLC0415

        found["ResNet-50, 64 images"] = (resnet50(), torch.randn(64, 3, 224, 224), square)
    return found


class Step(NamedTuple):
    """What clipping adds to a training step: milliseconds of wall time, and CPU microseconds of the call."""

    model: str
    fused: bool
    clipping: bool
    without_ms: float
    torch_adds_ms: float
    gradclip_adds_ms: float
    torch_cpu_us: float
    gradclip_cpu_us: float


def real_steps(seconds: float) -> list[Step]:
    """Train with and without clipping, the ways in turn; steps without are timed twice, which tells the noise."""
    found: list[Step] = []
    for name, (model, batch, loss_of) in models().items():
        net, x = model.to(DEVICE), batch.to(DEVICE)
        parameters = [p for p in net.parameters() if p.requires_grad]
        for fused in (True, False):
            optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=fused)
            timed = partial(one_step, name, net, x, loss_of, parameters, optimizer, seconds, fused=fused)
            found += [timed(clipping=clipping) for clipping in (True, False)]
        del net, x, parameters
        torch.cuda.empty_cache()
    return found


def one_step(
    name: str,
    net: nn.Module,
    x: Tensor,
    loss_of: Callable[[Any, Tensor], Tensor],
    parameters: list[Parameter],
    optimizer: torch.optim.Optimizer,
    seconds: float,
    *,
    clipping: bool,
    fused: bool,
) -> Step:
    """Time the steps of one model with one optimizer."""
    clips: dict[str, Clip | None] = {
        "none": None,
        "torch": nn.utils.clip_grad_norm_,
        "gradclip": gradclip.clip_grad_norm_,
        "none again": None,
    }
    bound = 1e-3 if clipping else 1e9
    cpu: dict[str, list[float]] = {key: [] for key in clips}
    wall: dict[str, list[float]] = {key: [] for key in clips}

    def step(key: str) -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(net, x)
        loss.backward()
        if (clip := clips[key]) is not None:
            start = time.perf_counter()
            clip(parameters, bound)
            cpu[key].append(time.perf_counter() - start)
        optimizer.step()

    for key in clips:
        step(key)
        step(key)
    for key in in_turn(clips, seconds=seconds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(3):
            step(key)
        torch.cuda.synchronize()
        wall[key].append((time.perf_counter() - start) / 3)
    medians = {key: statistics.median(times) * 1e3 for key, times in wall.items()}
    without = (medians["none"] + medians["none again"]) / 2.0
    called = {key: round(statistics.median(cpu[key]) * 1e6, 1) for key in ("torch", "gradclip")}
    adds = {key: round(medians[key] - without, 3) for key in called}
    return Step(
        name, fused, clipping, round(without, 3), adds["torch"], adds["gradclip"], called["torch"], called["gradclip"]
    )


# Showing.


WIDTHS = "{:<14}{:<10}{:<7}{:>18}{:>18}{:>8}{:>8}{:>8}{:>10}{:>7}{:>9}"


def table_of(cases: list[Case]) -> str:
    """Return the ratios to torch: how many times less time ours takes; the last is that of plain torch, on the GPU."""
    by = {(case.shapes, case.dtype, case.clipping, case.provider): case for case in cases}
    head = (
        "shapes",
        "dtype",
        "clips",
        "torch GPU/CPU us",
        "ours GPU/CPU us",
        "GPU x",
        "CPU x",
        "of sum",
        "launches",
        "waits",
        "plain x",
    )
    lines = [WIDTHS.format(*head)]
    for (shapes, dtype, clipping, provider), ours in by.items():
        if provider != "gradclip":
            continue
        theirs, plain = (by[shapes, dtype, clipping, way] for way in ("torch", "gradclip without kernels"))
        row = (
            shapes,
            dtype,
            "yes" if clipping else "no",
            f"{theirs.gpu_us[0]:.0f} / {theirs.cpu_us[0]:.0f}",
            f"{ours.gpu_us[0]:.0f} / {ours.cpu_us[0]:.0f}",
            f"{theirs.gpu_us[0] / ours.gpu_us[0]:.2f}",
            f"{theirs.cpu_us[0] / ours.cpu_us[0]:.2f}",
            f"{ours.share_of_sum:.2f}",
            str(ours.launches),
            "yes" if ours.waits else "no",
            f"{theirs.gpu_us[0] / plain.gpu_us[0]:.2f}",
        )
        lines.append(WIDTHS.format(*row))
    return "\n".join(lines)


def steps_table(steps: list[Step]) -> str:
    """Return what clipping adds to training steps."""
    lines = [f"{'step':<24}{'fused':<7}{'clips':<7}{'without ms':>11}{'torch adds':>12}{'ours adds':>11}{'CPU us':>18}"]
    lines += [
        f"{x.model:<24}{'yes' if x.fused else 'no':<7}{'yes' if x.clipping else 'no':<7}{x.without_ms:>11.2f}"
        f"{x.torch_adds_ms:>12.3f}{x.gradclip_adds_ms:>11.3f}{f'{x.torch_cpu_us:.0f} / {x.gradclip_cpu_us:.0f}':>18}"
        for x in steps
    ]
    return "\n".join(lines)


def first_clips() -> dict[str, float]:
    """Return how many seconds the first clip of this process takes, and the second: what compiling costs."""
    parameters = gradients_of([(64, 64)], torch.float32)
    times: list[float] = []
    for _ in range(2):
        start = time.perf_counter()
        gradclip.clip_grad_norm_(parameters, 1e-3)
        torch.cuda.synchronize()
        times.append(round(time.perf_counter() - start, 4))
    return {"first_s": times[0], "second_s": times[1]}


def main() -> None:
    """Measure, print, and write one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the JSON file to write; a new one")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each model, dtype and way, at least")
    parser.add_argument("--only", help="one model by its name")
    parser.add_argument("--compiled", action="store_true", help="both inside torch.compile too, for resnet50")
    parser.add_argument("--no-steps", action="store_true", help="leave out the training steps")
    given = parser.parse_args()
    if given.out is not None and given.out.exists():
        parser.error(f"{given.out} exists already: name another file")
    first = first_clips()
    clock = Clock()
    providers: dict[str, Clip] = {"torch": nn.utils.clip_grad_norm_, "gradclip": gradclip.clip_grad_norm_}
    every = {**providers, "gradclip without kernels": in_plain_torch}
    cases: list[Case] = []
    for name in shapes_by_name():
        for dtype in (torch.float32, torch.bfloat16):
            if given.only in {None, name}:
                in_graphs = {f"{of} compiled": compiled(clip) for of, clip in providers.items()}
                ways = {**every, **in_graphs} if given.compiled and name == "resnet50" else every
                cases += measure(name, dtype, ways, clock, given.seconds)
                torch.cuda.empty_cache()
    print(table_of(cases))
    steps = [] if given.no_steps else real_steps(given.seconds)
    print("\n" + steps_table(steps))
    print(f"\nfirst clip of the process {first['first_s']} s, second {first['second_s']} s")
    if given.out is not None:
        import triton  # noqa: PLC0415

        about = {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        given.out.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "about": about,
            "first_clip": first,
            "cases": [case._asdict() for case in cases],
            "steps": [step._asdict() for step in steps],
        }
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
