"""Build both wheels and use them as a stranger would: in a fresh environment, outside the checkout.

Code of a user is checked there by mypy and pyright too, in their strict modes, against the types of the wheel.

With a compiler there is one wheel for every CPython from 3.10 on, with kernels; without one there is a pure Python
wheel that does the same job in plain torch, and says so.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

USE = """
import torch, gradclip
w = torch.nn.Parameter(torch.zeros(2))
w.grad = torch.tensor([3.0, 4.0])
print(gradclip.__file__, gradclip.clip_grad_norm_([w], 1.0).item(), w.grad.tolist())
"""


def build(folder: Path, **environment: str) -> Path:
    """Build a wheel of the checkout into a folder and return it."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    settings = f"--config-settings=build-dir={folder / 'build'}"  # nothing left from a build that had a compiler
    subprocess.run([*command, settings, "--wheel-dir", folder, ROOT], env=os.environ | environment, check=True)
    (wheel,) = folder.glob("gradclip-*.whl")
    return wheel


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command in a folder and return what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GRADCLIP")} | environment
    return subprocess.run(command, cwd=cwd, env=clean, check=True, capture_output=True, text=True).stdout


def check_types(python: Path, folder: Path) -> None:
    """Check what a user writes against the package that is installed where a Python is."""
    shutil.copy(ROOT / "tests" / "packaging" / "user_code.py", folder)
    strict = {
        "typeCheckingMode": "strict",
        "reportUnnecessaryTypeIgnoreComment": True,
        "enableTypeIgnoreComments": False,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(strict), "utf-8")
    tools = Path(sys.executable).parent
    for command in (
        (tools / "mypy", "--strict", "--python-executable", python, "user_code.py"),
        (tools / "pyright", "--pythonpath", python, "user_code.py"),
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command[0].name}: {done.stdout}{done.stderr}"
        sys.stdout.write(f"{command[0].name}: {done.stdout.splitlines()[-1]}\n")


def main() -> None:
    """Check both wheels."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compiled = build(folder / "compiled")
        pure = build(folder / "pure", CXX="/nonexistent/c++")
        assert "-cp310-abi3-" in compiled.name, compiled.name
        assert pure.name.endswith("-py3-none-any.whl"), pure.name

        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        pip = (python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
        for wheel, backend in ((compiled, "native"), (pure, "reference")):
            run(*pip, f"{wheel}[cli]", cwd=folder)
            run(*pip, "--force-reinstall", "--no-deps", wheel, cwd=folder)
            answer = run(python, "-c", USE, cwd=folder)
            assert str(folder / "venv") in answer, answer
            assert "5.0 [0.5999" in answer, answer
            diagnosis = " ".join(run(python.with_name("gradclip"), "doctor", cwd=folder).split())
            assert f"answered by {backend}" in diagnosis, diagnosis
            assert ("installed without its compiled kernels" in diagnosis) == (backend == "reference"), diagnosis
            if backend == "native":
                check_types(python, folder)
            sys.stdout.write(f"{wheel.name}: {backend} answers in a fresh environment\n")


if __name__ == "__main__":
    main()
