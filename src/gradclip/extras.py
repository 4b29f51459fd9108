"""What is not installed, and how to install gradclip again, or more of it: no index has the package yet."""

from importlib.util import find_spec

SOURCE, WHERE = ".", "in a clone of gradclip"
"""What pip installs gradclip from, and where that is said."""


def missing(*packages: str) -> str | None:
    """Return the first of some packages that is not there; None where all are."""
    return next((package for package in packages if find_spec(package) is None), None)


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra, `"cli"` or `"report"`."""
    return f'pip install "{SOURCE}[{extra}]" {WHERE}'


def how_to_reinstall() -> str:
    """Return the command that installs gradclip again, and nothing else."""
    return f"pip install --force-reinstall --no-deps {SOURCE} {WHERE}"
