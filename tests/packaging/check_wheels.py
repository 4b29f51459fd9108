"""Build the packages and use them as a stranger would: in a fresh environment, outside the checkout.

The source archive and the wheel that is made of it alone come out the same twice, byte for byte. With a compiler there
is one wheel for every CPython from 3.10 on, with kernels; without one, a pure Python wheel that does the same job in
plain torch, and says so. What a user writes is checked against the types of the wheel by mypy and pyright.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from pythons import check_other_pythons
from types_of_wheel import check_types

ROOT = Path(__file__).resolve().parents[2]

USE = """
import torch, gradclip
w = torch.nn.Parameter(torch.zeros(2))
w.grad = torch.tensor([3.0, 4.0])
print(gradclip.__file__, gradclip.clip_grad_norm_([w], 1.0).item(), w.grad.tolist())
"""

EPOCH = {"SOURCE_DATE_EPOCH": "1600000000"}
"""The time that files in the packages have: that of the last commit where they are released."""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command in a folder and return what it printed; what it said goes on if it fails."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("GRADCLIP", "PYTHON"))}
    done = subprocess.run(command, cwd=cwd, env=clean | environment, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Build the source archive of the checkout, and a wheel of what is in that; return both."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=ROOT, **EPOCH)
    (source,), (wheel,) = folder.glob("gradclip-*.tar.gz"), folder.glob("gradclip-*.whl")
    return source, wheel


def build_without_compiler(source: Path, folder: Path) -> Path:
    """Build a wheel where there is no compiler and return it."""
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*command, "--wheel-dir", folder, source, cwd=source.parent, CXX="/nonexistent/c++", **EPOCH)
    (wheel,) = folder.glob("gradclip-*.whl")
    return wheel


def check_use(python: Path, wheel: Path, backend: str, folder: Path) -> None:
    """Install a wheel over whatever is there, clip with it, and ask the doctor who answers."""
    run(python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", "--no-compile", wheel, cwd=folder)
    answer = run(python, "-c", USE, cwd=folder)
    assert str(folder / "venv") in answer, answer
    assert "5.0 [0.5999" in answer, answer
    diagnosis = run(python.with_name("gradclip"), "doctor", "--markdown", cwd=folder)
    assert f"answered by {backend}" in diagnosis, diagnosis
    assert ("installed without its compiled kernels" in diagnosis) == (backend == "reference"), diagnosis
    sys.stdout.write(f"{wheel.name}, {wheel.stat().st_size // 1024} KiB: {backend} answers in a fresh environment\n")


def main() -> None:
    """Check all packages."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, compiled = build(folder / "once")
        again = build(folder / "twice")
        assert [x.read_bytes() for x in again] == [source.read_bytes(), compiled.read_bytes()], "two builds differ"
        sys.stdout.write(f"{source.name}, {source.stat().st_size // 1024} KiB: two builds, the same bytes\n")
        pure = build_without_compiler(source, folder / "pure")
        assert "-cp310-abi3-" in compiled.name, compiled.name
        assert pure.name.endswith("-py3-none-any.whl"), pure.name
        run(Path(sys.executable).with_name("abi3audit"), "--strict", compiled, cwd=folder)

        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        limits = ("--constraint", ROOT / "constraints.txt")
        run(python, "-m", "pip", "install", "--quiet", "--no-compile", *limits, f"{compiled}[cli]", cwd=folder)
        check_use(python, compiled, "native", folder)
        check_types(python, folder)
        check_use(python, pure, "reference", folder)
        check_other_pythons(compiled, folder)


if __name__ == "__main__":
    main()
