"""`gradclip doctor` says which backend answers, and why another one does not."""

import ast
import inspect
import os
import platform
import re
from contextvars import ContextVar
from pathlib import Path

import pytest
import torch

from gradclip import torch_private
from gradclip.cli import main
from gradclip.cli.doctor import machine, torch_names
from gradclip.cli.doctor.findings import FINDINGS
from gradclip.distributed import torch_private as spread
from gradclip.ops import registry


def diagnosis(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["doctor"]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_says_who_answers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend that dense CPU gradients go to, and the instruction set."""
    with registry.forced("reference"):
        monkeypatch.setenv("GRADCLIP_BACKEND", "reference")
        printed = diagnosis(capsys)
    assert "GRADCLIP_BACKEND reference" in printed
    assert "dense CPU gradients answered by reference" in printed
    if registry.NATIVE is not None:
        with registry.forced("native"):
            printed = diagnosis(capsys)
        assert f"available: C++ kernels for {registry.ISA}, which read tensors by {registry.READS}" in printed
        assert "dense CPU gradients answered by native" in printed


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("No module named 'gradclip.ops._native'", "installed without its compiled kernels. Install a C++ compiler"),
        (
            "libgomp.so.1: cannot open shared object file",
            "not available: libgomp.so.1: cannot open shared object file. Reinstall",
        ),
    ],
)
def test_explains_missing_kernels(
    missing: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reason comes with its way out."""
    monkeypatch.setattr(registry, "NATIVE", None)
    monkeypatch.setattr(registry, "NATIVE_MISSING", missing)
    printed = diagnosis(capsys)
    assert words in printed
    assert "einstall: pip install --force-reinstall --no-deps . in a clone of gradclip" in printed
    assert "answered by reference" in printed


def test_a_wish_that_cannot_be_met_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor works where everything else raises."""
    monkeypatch.setattr(registry, "FORCED", ContextVar("forced", default="cuda"))
    assert "must be 'native', 'triton' or 'reference', got 'cuda'" in diagnosis(capsys)


def test_says_how_kernels_for_gpus_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, by Triton's launcher or by the driver; or why they do not."""
    version = pytest.importorskip("triton").__version__
    assert f"available: Triton {version}, in its interpreter" in diagnosis(capsys)
    monkeypatch.setattr(registry, "is_interpreted", lambda: False)
    assert f"available: Triton {version}, kernels launched by Triton" in diagnosis(capsys)
    monkeypatch.setattr("gradclip.ops.triton.launch._compiled", {(): None})
    assert f"available: Triton {version}, kernels launched by Triton" in diagnosis(capsys)
    monkeypatch.setattr("gradclip.ops.triton.driver.found", object)
    assert "kernels launched by the driver" in diagnosis(capsys)
    monkeypatch.setattr(registry, "why_no_triton", lambda: "torch finds no GPU")
    printed = diagnosis(capsys)
    assert "triton not available: torch finds no GPU" in printed


def in_markdown(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(["doctor", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["|  | gradclip doctor |", "| --- | --- |"]
    rows = [re.split(r"(?<!\\)\|", line) for line in lines[2:]]
    assert {len(row) for row in rows} == {4}
    return {name.strip(): words.strip() for _, name, words, _ in rows}


def test_a_bug_report_has_all_in_markdown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One row a finding, whatever is in it; the folder of the user is not told."""
    monkeypatch.setenv("OMP_SCHEDULE", "a | b\nc")
    monkeypatch.setattr(Path, "home", lambda: Path(inspect.getfile(registry)).parents[2])
    found = in_markdown(capsys)
    assert list(found) == list(FINDINGS)
    assert found["gradclip"].endswith(" in ~/gradclip")
    assert found["torch"].startswith(torch.__version__)
    assert platform.python_version() in found["Python"]
    assert f"{os.cpu_count()} CPUs" in found["machine"]
    assert f"{torch.get_num_threads()} inside an operation" in found["threads"]
    assert r"OMP_SCHEDULE=a \| b c" in found["environment"]


@pytest.mark.parametrize("home", ["/", "", "{parent}/gra"])
def test_what_is_no_folder_of_the_user_is_told(
    home: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where it is the root in a container, or begins like another."""
    folder = Path(inspect.getfile(registry)).parents[1]
    monkeypatch.setattr(Path, "home", lambda: Path(home.format(parent=folder.parent)))
    assert in_markdown(capsys)["gradclip"].endswith(f" in {folder}")


def test_the_openmp_runtimes_of_the_process_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """That of torch, by its file; the kernels load no second one."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("nothing else says which libraries this process has loaded")
    torch.ones(1 << 16).sum()
    loaded = set(re.findall(r"/\S*lib(?:gomp|iomp|omp)\S*\.so\S*", maps.read_text()))
    words = in_markdown(capsys)["OpenMP"]
    assert loaded
    assert {str(Path(x).expanduser()) for x in re.findall(r"(\S+), threads: \d+", words)} == loaded


def test_accelerators_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name and by what they can do, where torch tells that of their kind."""
    if not torch.accelerator.is_available():
        assert machine.devices() == "the CPU alone"

    class Cuda:
        get_device_name = staticmethod(lambda index: f"Card {index}")
        get_device_capability = staticmethod(lambda index: (9, index))

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda _: Cuda)
    assert machine.devices() == "cuda:0 Card 0 (9, 0); cuda:1 Card 1 (9, 1)"


def test_what_fails_is_said_and_the_rest_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report is of most use where something is broken."""

    def broken() -> str:
        msg = "no driver"
        raise OSError(msg)

    monkeypatch.setitem(FINDINGS, "devices", broken)
    found = in_markdown(capsys)
    assert found["devices"] == "not known: OSError: no driver"
    assert found["native"]


def test_private_names_are_found_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are there in the torch that this is developed with; one that goes is named."""
    monkeypatch.setitem(torch_names.NAMES, "torch.Tensor", ("_version",))
    count = sum(map(len, torch_names.NAMES.values()))
    assert torch_names.verdict() == f"{count} of {count} found"
    monkeypatch.delattr(torch, "_foreach_norm")
    monkeypatch.setitem(torch_names.NAMES, "torch.gone.Away", ("_name",))
    expected = f"{count - 1} of {count + 1} found; missing: torch._foreach_norm, torch.gone.Away._name"
    assert torch_names.verdict() == expected


OF_OBJECTS = {
    "_all_handles",
    "_cuda_getCurrentRawStream",
    "_cuda_getDevice",
    "_fsdp_flattened",
    "_per_optimizer_states",
    "_scale",
    "_sharding_strategy",
    "_st_info",
    "_step_supports_amp_scaling",
}
"""What torch gives to objects as it goes, or has in builds for GPUs alone."""


def test_every_private_name_that_is_used_is_looked_for() -> None:
    """Those with a leading underscore that both files of that name read, and no others."""
    tree = ast.walk(ast.parse(inspect.getsource(torch_private) + inspect.getsource(spread)))
    words = {x.attr if isinstance(x, ast.Attribute) else getattr(x, "value", None) for x in tree}
    used = {x for x in words if isinstance(x, str) and re.fullmatch(r"_[A-Za-z]\w*", x)}
    places = {x for place in torch_names.NAMES for x in place.split(".")}
    names = {x for names in torch_names.NAMES.values() for x in names}
    assert used - OF_OBJECTS <= places | names
    assert {x for x in names if re.fullmatch(r"_[A-Za-z]\w*", x)} <= used
