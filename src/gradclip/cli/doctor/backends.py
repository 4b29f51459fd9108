"""Who answers for which gradients here, and why another backend does not."""

import os

from gradclip.exceptions import BackendUnavailableError
from gradclip.extras import how_to_reinstall
from gradclip.ops import registry


def wish() -> str:
    """Return the backend that the environment asks for."""
    return os.environ.get("GRADCLIP_BACKEND", "") or "not set"


def answer(device: str) -> str:
    """Say who answers for dense gradients on a type of device."""
    try:
        registry.check_forced()
    except BackendUnavailableError as error:
        return f"none: {error}"
    kernels = registry.KERNELS[device]()
    return f"answered by {'reference' if kernels is None else kernels.name}"


def answer_for_others() -> str:
    """Say who answers for gradients that no kernel takes."""
    words = answer("cpu")
    return words if words.startswith("none") else "answered by reference"


def triton() -> str:
    """Say whether the kernels for GPUs run, and how they are launched; else the reason."""
    if why := registry.why_no_triton():
        return f"not available: {why}"
    import triton  # noqa: PLC0415 -- it may be missing

    from gradclip.ops.triton.launch import is_by_driver  # noqa: PLC0415

    if registry.is_interpreted():
        return f"available: Triton {triton.__version__}, in its interpreter, on the CPU"
    way = "the driver" if is_by_driver() else "Triton"
    return f"available: Triton {triton.__version__}, kernels launched by {way}"


def native() -> str:
    """Say whether the kernels for the CPU run, and else the reason and the way out."""
    if registry.NATIVE is not None:
        return f"available: C++ kernels for {registry.ISA}, which read tensors by {registry.READS}"
    if "_native" in registry.NATIVE_MISSING:
        return (
            "not available: gradclip was installed without its compiled kernels. "
            f"Install a C++ compiler (such as g++), then reinstall: {how_to_reinstall()}"
        )
    return f"not available: {registry.NATIVE_MISSING}. Reinstall: {how_to_reinstall()}"
