"""How to install gradclip again, or more of it: said in one place, as no index has the package yet."""

SOURCE, WHERE = ".", "in a clone of gradclip"
"""What pip installs gradclip from, and where that is said."""


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra, `"cli"` or `"report"`."""
    return f'pip install "{SOURCE}[{extra}]" {WHERE}'


def how_to_reinstall() -> str:
    """Return the command that installs gradclip again, and nothing else."""
    return f"pip install --force-reinstall --no-deps {SOURCE} {WHERE}"
