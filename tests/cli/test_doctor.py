"""`gradclip doctor` says which backend answers, and why another one does not."""

from contextvars import ContextVar

import pytest

from gradclip.cli import main
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
    assert "kernels launched by the driver" in diagnosis(capsys)
    monkeypatch.setattr(registry, "why_no_triton", lambda: "torch finds no GPU")
    printed = diagnosis(capsys)
    assert "triton not available: torch finds no GPU" in printed
