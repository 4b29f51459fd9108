"""Say which backend answers on this machine, and why another one does not."""

import os
import platform

from gradclip.extras import how_to_reinstall


def doctor() -> None:
    """Say which backend answers here, and why."""
    import rich.table  # noqa: PLC0415 -- not needed for --help
    import torch  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    import gradclip  # noqa: PLC0415

    table = rich.table.Table.grid(padding=(0, 2))
    for name, value in _findings(torch.__version__, gradclip.__version__):
        table.add_row(name, value)
    Console(soft_wrap=True).print(table, markup=False, highlight=False)


def _findings(torch_version: str, gradclip_version: str) -> list[tuple[str, str]]:
    import torch  # noqa: PLC0415

    from gradclip.exceptions import BackendUnavailableError  # noqa: PLC0415
    from gradclip.ops import registry  # noqa: PLC0415

    wish = os.environ.get("GRADCLIP_BACKEND", "")
    try:
        registry.check_forced()
    except BackendUnavailableError as error:
        answers = dict.fromkeys(("cpu", "cuda"), f"none: {error}")
    else:
        answers = {device: _answer(device) for device in ("cpu", "cuda")}
    return [
        ("gradclip", f"{gradclip_version}, torch {torch_version}, Python {platform.python_version()}"),
        ("machine", f"{platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} torch threads"),
        ("native", _native()),
        ("triton", _triton()),
        ("reference", "available: plain torch, on every device"),
        ("GRADCLIP_BACKEND", wish or "not set"),
        ("dense CPU gradients", answers["cpu"]),
        ("dense GPU gradients", answers["cuda"]),
        ("other gradients", answers["cpu"] if answers["cpu"].startswith("none") else "answered by reference"),
    ]


def _answer(device: str) -> str:
    from gradclip.ops import registry  # noqa: PLC0415

    kernels = registry.KERNELS[device]()
    return f"answered by {'reference' if kernels is None else kernels.name}"


def _triton() -> str:
    """Say whether the kernels for GPUs run, and how they are launched; else the reason."""
    from gradclip.ops import registry  # noqa: PLC0415

    if why := registry.why_no_triton():
        return f"not available: {why}"
    import triton  # noqa: PLC0415

    from gradclip.ops.triton.launch import is_by_driver  # noqa: PLC0415

    if registry.is_interpreted():
        return f"available: Triton {triton.__version__}, in its interpreter, on the CPU"
    way = "the driver" if is_by_driver() else "Triton"
    return f"available: Triton {triton.__version__}, kernels launched by {way}"


def _native() -> str:
    """Say whether the kernels run, and else the reason and the way out."""
    from gradclip.ops import registry  # noqa: PLC0415

    if registry.NATIVE is not None:
        return f"available: C++ kernels for {registry.ISA}, which read tensors by {registry.READS}"
    if "_native" in registry.NATIVE_MISSING:
        return (
            "not available: gradclip was installed without its compiled kernels. "
            f"Install a C++ compiler (such as g++), then reinstall: {how_to_reinstall()}"
        )
    return f"not available: {registry.NATIVE_MISSING}. Reinstall: {how_to_reinstall()}"
