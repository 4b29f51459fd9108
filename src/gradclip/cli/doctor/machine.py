"""Versions, devices, threads and the environment."""

import importlib.metadata
import os
import platform
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import torch

import gradclip

FRAMEWORKS = (
    "numpy",
    "accelerate",
    "deepspeed",
    "lightning",
    "megatron-core",
    "pytorch-lightning",
    "tensorboard",
    "transformers",
    "trl",
)
"""Packages that clipping meets; they are asked for their versions, not imported."""

SETTINGS = ("GRADCLIP_", "OMP_", "KMP_", "GOMP_", "MKL_", "TRITON_", "TORCH_", "PYTORCH_", "CUDA_VISIBLE_DEVICES")
"""How the names of environment variables begin that change what happens here."""


def of_gradclip() -> str:
    """Return its version and where it is."""
    return f"{gradclip.__version__} in {Path(gradclip.__file__).parent}"


def of_torch() -> str:
    """Return the version of torch and for which accelerators it was built."""
    built = {"CUDA": torch.version.cuda, "ROCm": torch.version.hip, "XPU": getattr(torch.version, "xpu", None)}
    words = [f"{name} {version}" for name, version in built.items() if version] or ["no CUDA, ROCm or XPU"]
    ranks = torch.distributed
    groups = [x for x in ("gloo", "nccl", "mpi") if ranks.is_available() and getattr(ranks, f"is_{x}_available")()]
    return f"{torch.__version__}, built for {', '.join(words)}; process groups: {', '.join(groups) or 'none'}"


def of_python() -> str:
    """Return the version of Python."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def of_packages() -> str:
    """Return the versions of the frameworks that are installed."""
    return ", ".join(f"{name} {version}" for name in FRAMEWORKS if (version := _version(name))) or "none"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except PackageNotFoundError:
        return None


def of_machine() -> str:
    """Return the system and what its processors can do."""
    able = torch.backends.cpu.get_cpu_capability()
    return f"{platform.platform()}, {os.cpu_count()} CPUs, {able}"


def devices() -> str:
    """Name the accelerators that torch finds."""
    if not torch.accelerator.is_available() or (kind := torch.accelerator.current_accelerator()) is None:
        return "the CPU alone"
    return "; ".join(_device(kind.type, i) for i in range(torch.accelerator.device_count()))


def _device(kind: str, index: int) -> str:
    """Name a device, and say what it can do where its kind numbers that."""
    asked = torch.get_device_module(kind)
    words = [
        getattr(asked, name)(index) for name in ("get_device_name", "get_device_capability") if hasattr(asked, name)
    ]
    return " ".join([f"{kind}:{index}", *map(str, words)])


def threads() -> str:
    """Return how many threads torch works with."""
    return f"{torch.get_num_threads()} inside an operation of torch, {torch.get_num_interop_threads()} between them"


def openmp() -> str:
    """Name the OpenMP runtimes that are loaded: a second one is a second pool of threads, or a crash."""
    from threadpoolctl import threadpool_info  # noqa: PLC0415 -- an extra

    found = [x for x in threadpool_info() if x["user_api"] == "openmp"]
    return "; ".join(f"{x['filepath']}, threads: {x['num_threads']}" for x in found) or "none is loaded"


def environment() -> str:
    """Return the settings in the environment."""
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)}
    return ", ".join(f"{name}={value}" for name, value in found.items()) or "nothing is set"
