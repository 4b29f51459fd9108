"""A wheel in the other versions of Python that are found here: installed, and as far into them as goes without torch.

Whether clipping works there is for a run of the whole check by that version, with a torch for it.
"""

import subprocess
import sys
from pathlib import Path

VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")

LOAD = """
import compileall, ctypes, glob, os, sys
(package,) = glob.glob(os.path.join(sys.prefix, "lib", "python*", "site-packages", "gradclip"))
assert compileall.compile_dir(package, quiet=1), "a module does not compile"
(kernels,) = glob.glob(os.path.join(package, "ops", "_native*.so"))
assert hasattr(ctypes.PyDLL(kernels, os.RTLD_NOW), "PyInit__native")
"""
"""Every module is in the language of that version, and the extension finds all its symbols there."""


def check_other_pythons(wheel: Path, folder: Path) -> None:
    """Install a wheel for each version that is found, and load what needs no torch."""
    for version in VERSIONS:
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            continue
        environment = folder / version
        if not _ran(f"python{version}", "-m", "venv", "--without-pip", environment):
            sys.stdout.write(f"Python {version}: not found here\n")
            continue
        python = environment / "bin" / "python"
        install = ("install", "--quiet", "--no-deps", "--no-compile", "--disable-pip-version-check", wheel)
        assert _ran(sys.executable, "-m", "pip", "--python", python, *install), f"{wheel.name} for Python {version}"
        assert _ran(python, "-c", LOAD), f"{wheel.name} in Python {version}"
        sys.stdout.write(f"Python {version}: installed, compiled and loaded; not run, for want of a torch for it\n")


def _ran(*command: str | Path) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0
