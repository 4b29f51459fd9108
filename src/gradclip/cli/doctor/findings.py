"""All that the doctor finds, by name and in order."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from gradclip.cli.doctor import backends, machine, torch_names

FINDINGS: dict[str, Callable[[], str]] = {
    "gradclip": machine.of_gradclip,
    "torch": machine.of_torch,
    "Python": machine.of_python,
    "packages": machine.of_packages,
    "machine": machine.of_machine,
    "devices": machine.devices,
    "threads": machine.threads,
    "environment": machine.environment,
    "OpenMP": machine.openmp,  # after the environment, where what looks for runtimes leaves a setting
    "native": backends.native,
    "triton": backends.triton,
    "reference": lambda: "available: plain torch, on every device",
    "GRADCLIP_BACKEND": backends.wish,
    "dense CPU gradients": lambda: backends.answer("cpu"),
    "dense GPU gradients": lambda: backends.answer("cuda"),
    "other gradients": backends.answer_for_others,
    "private names of torch": torch_names.verdict,
}


def findings() -> Iterator[tuple[str, str]]:
    """Yield name and words of each; one that fails says how, so that the others are heard where something is broken."""
    home = _home()
    hidden = re.compile(rf"{re.escape(str(home))}(?![\w-]|\.\w)") if len(home.parts) > 1 else None
    for name, find in FINDINGS.items():
        try:
            words = find()
        except Exception as error:  # noqa: BLE001 -- what is broken here is what the report is about
            words = f"not known: {type(error).__name__}: {error}"
        yield name, words if hidden is None else hidden.sub("~", words)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # of a user that has none
        return Path()
